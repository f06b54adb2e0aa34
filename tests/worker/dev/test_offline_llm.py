"""The offline model server: what it answers, which faults it shows, what it records, how it lives and dies."""

import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from typing import Literal
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from langgraph_rq.worker.dev.offline_model.call_log import CallLog
from langgraph_rq.worker.dev.offline_model.process import OfflineAdmin, OfflineLLM, OfflineLLMError
from langgraph_rq.worker.dev.offline_model.sample_values import complexity_of, value_that_fits

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the forecast for a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["place", "days"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "Tell the hour."}}
CLASSIFY = "Classify the question. Answer with one word: simple, medium or complex."


@pytest.fixture(scope="module")
def shared_server():
    with OfflineLLM(keep_prompts=True) as server:
        yield server


@pytest.fixture
def server(shared_server):
    shared_server.admin.clear()
    shared_server.admin.set_latency(0)
    return shared_server


@pytest.fixture
async def client(server):
    plain = openai.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than most tests
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key="secret-key", max_retries=0, timeout=20, http_client=plain
    ) as client:
        yield client


async def ask(client, question, **options):
    messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
    completion = await client.chat.completions.create(model="gpt-4o", messages=messages, **options)
    return completion.choices[0]


async def say(client, question, **options):
    return (await ask(client, question, **options)).message.content


async def call_tools(client, question, tools, **options):
    calls = (await ask(client, question, tools=tools, **options)).message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def after_a_tool(*outputs):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    return [
        {"role": "user", "content": "What is the weather in Lima?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        *({"role": "tool", "tool_call_id": "c1", "content": output} for output in outputs),
    ]


def post(server, path="chat/completions", *, fault=None, timeout=20, **body):
    """Send one request past the client, so that a test sees raw replies and connections."""
    headers = {"x-fault": fault} if fault else {}
    return httpx.post(f"{server.url}/{path}", headers=headers, timeout=timeout, verify=False, **body)


def until_idle(server):
    """Wait until the server has seen the end of every call; the test's timeout bounds it."""
    while server.admin.stats()["in_flight"]:
        pass
    return server.admin.calls()


def body_of(question="Why?", **options):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": question}], **options}


class TestAnswers:
    async def test_question_is_answered_with_a_text_that_quotes_it(self, client):
        assert '"What is the capital of Peru?"' in await say(client, "What is the capital of Peru?")

    async def test_same_question_gets_the_same_answer(self, client):
        assert await say(client, "Why is the sky blue?") == await say(client, "Why is the sky blue?")

    async def test_two_answers_never_share_an_id(self, client):
        ids = {(await client.chat.completions.create(**body_of())).id for _ in range(3)}
        assert len(ids) == 3

    @pytest.mark.parametrize(
        ("question", "label"),
        [
            ("What is the capital of Peru?", "simple"),
            ("Why is the sky blue?", "medium"),
            ("Compare tea with coffee.", "medium"),
            ("Design a queue that loses nothing.", "complex"),
            ("Prove that there are infinitely many primes.", "complex"),
            ("word " * 50, "complex"),
        ],
    )
    async def test_classification_prompt_gets_exactly_one_label(self, client, question, label):
        messages = [{"role": "system", "content": CLASSIFY}, {"role": "user", "content": question}]
        assert await say(client, messages) == label

    async def test_classification_inside_the_question_looks_at_its_last_line(self, client):
        assert await say(client, f"{CLASSIFY}\nWhat is the capital of Peru?") == "simple"

    async def test_message_of_several_parts_is_read_as_their_text(self, client):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        parts = [{"type": "text", "text": "What is on this picture?"}, image]
        assert '"What is on this picture?"' in await say(client, [{"role": "user", "content": parts}])

    async def test_streamed_answer_is_the_same_text_in_several_pieces(self, client):
        stream = await client.chat.completions.create(**body_of(), stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert len(pieces) > 3
        assert "".join(pieces) == await say(client, "Why?")

    async def test_stream_ends_with_its_usage_when_that_is_asked_for(self, client):
        whole = await client.chat.completions.create(**body_of())
        stream = await client.chat.completions.create(**body_of(), stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices == []
        assert chunks[-1].usage == whole.usage
        assert {chunk.usage for chunk in chunks[:-1]} == {None}

    async def test_usage_is_one_token_per_four_bytes_of_utf8(self, client):
        completion = await client.chat.completions.create(**body_of("¿Qué?"))
        answer_bytes = len(completion.choices[0].message.content.encode())
        assert completion.usage.prompt_tokens == math.ceil(len("¿Qué?".encode()) / 4)
        assert completion.usage.completion_tokens == math.ceil(answer_bytes / 4)

    async def test_schemas_of_tools_count_as_input(self, client):
        without = await client.chat.completions.create(**body_of())
        with_tools = await client.chat.completions.create(**body_of(), tools=[WEATHER], tool_choice="none")
        assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 20

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    async def test_answer_ends_at_the_token_limit_with_finish_reason_length(self, client, name):
        completion = await client.chat.completions.create(**body_of("¿Por qué?"), **{name: 5})
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 5
        assert len(completion.choices[0].message.content.encode()) <= 20

    async def test_answer_ends_before_a_stop_word(self, client):
        assert await say(client, "Why?", stop=["asked"]) == "You "

    async def test_long_question_is_quoted_in_part(self, client):
        assert len(await say(client, "x" * 100_000)) < 3000


class TestTools:
    async def test_tool_that_the_question_is_about_is_called_with_arguments_from_it(self, client):
        calls = await call_tools(client, "What is the forecast in San Francisco, CA for 3 days?", [WEATHER])
        assert calls == [("get_weather", {"place": "San Francisco, CA", "days": 3})]

    async def test_arguments_stay_inside_the_bounds_of_their_schema(self, client):
        assert await call_tools(client, "Forecast in Lima for 90 days?", [WEATHER]) == [
            ("get_weather", {"place": "Lima", "days": 7})
        ]

    async def test_unrelated_question_calls_no_tool(self, client):
        choice = await ask(client, "Who wrote Hamlet?", tools=[WEATHER])
        assert choice.message.tool_calls is None
        assert choice.finish_reason == "stop"

    async def test_required_calls_a_tool_for_any_question(self, client):
        calls = await call_tools(client, "Hello!", [TIME, WEATHER], tool_choice="required")
        assert calls == [("get_time", {})]

    async def test_required_goes_on_to_the_next_tool_after_the_first_has_spoken(self, client):
        calls = await call_tools(client, after_a_tool("sunny"), [WEATHER, TIME], tool_choice="required")
        assert calls == [("get_time", {})]

    async def test_forced_tool_is_called_and_no_other(self, client):
        choice = {"type": "function", "function": {"name": "get_time"}}
        calls = await call_tools(client, "What is the weather?", [WEATHER, TIME], tool_choice=choice)
        assert [name for name, _ in calls] == ["get_time"]

    async def test_choice_none_calls_no_tool(self, client):
        assert await call_tools(client, "What is the weather?", [WEATHER], tool_choice="none") == []

    async def test_all_tools_that_a_question_names_are_called(self, client):
        calls = await call_tools(client, "Use get_time and get_weather.", [WEATHER, TIME])
        assert [name for name, _ in calls] == ["get_weather", "get_time"]

    async def test_one_tool_at_a_time_without_parallel_calls(self, client):
        question = "Use get_time and get_weather."
        calls = await call_tools(client, question, [WEATHER, TIME], parallel_tool_calls=False)
        assert [name for name, _ in calls] == ["get_weather"]

    async def test_answer_after_tools_quotes_what_they_said(self, client):
        text = await say(client, after_a_tool("sunny", "12 degrees"), tools=[WEATHER])
        assert "sunny" in text
        assert "12 degrees" in text

    async def test_streamed_tool_call_has_the_same_arguments(self, client):
        stream = await client.chat.completions.create(
            **body_of("Forecast in Lima for 2 days?"), tools=[WEATHER], stream=True
        )
        calls = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
        assert calls[0].function.name == "get_weather"
        arguments = "".join(call.function.arguments for call in calls)
        assert json.loads(arguments) == {"place": "Lima", "days": 2}

    async def test_arguments_are_cut_at_the_token_limit(self, client):
        choice = await ask(client, "Forecast in Lima?", tools=[WEATHER], max_tokens=5)
        assert choice.finish_reason == "length"
        assert choice.message.tool_calls[0].function.arguments == '{"place":'


class Step(BaseModel):
    title: str = Field(min_length=3, max_length=40)
    minutes: int = Field(gt=0, lt=60)


class Plan(BaseModel):
    goal: str
    complexity: Literal["complex", "medium", "simple"]
    steps: list[Step] = Field(min_length=2)
    confidence: float = Field(ge=0, le=1)
    note: str | None = None


class TestJson:
    async def test_json_schema_gets_json_that_fits(self, client):
        completion = await client.chat.completions.parse(**body_of("Design a trip to Lima, 90"), response_format=Plan)
        plan = completion.choices[0].message.parsed
        assert isinstance(plan, Plan)
        assert plan.goal == "Lima"
        assert plan.complexity == "complex"

    async def test_json_object_has_the_keys_that_the_prompt_quotes(self, client):
        text = await say(
            client,
            "Tell a joke as JSON with 'setup' and 'punchline' keys.",
            response_format={"type": "json_object"},
        )
        assert set(json.loads(text)) == {"setup", "punchline"}

    async def test_json_after_a_tool_is_drawn_from_what_it_said(self, client):
        schema = TypeAdapter(dict[Literal["x"], int]).json_schema() | {"properties": {"degrees": {"type": "integer"}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
        assert json.loads(await say(client, after_a_tool("12 degrees"), response_format=wanted)) == {"degrees": 12}

    @pytest.mark.parametrize(
        "kind",
        [Plan, list[Plan], tuple[int, str], dict[str, int], int | None, bool, Literal["a", "b"], list[float], None],
    )
    @pytest.mark.parametrize("question", ["", "Add 1, 2.5 and -3,000 for 'Ann' in Lima"])
    def test_value_fits_whatever_schema_is_given(self, kind, question):
        adapter = TypeAdapter(kind)
        adapter.validate_json(json.dumps(value_that_fits(adapter.json_schema(), question)), strict=True)

    def test_schema_that_contains_itself_ends(self):
        class Node(BaseModel):
            name: str
            children: list["Node"]
            twin: "Node | None"

        Node.model_validate(value_that_fits(Node.model_json_schema(), "Which node?"))

    def test_numbers_of_a_question_fill_a_list_of_numbers(self):
        schema = TypeAdapter(list[int]).json_schema()
        assert value_that_fits(schema, "Add 1, 2 and -3 to 1,000.") == [1, 2, -3, 1000]

    def test_longer_questions_are_never_labelled_as_simpler(self):
        order = ["simple", "medium", "complex"]
        labels = [order.index(complexity_of("word " * length)) for length in range(60)]
        assert labels == sorted(labels)


class TestEmbeddings:
    async def embed(self, client, texts, **options):
        found = await client.embeddings.create(model="text-embedding-3-small", input=texts, **options)
        return [item.embedding for item in found.data]

    async def test_vectors_have_length_one_and_the_asked_dimensions(self, client):
        (vector,) = await self.embed(client, "hello world", dimensions=64)
        assert len(vector) == 64
        assert math.hypot(*vector) == pytest.approx(1)

    async def test_base64_and_floats_are_the_same_vector(self, client):
        (packed,) = await self.embed(client, "hello world")  # the client asks for base64 by itself
        (plain,) = await self.embed(client, "hello world", encoding_format="float")
        assert len(packed) == 1536
        assert packed == pytest.approx(plain)

    async def test_texts_that_share_words_are_nearer_than_others(self, client):
        one, near, far = await self.embed(client, ["red apple pie", "green apple pie", "quantum chess"])
        assert math.dist(one, near) < math.dist(one, far)

    async def test_token_ids_are_taken_as_input(self, client):
        assert len(await self.embed(client, [[1, 2], [3]])) == 2


class TestRequests:
    async def test_models_are_listed(self, client):
        assert {"gpt-4o", "gpt-4o-mini"} <= {model.id async for model in client.models.list()}

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"model": "gpt-4o"}, "messages"),
            ({"model": "gpt-4o", "messages": ["hi"]}, "messages"),
            ({"messages": [{"role": "user", "content": "hi"}]}, "model"),
            (body_of(n=2), "n"),
            (body_of(max_tokens=0), "max_completion_tokens"),
            (body_of(tools=[WEATHER], tool_choice={"function": {"name": "nope"}}), "tool_choice"),
            (body_of(tools=[{"type": "web_search"}]), "tools"),
            (body_of(tools=5), None),
            ([], None),
        ],
    )
    def test_bad_request_names_its_field(self, server, body, param):
        reply = post(server, json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param

    @pytest.mark.parametrize("body", [{"input": []}, {"input": 5}, {"input": "x", "dimensions": 10_000}])
    def test_bad_embedding_request_is_refused(self, server, body):
        reply = post(server, "embeddings", json={"model": "m", **body})
        assert reply.status_code == 400

    def test_body_that_is_not_json_is_refused(self, server):
        assert post(server, content=b"{").status_code == 400

    def test_unknown_route_names_the_known_ones(self, server):
        reply = post(server, "engines")
        assert reply.status_code == 404
        assert "/v1/chat/completions" in reply.json()["error"]["message"]


class TestFaults:
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
    async def test_header_brings_an_error_reply(self, client, server, fault, kind, status, code, stream):
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**body_of(), stream=stream, extra_headers={"x-fault": fault})
        assert (caught.value.status_code, caught.value.code) == (status, code)
        (call,) = server.admin.calls()
        assert (call["fault"], call["status"], call["billed"], call["outcome"]) == (fault, status, False, "completed")

    def test_retry_after_is_sent_in_whole_seconds_and_in_milliseconds(self, server):
        reply = post(server, json=body_of(), fault="429; retry_after=1.5")
        assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("2", "1500")

    async def test_hang_lasts_until_the_client_leaves(self, client, server):
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(
                **body_of(), extra_headers={"x-fault": "hang"}
            )
        (call,) = until_idle(server)
        assert (call["outcome"], call["status"], call["billed"]) == ("hung", None, False)
        assert call["ended_monotonic_s"] - call["started_monotonic_s"] > 0.1

    def test_cut_stream_breaks_in_the_middle_and_is_billed_to_there(self, server):
        pieces = []
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream(
                "POST", f"{server.url}/chat/completions", json=body_of(stream=True), headers={"x-fault": "cut"}
            ) as reply,
        ):
            pieces.extend(reply.iter_lines())
        whole = post(server, json=body_of()).json()
        cut, good = until_idle(server)
        assert (cut["outcome"], cut["status"]) == ("cut", 200)
        assert 0 < cut["output_tokens"] < good["output_tokens"] == whole["usage"]["completion_tokens"]

    def test_cut_body_is_shorter_than_it_says(self, server):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            post(server, json=body_of(), fault="cut")

    @pytest.mark.parametrize("stream", [False, True])
    def test_malformed_body_is_a_success_that_is_not_json(self, server, stream):
        reply = post(server, json=body_of(stream=stream), fault="malformed")
        assert reply.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(reply.text.removeprefix("data: "))

    def test_reset_connection_is_reset(self, server):
        with pytest.raises(httpx.ReadError) as caught:
            post(server, json=body_of(), fault="reset")
        assert "reset" in str(caught.value)
        assert until_idle(server)[0]["outcome"] == "cut"

    def test_embeddings_fail_on_command_too(self, server):
        reply = post(server, "embeddings", json={"model": "m", "input": "x"}, fault="500")
        assert reply.status_code == 500

    def statuses(self, server, *questions, model="gpt-4o"):
        bodies = [{**body_of(question), "model": model} for question in questions]
        return [post(server, json=body).status_code for body in bodies]

    def test_rule_applies_as_often_as_it_says(self, server):
        server.admin.set_faults([{"fault": "500", "times": 2}])
        assert self.statuses(server, "a", "b", "c") == [500, 500, 200]
        assert [rule["hits"] for rule in server.admin.faults()] == [2]

    def test_rule_applies_to_its_model_and_its_prompts_only(self, server):
        server.admin.set_faults([{"fault": "503", "model": "gpt-4o", "match": "boom"}])
        assert self.statuses(server, "boom", "calm") == [503, 200]
        assert self.statuses(server, "boom", model="gpt-4o-mini") == [200]

    def test_first_rule_that_applies_decides(self, server):
        server.admin.set_faults([{"fault": "500", "times": 1}, {"fault": "529"}])
        assert self.statuses(server, "a", "b") == [500, 529]

    def test_same_seed_fails_the_same_calls(self, server):
        rule = {"fault": "500", "probability": 0.5, "seed": 7}
        server.admin.set_faults([rule])
        first = self.statuses(server, *"abcdefghij")
        server.admin.set_faults([rule])
        assert self.statuses(server, *"abcdefghij") == first
        assert set(first) == {200, 500}

    def test_clear_takes_the_rules_away(self, server):
        server.admin.set_faults([{"fault": "500"}])
        server.admin.clear()
        assert self.statuses(server, "a") == [200]

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
    def test_wrong_rule_is_refused_with_what_was_expected(self, server, rule, message):
        with pytest.raises(OfflineLLMError) as caught:
            server.admin.set_faults([rule])
        assert message in str(caught.value)

    @pytest.mark.parametrize("header", ["nonsense", "429; after=2", "429; retry_after=soon"])
    def test_wrong_fault_header_is_a_bad_request(self, server, header):
        reply = post(server, json=body_of(), fault=header)
        assert reply.status_code == 400
        assert "x-fault" in reply.json()["error"]["message"]


def seconds_of(call):
    return call["ended_monotonic_s"] - call["started_monotonic_s"]


class TestLatency:
    async def test_every_answer_waits_the_latency(self, client, server):
        server.admin.set_latency(0.2)
        await say(client, "Why?")
        assert seconds_of(server.admin.calls()[0]) == pytest.approx(0.2, abs=0.1)

    async def test_stream_spreads_the_latency_over_its_words(self, client, server):
        server.admin.set_latency(0.2)
        stream = await client.chat.completions.create(**body_of(), stream=True)
        await anext(stream)
        assert server.admin.stats()["in_flight"] == 1  # the first words came before the last
        await stream.close()
        assert until_idle(server)[0]["outcome"] == "left"

    async def test_one_call_is_slowed_on_command(self, client, server):
        await ask(client, "Why?", extra_headers={"x-fault": "latency; latency=0.2"})
        await ask(client, "Why?")
        slow, fast = map(seconds_of, server.admin.calls())
        assert fast < 0.1 < slow

    async def test_client_that_leaves_early_is_billed_and_recorded_as_left(self, client, server):
        server.admin.set_latency(60)
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(**body_of())
        (call,) = until_idle(server)
        assert (call["outcome"], call["status"], call["billed"]) == ("left", None, True)
        assert seconds_of(call) < 30

    @pytest.mark.parametrize("latency_s", [-1, "1"])
    def test_wrong_latency_is_refused(self, server, latency_s):
        with pytest.raises(OfflineLLMError, match="expected latency_s"):
            server.admin.set_latency(latency_s)


class TestCallLog:
    async def test_call_is_recorded_with_its_tokens_and_the_hash_of_its_prompt(self, client, server):
        usage = (await client.chat.completions.create(**body_of())).usage
        (call,) = server.admin.calls()
        assert call["prompt"] == "Why?"
        assert call["prompt_sha256"] == hashlib.sha256(b"Why?").hexdigest()
        assert (call["model"], call["path"], call["stream"]) == ("gpt-4o", "/v1/chat/completions", False)
        assert (call["input_tokens"], call["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
        assert call["started_at"] <= call["ended_at"]

    async def test_headers_that_name_the_task_are_kept_and_keys_are_not(self, client, server):
        await ask(client, "Why?", extra_headers={"X-Task-Id": "t1", "X-Request-Id": "r1", "traceparent": "00-1-2-01"})
        (call,) = server.admin.calls()
        assert call["headers"] == {"x-task-id": "t1", "x-request-id": "r1", "traceparent": "00-1-2-01"}
        assert "secret-key" not in json.dumps(call)

    async def test_calls_are_listed_from_a_sequence_number_on(self, client, server):
        for _ in range(3):
            await ask(client, "Why?")
        first, *rest = server.admin.calls()
        assert server.admin.calls(since=first["seq"]) == rest
        assert [call["seq"] for call in rest] == [first["seq"] + 1, first["seq"] + 2]

    def test_refused_request_is_a_call_too(self, server):
        post(server, content=b"{")
        assert [call["status"] for call in server.admin.calls()] == [400]

    async def test_stats_count_calls_and_billed_tokens_by_model(self, client, server):
        usage = (await client.chat.completions.create(**body_of())).usage
        with pytest.raises(openai.InternalServerError):
            await ask(client, "Why?", extra_headers={"x-fault": "500"})
        stats = server.admin.stats()
        assert (stats["calls"], stats["in_flight"], stats["max_in_flight"]) == (2, 0, 1)
        assert stats["input_tokens"] == {"gpt-4o": usage.prompt_tokens}
        assert stats["output_tokens"] == {"gpt-4o": usage.completion_tokens}

    def test_log_says_when_calls_no_longer_fit_into_memory(self):
        log = CallLog(capacity=2)
        for _ in range(3):
            log.end(log.accept("/v1/x", "m", "p", 1, stream=False, fault=None, headers={}))
        assert [call.seq for call in log.since(0)["calls"]] == [2, 3]
        assert (log.since(0)["dropped"], log.since(1)["dropped"]) == (1, 0)
        log.clear()
        assert (log.since(0)["dropped"], log.since(0)["calls"]) == (0, [])

    def test_log_file_has_a_call_before_its_end_even_when_the_server_is_killed(self, tmp_path):
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


class TestProcess:
    def test_importing_the_context_manager_loads_no_server_and_no_langchain(self):
        program = (
            "import sys, langgraph_rq.worker.dev.offline_model.process;"
            "print([m for m in sys.modules if m.startswith(('langchain', 'langgraph.', 'uvicorn', 'pydantic'))])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_killed_server_comes_back_at_the_same_url(self):
        with OfflineLLM() as server:
            url = server.url
            server.kill()
            with pytest.raises(ConnectionRefusedError):
                server.admin.stats()
            server.start()
            assert server.url == url
            assert server.admin.stats()["calls"] == 0

    def test_server_ends_when_its_parent_is_killed(self):
        program = (
            "import signal; from langgraph_rq.worker.dev.offline_model.process import OfflineLLM;"
            "s = OfflineLLM().start();"
            "print(s.url, flush=True); signal.pause()"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            connection = HTTPConnection(urlsplit(parent.stdout.readline()).netloc, timeout=20)
            connection.request("GET", "/admin/stats")
            connection.getresponse().read()
            parent.kill()
            assert connection.sock.recv(1) == b""
            connection.close()

    @pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_ends_it_with_exit_code_0_even_while_a_call_hangs(self, signal_number):
        command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--latency", "0.01"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        url = process.stdout.readline().strip().removeprefix("OPENAI_BASE_URL=")
        admin = OfflineAdmin(url)
        address = urlsplit(url)
        request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-fault: hang\r\ncontent-length: 2\r\n\r\n{}"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(request)
            while not admin.calls():
                pass
            os.kill(process.pid, signal_number)
            _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")

    def test_address_in_use_is_one_line_and_exit_code_3(self, server):
        port = str(urlsplit(server.url).port)
        command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert port in done.stderr

    def test_help_ends_with_examples_and_exit_codes(self):
        done = subprocess.run(
            [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "examples:" in done.stdout
        assert "exit codes:" in done.stdout

    def test_negative_latency_is_wrong_usage(self):
        command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--latency=-1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "expected seconds" in done.stderr
