"""Messages in streams: nothing of their text is lost to a reader that comes back, and nothing is told twice."""

import pytest

from langgraph_rq.producer.gateway.langgraph_api.messages import Messages, Repeats
from tests.langgraph_api.servers import serving
from tests.langgraph_api.test_runs import HI


def piece(text, id_="m", **more):
    return {"type": "AIMessageChunk", "id": id_, "content": text, "tool_call_chunks": [], **more}


def call(args, name=None, index=0):
    return piece("", tool_call_chunks=[{"index": index, "name": name, "args": args, "id": name}])


def told(*pieces):
    """What a client has of the messages that it is told: (attempt, piece)."""
    repeats, texts, args = Repeats(), {}, {}
    for attempt, one in pieces:
        if (new := repeats.take(one, attempt)) is not None:
            texts[one["id"]] = texts.get(one["id"], "") + new["content"]
            for chunk in new["tool_call_chunks"]:
                args[chunk["index"]] = args.get(chunk["index"], "") + chunk["args"]
    return texts, args


def test_answer_that_is_repeated_after_a_crash_is_told_once():
    once = [(1, piece("alpha ")), (1, piece("beta"))]
    assert told(*once, (2, piece("alpha beta")), (2, piece(" gamma"))) == ({"m": "alpha beta gamma"}, {})
    assert told(*once, (2, piece("al")), (3, piece("alpha be")), (3, piece("ta!"))) == ({"m": "alpha beta!"}, {})


def test_answer_under_another_id_is_told_as_a_whole():
    assert told((1, piece("alp")), (2, piece("alpha", "n")))[0] == {"m": "alp", "n": "alpha"}


def test_arguments_of_tool_calls_are_told_once():
    pieces = [(1, call('{"a":', "f")), (1, call(" 1")), (2, call('{"a": 1}', "f")), (2, call("{}", "g", 1))]
    assert told(*pieces)[1] == {0: '{"a": 1}', 1: "{}"}


def test_joined_message_goes_on_where_the_earlier_attempt_ended():
    repeats, messages = Repeats(), Messages()
    heard = []
    for attempt, one in [(1, piece("alpha")), (2, piece("alpha beta"))]:
        new = repeats.take(one, attempt)
        heard += [data[0]["content"] for name, data in messages.take(new, {}) if name == "messages/partial"]
    assert heard == ["alpha", "alpha beta"]


@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
async def test_reader_that_comes_back_after_any_event_hears_the_rest_as_it_was(redis_url, redis_client, mode):
    async with serving(redis_url, redis_client) as sdk:
        thread = (await sdk.threads.create())["thread_id"]
        heard = [part async for part in sdk.runs.stream(thread, "chat", input=HI, stream_mode=mode)]
        (run,) = await sdk.runs.list(thread)
        places = {part.id: at for at, part in reversed([*enumerate(heard)])}  # one without an id has that before it
        assert len(places) > 5
        for place, at in places.items():
            rest = sdk.runs.join_stream(thread, run["run_id"], last_event_id=place)
            assert [(part.event, part.data) async for part in rest] == [
                (part.event, part.data) for part in heard[at + 1 :]
            ]
