"""Pieces of a message are put together as LangChain adds its chunks."""

from functools import reduce
from operator import add

import pytest
from langchain_core.messages import AIMessageChunk

from langgraph_rq.producer.gateway.langgraph_api.pieces import join

SHOWN = (
    "content",
    "tool_calls",
    "invalid_tool_calls",
    "usage_metadata",
    "response_metadata",
    "additional_kwargs",
    "id",
)


def piece(content="", **more) -> AIMessageChunk:
    return AIMessageChunk(content=content, id="ai", **more)


def call(args=None, name=None, id_=None, index=0) -> AIMessageChunk:
    return piece(tool_call_chunks=[{"name": name, "args": args, "id": id_, "index": index, "type": "tool_call_chunk"}])


def usage(input_tokens, output_tokens, cached=0) -> AIMessageChunk:
    return piece(
        usage_metadata={
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "input_token_details": {"cache_read": cached},
        }
    )


def part(index, **fields) -> AIMessageChunk:
    return piece([{"index": index, **fields}])


CASES = {
    "text": [piece("al"), piece(""), piece("pha")],
    "a call": [call("", "look", "c1"), call('{"q": '), call('"green '), call('tea"}'), piece("done")],
    "two calls": [call("{}", "a", "c1"), call('{"x"', "b", "c2", 1), call(': ["y', index=1), call('"]}', index=1)],
    "no JSON": [call("", "look", "c1"), call("green tea")],
    "a list": [call("[1, 2", "look", "c1")],
    "tokens": [usage(10, 1, 4), piece("x"), usage(10, 1, 4), usage(0, 5)],
    "parts": [
        part(0, type="text", text="al"),
        part(0, type="text", text="pha"),
        part(1, type="reasoning", reasoning="h"),
    ],
    "parts with a signature": [
        part(0, type="thinking", thinking="hm"),
        part(0, thinking=" so"),
        part(0, signature="s1"),
        part(1, type="tool_use", id="t1", name="look", input=""),
        part(1, type="input_json_delta", partial_json='{"q"'),
    ],
    "parts without index": [piece([{"type": "text", "text": "a"}]), piece([{"type": "text", "text": "b"}]), piece("c")],
    "text before parts": [piece("a"), part(0, type="text", text="b"), piece("")],
    "metadata": [
        piece("a", response_metadata={"model_name": "m", "created": 1}),
        piece("b", response_metadata={"finish_reason": "stop", "created": 2}, additional_kwargs={"refusal": None}),
        piece("c", additional_kwargs={"refusal": "no", "function_call": {"arguments": "{"}}),
        piece("d", additional_kwargs={"function_call": {"arguments": "}"}}),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_message_is_at_every_piece_what_langchain_makes_of_it(name):
    pieces = CASES[name]
    joined = [pieces[0].model_dump()]
    for one in pieces[1:]:
        joined.append(join(joined[-1], one.model_dump()))
    for n, found in enumerate(joined, start=1):
        whole = reduce(add, pieces[:n]).model_dump()
        assert {key: found[key] for key in SHOWN} == {key: whole[key] for key in SHOWN}


def test_arguments_that_are_not_finished_are_read_as_far_as_they_are():
    begun = join(call("", "look", "c1").model_dump(), call('{"query": "green te').model_dump())
    assert begun["tool_calls"] == [{"name": "look", "args": {"query": "green te"}, "id": "c1", "type": "tool_call"}]
