"""The call log of the offline model server."""

import hashlib
import json

import httpx
import openai
import pytest

from langgraph_rq.worker.dev.offline_model.call_log import CallLog
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.offline_model import ask, body_of, post


async def test_call_is_recorded_with_its_tokens_and_the_hash_of_its_prompt(client, server):
    usage = (await client.chat.completions.create(**body_of())).usage
    (call,) = server.admin.calls()
    assert call["prompt"] == "Why?"
    assert call["prompt_sha256"] == hashlib.sha256(b"Why?").hexdigest()
    assert (call["model"], call["path"], call["stream"]) == ("gpt-4o", "/v1/chat/completions", False)
    assert (call["input_tokens"], call["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert call["started_at"] <= call["ended_at"]


async def test_headers_that_name_the_task_are_kept_and_keys_are_not(client, server):
    await ask(client, "Why?", extra_headers={"X-Task-Id": "t1", "X-Request-Id": "r1", "traceparent": "00-1-2-01"})
    (call,) = server.admin.calls()
    assert call["headers"] == {"x-task-id": "t1", "x-request-id": "r1", "traceparent": "00-1-2-01"}
    assert "secret-key" not in json.dumps(call)


async def test_calls_are_listed_from_a_sequence_number_on(client, server):
    for _ in range(3):
        await ask(client, "Why?")
    first, *rest = server.admin.calls()
    assert server.admin.calls(since=first["seq"]) == rest
    assert [call["seq"] for call in rest] == [first["seq"] + 1, first["seq"] + 2]


def test_refused_request_is_a_call_too(server):
    post(server, content=b"{")
    assert [call["status"] for call in server.admin.calls()] == [400]


async def test_stats_count_calls_and_billed_tokens_by_model(client, server):
    usage = (await client.chat.completions.create(**body_of())).usage
    with pytest.raises(openai.InternalServerError):
        await ask(client, "Why?", extra_headers={"x-fault": "500"})
    stats = server.admin.stats()
    assert (stats["calls"], stats["in_flight"], stats["max_in_flight"]) == (2, 0, 1)
    assert stats["input_tokens"] == {"gpt-4o": usage.prompt_tokens}
    assert stats["output_tokens"] == {"gpt-4o": usage.completion_tokens}


def test_log_says_when_calls_no_longer_fit_into_memory():
    log = CallLog(capacity=2)
    for _ in range(3):
        log.end(log.accept("/v1/x", "m", "p", 1, stream=False, fault=None, headers={}, request_id="req_1"))
    assert [call.seq for call in log.since(0)["calls"]] == [2, 3]
    assert (log.since(0)["dropped"], log.since(1)["dropped"]) == (1, 0)
    log.clear()
    assert (log.since(0)["dropped"], log.since(0)["calls"]) == (0, [])


def test_log_file_has_a_call_before_its_end_even_when_the_server_is_killed(tmp_path):
    file = tmp_path / "calls.jsonl"
    with OfflineLLM(log=file) as server:
        post(server, json=body_of())
        with pytest.raises(httpx.ReadTimeout):
            post(server, json=body_of(), fault="hang", timeout=0.2)
        server.kill()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["seq"], line["outcome"]) for line in lines][:3] == [
        (1, "running"),
        (1, "completed"),
        (2, "running"),
    ]
    assert lines[0]["prompt"] is None
