"""Faults of the offline model server, and its latency."""

import json

import httpx
import openai
import pytest

from langgraph_rq.worker.dev.offline_model.process import OfflineLLMError
from tests.offline_model import KEY, ask, body_of, post, say, until_idle


def seconds_of(call):
    return call["ended_monotonic_s"] - call["started_monotonic_s"]


@pytest.mark.parametrize(
    ("fault", "kind", "status", "code"),
    [
        ("429", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("quota", openai.RateLimitError, 429, "insufficient_quota"),
        ("500", openai.InternalServerError, 500, None),
        ("502", openai.InternalServerError, 502, None),
        ("503", openai.InternalServerError, 503, None),
        ("529", openai.InternalServerError, 529, None),
        ("401", openai.AuthenticationError, 401, "invalid_api_key"),
        ("context_length", openai.BadRequestError, 400, "context_length_exceeded"),
        ("content_filter", openai.BadRequestError, 400, "content_filter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_header_brings_an_error_reply(client, server, fault, kind, status, code, stream):
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(**body_of(), stream=stream, extra_headers={"x-fault": fault})
    assert (caught.value.status_code, caught.value.code) == (status, code)
    (call,) = server.admin.calls()
    assert (call["fault"], call["status"], call["billed"], call["outcome"]) == (fault, status, False, "completed")


def test_retry_after_is_sent_in_whole_seconds_and_in_milliseconds(server):
    reply = post(server, json=body_of(), fault="429; retry_after=1.5")
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("2", "1500")


async def test_hang_lasts_until_the_client_leaves(client, server):
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(**body_of(), extra_headers={"x-fault": "hang"})
    (call,) = until_idle(server)
    assert (call["outcome"], call["status"], call["billed"]) == ("hung", None, False)
    assert call["ended_monotonic_s"] - call["started_monotonic_s"] > 0.1


def test_cut_stream_breaks_in_the_middle_and_is_billed_to_there(server):
    pieces = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream(
            "POST", f"{server.url}/chat/completions", json=body_of(stream=True), headers={**KEY, "x-fault": "cut"}
        ) as reply,
    ):
        pieces.extend(reply.iter_lines())
    whole = post(server, json=body_of()).json()
    cut, good = until_idle(server)
    assert (cut["outcome"], cut["status"]) == ("cut", 200)
    assert 0 < cut["output_tokens"] < good["output_tokens"] == whole["usage"]["completion_tokens"]


def test_cut_body_is_shorter_than_it_says(server):
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        post(server, json=body_of(), fault="cut")


@pytest.mark.parametrize("stream", [False, True])
def test_malformed_body_is_a_success_that_is_not_json(server, stream):
    reply = post(server, json=body_of(stream=stream), fault="malformed")
    assert reply.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.text.removeprefix("data: "))


def test_reset_connection_is_reset(server):
    with pytest.raises(httpx.ReadError) as caught:
        post(server, json=body_of(), fault="reset")
    assert "reset" in str(caught.value)
    assert until_idle(server)[0]["outcome"] == "cut"


def test_embeddings_fail_on_command_too(server):
    reply = post(server, "embeddings", json={"model": "m", "input": "x"}, fault="500")
    assert reply.status_code == 500


def statuses(server, *questions, model="gpt-4o"):
    bodies = [{**body_of(question), "model": model} for question in questions]
    return [post(server, json=body).status_code for body in bodies]


def test_rule_applies_as_often_as_it_says(server):
    server.admin.set_faults([{"fault": "500", "times": 2}])
    assert statuses(server, "a", "b", "c") == [500, 500, 200]
    assert [rule["hits"] for rule in server.admin.faults()] == [2]


def test_rule_applies_to_its_model_and_its_prompts_only(server):
    server.admin.set_faults([{"fault": "503", "model": "gpt-4o", "match": "boom"}])
    assert statuses(server, "boom", "calm") == [503, 200]
    assert statuses(server, "boom", model="gpt-4o-mini") == [200]


def test_first_rule_that_applies_decides(server):
    server.admin.set_faults([{"fault": "500", "times": 1}, {"fault": "529"}])
    assert statuses(server, "a", "b") == [500, 529]


def test_same_seed_fails_the_same_calls(server):
    rule = {"fault": "500", "probability": 0.5, "seed": 7}
    server.admin.set_faults([rule])
    first = statuses(server, *"abcdefghij")
    server.admin.set_faults([rule])
    assert statuses(server, *"abcdefghij") == first
    assert set(first) == {200, 500}


def test_clear_takes_the_rules_away(server):
    server.admin.set_faults([{"fault": "500"}])
    server.admin.clear()
    assert statuses(server, "a") == [200]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"fault": "hangs"}, "did you mean hang?"),
        ({"fault": "500", "time": 3}, "did you mean times?"),
        ({"fault": "500", "times": "3"}, "expected times to be a number"),
        ({"fault": "500", "probability": 2}, "expected probability to be at most 1"),
        ({"fault": "latency"}, "expected latency_s"),
        ({"fault": "hang", "retry_after_s": 1}, "expected retry_after_s only with"),
        ({"times": 3}, "expected a rule to be an object with a fault"),
    ],
)
def test_wrong_rule_is_refused_with_what_was_expected(server, rule, message):
    with pytest.raises(OfflineLLMError) as caught:
        server.admin.set_faults([rule])
    assert message in str(caught.value)


@pytest.mark.parametrize("header", ["nonsense", "429; after=2", "429; retry_after=soon"])
def test_wrong_fault_header_is_a_bad_request(server, header):
    reply = post(server, json=body_of(), fault=header)
    assert reply.status_code == 400
    assert "x-fault" in reply.json()["error"]["message"]


async def test_every_answer_waits_the_latency(client, server):
    server.admin.set_latency(0.2)
    await say(client, "Why?")
    assert seconds_of(server.admin.calls()[0]) == pytest.approx(0.2, abs=0.1)


async def test_stream_spreads_the_latency_over_its_words(client, server):
    server.admin.set_latency(0.2)
    stream = await client.chat.completions.create(**body_of(), stream=True)
    await anext(stream)
    assert server.admin.stats()["in_flight"] == 1  # the first words came before the last
    await stream.close()
    assert until_idle(server)[0]["outcome"] == "left"


async def test_one_call_is_slowed_on_command(client, server):
    await ask(client, "Why?", extra_headers={"x-fault": "latency; latency=0.2"})
    await ask(client, "Why?")
    slow, fast = map(seconds_of, server.admin.calls())
    assert fast < 0.1 < slow


async def test_client_that_leaves_early_is_billed_and_recorded_as_left(client, server):
    server.admin.set_latency(60)
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(**body_of())
    (call,) = until_idle(server)
    assert (call["outcome"], call["status"], call["billed"]) == ("left", None, True)
    assert seconds_of(call) < 30


@pytest.mark.parametrize("latency_s", [-1, "1"])
def test_wrong_latency_is_refused(server, latency_s):
    with pytest.raises(OfflineLLMError, match="expected latency_s"):
        server.admin.set_latency(latency_s)


def test_rate_limit_lets_so_many_calls_of_a_second_pass(server):
    server.admin.set_faults([{"fault": "429", "beyond_per_s": 2, "retry_after_s": 1}])
    for _ in range(10):
        post(server, json=body_of())
    calls = until_idle(server)
    seconds = {int(call[instant]) for call in calls for instant in ("started_monotonic_s", "ended_monotonic_s")}
    assert 2 <= sum(call["fault"] is None for call in calls) <= 2 * len(seconds)
    assert {call["fault"] for call in calls} == {None, "429"}
