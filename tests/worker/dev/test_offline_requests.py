"""Requests that OpenAI's chat completions and embeddings refuse, and the documents of the errors."""

import openai
import pytest

from langgraph_rq.worker.dev.offline_model.apis.chat_checks import FIELDS
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.offline_model import KEY, TIME, WEATHER, body_of, post

CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
HELLO = {"role": "user", "content": "Why?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
OPEN_OBJECT = {"type": "object", "properties": {"x": {"type": "string"}}}


def messages(*given, **options):
    return {"model": "gpt-4o", "messages": list(given), **options}


def schema_of(schema, **about):
    wanted = {"name": "Plan", "schema": schema, **about}
    return body_of(response_format={"type": "json_schema", "json_schema": wanted})


def function(**about):
    return {"type": "function", "function": {"name": "f", **about}}


REFUSED = [
    ({"model": "gpt-4o"}, "messages", "missing_required_parameter", "Missing required parameter"),
    (messages(), "messages", "empty_array", "empty array"),
    (messages("hi"), "messages[0]", "invalid_type", "expected an object, but got a string"),
    ({"messages": [HELLO]}, None, None, "you must provide a model parameter"),
    (messages({"content": "hi"}), "messages[0].role", "missing_required_parameter", "role"),
    (messages({"role": "human", "content": "hi"}), "messages[0].role", "invalid_value", "and 'developer'"),
    (messages({"role": "user", "content": None}), "messages.[0].content", None, "expected a string, got null"),
    (messages({"role": "user", "content": []}), "messages[0].content", "empty_array", "empty array"),
    (messages({"role": "user", "content": 5}), "messages[0].content", "invalid_type", "got an integer"),
    (
        messages({"role": "user", "content": [{"type": "tool_use"}]}),
        "messages[0].content[0].type",
        "invalid_value",
        "'text', 'image_url', 'input_audio', and 'file'",
    ),
    (messages(HELLO, ANSWERED), "messages.[1].role", None, "must be a response to a preceeding message"),
    (messages(ANSWERED), "messages.[0].role", None, "must be a response to a preceeding message"),
    (messages(HELLO, CALLED), "messages.[2].role", None, "did not have response messages: c1"),
    (messages(HELLO, CALLED, HELLO), "messages.[2].role", None, "did not have response messages: c1"),
    (messages(HELLO, CALLED, ANSWERED, ANSWERED), "messages.[3].tool_call_id", None, "messages[2] and messages[3]"),
    (
        messages(HELLO, CALLED, {**ANSWERED, "tool_call_id": "c2"}),
        "messages.[2].tool_call_id",
        None,
        "'c2' not found in 'tool_calls'",
    ),
    (
        messages(HELLO, {**CALLED, "tool_calls": []}),
        "messages[1].tool_calls",
        "empty_array",
        "Expected an array with minimum length 1",
    ),
    (
        messages(HELLO, {**CALLED, "tool_calls": [{**CALL, "id": "c" * 41}]}),
        "messages[1].tool_calls[0].id",
        "string_above_max_length",
        "maximum length 40",
    ),
    (body_of(top_k=5), "top_k", "unknown_parameter", "Unknown parameter: 'top_k'."),
    (body_of(functions=[{}]), "functions", "unsupported_parameter", "does not serve 'functions'"),
    (body_of(temperature=3), "temperature", "decimal_above_max_value", "<= 2, but got 3 instead"),
    (body_of(temperature=-1), "temperature", "decimal_below_min_value", ">= 0, but got -1 instead"),
    (body_of(temperature="0"), "temperature", "invalid_type", "expected a decimal, but got a string"),
    (body_of(top_p=1.5), "top_p", "decimal_above_max_value", "top_p"),
    (body_of(max_tokens=0), "max_tokens", "integer_below_min_value", ">= 1, but got 0 instead"),
    (body_of(max_completion_tokens=1.5), "max_completion_tokens", "invalid_type", "expected an integer"),
    (body_of(max_tokens=5, max_completion_tokens=5), "max_tokens", None, "at the same time"),
    (body_of(n=129), "n", "integer_above_max_value", "<= 128"),
    (body_of(top_logprobs=2), "top_logprobs", None, "only allowed when 'logprobs' is enabled"),
    (body_of(logprobs=True, top_logprobs=21), "top_logprobs", "integer_above_max_value", "<= 20"),
    (body_of(stream_options={"include_usage": True}), "stream_options", None, "only allowed when 'stream' is enabled"),
    (body_of(stop=list("abcde")), "stop", "array_above_max_length", "maximum length 4"),
    (body_of(tools=5), "tools", "invalid_type", "expected an array of objects"),
    (body_of(tools=[]), "tools", "empty_array", "empty array"),
    (body_of(tools=[WEATHER] * 129), "tools", "array_above_max_length", "maximum length 128"),
    (body_of(tools=[{"type": "web_search"}]), "tools[0].type", "invalid_value", "'function' and 'custom'"),
    (body_of(tools=[TIME, function(name="a b")]), "tools[1].function.name", "invalid_value", "does not match pattern"),
    (body_of(tools=[function(name="f" * 65)]), "tools[0].function.name", "string_above_max_length", "length 64"),
    (
        body_of(tools=[function(parameters={"type": "array"})]),
        "tools[0].function.parameters",
        "invalid_function_parameters",
        "got 'type: \"array\"'",
    ),
    (
        body_of(tools=[function(parameters=OPEN_OBJECT, strict=True)]),
        "tools[0].function.parameters",
        "invalid_function_parameters",
        "In context=(), 'additionalProperties' is required",
    ),
    (body_of(tool_choice="auto"), "tool_choice", None, "only allowed when 'tools' are specified"),
    (body_of(parallel_tool_calls=True), "parallel_tool_calls", None, "only allowed when 'tools' are specified"),
    (body_of(tools=[TIME], tool_choice="any"), "tool_choice", "invalid_value", "'none', 'auto', and 'required'"),
    (
        body_of(tools=[TIME], tool_choice={"type": "function", "function": {"name": "nope"}}),
        "tool_choice",
        None,
        "'nope' not found in 'tools'",
    ),
    (body_of(response_format={"type": "json"}), "response_format.type", "invalid_value", "'json_schema'"),
    (body_of(response_format={"type": "json_object"}), "messages", None, "must contain the word 'json'"),
    (
        body_of(response_format={"type": "json_schema"}),
        "response_format.json_schema",
        "missing_required_parameter",
        "json_schema",
    ),
    (schema_of({}, name="a b"), "response_format.json_schema.name", "invalid_value", "does not match pattern"),
    (
        schema_of({**OPEN_OBJECT, "additionalProperties": False}, strict=True),
        "response_format",
        None,
        "Missing 'x'",
    ),
    (
        schema_of(
            {"type": "object", "properties": {"y": OPEN_OBJECT}, "required": ["y"], "additionalProperties": False},
            strict=True,
        ),
        "response_format",
        None,
        "In context=('properties', 'y'), 'additionalProperties'",
    ),
    ([], None, None, "expected a JSON object"),
]


@pytest.mark.parametrize(("body", "param", "code", "message"), REFUSED)
def test_bad_request_gets_the_error_document_of_the_api(server, body, param, code, message):
    reply = post(server, json=body)
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        messages(HELLO, CALLED, ANSWERED, HELLO),
        messages(HELLO, {**CALLED, "tool_calls": None, "content": "no"}),
        messages({"role": "developer", "content": "Be brief."}, HELLO),
        messages({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, HELLO),
        body_of(temperature=None, max_tokens=None, tools=None, stream_options=None),
    ],
)
def test_what_the_api_accepts_is_answered(server, body):
    assert post(server, json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": []}, "'$.input' is invalid"),
        ({"input": ""}, "'$.input' is invalid"),
        ({"input": ["x", ""]}, "'$.input' is invalid"),
        ({"input": 5}, "'$.input' is invalid"),
        ({"input": ["x"] * 2049}, "'$.input' is invalid"),
        ({}, "Missing required parameter: 'input'"),
        ({"input": "x", "dimensions": 1537}, "'dimensions' = 1537"),
        ({"input": "x", "encoding_format": "int8"}, "'float' and 'base64'"),
        ({"input": "word" * 8193}, "maximum context length is 8192 tokens, however you requested 8193"),
        ({"input": ["word" * 8000] * 38}, "max 300000 tokens per request"),
        ({"input": "x", "n": 2}, "Unknown parameter: 'n'"),
    ],
)
def test_bad_embedding_request_is_refused(server, body, message):
    reply = post(server, "embeddings", json={"model": "m", **body})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_body_that_is_not_json_is_refused(server):
    reply = post(server, content=b"{")
    assert reply.status_code == 400
    assert "could not parse the JSON body" in reply.json()["error"]["message"]


def test_unknown_route_names_the_known_ones(server):
    reply = post(server, "engines")
    assert reply.status_code == 404
    assert "/v1/chat/completions" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["chat/completions", "embeddings"])
def test_request_without_a_key_is_refused(server, path):
    reply = post(server, path, headers={}, json=body_of())
    assert reply.status_code == 401
    assert "You didn't provide an API key" in reply.json()["error"]["message"]
    assert post(server, path, headers={"authorization": "Basic abc"}, json=body_of()).status_code == 401


async def test_every_reply_has_an_id_that_the_log_knows(client, server):
    reply = await client.chat.completions.with_raw_response.create(**body_of())
    refused = post(server, json={})
    assert [call["request_id"] for call in server.admin.calls()] == [
        reply.headers["x-request-id"],
        refused.headers["x-request-id"],
    ]
    assert reply.request_id.startswith("req_")


async def test_models_are_listed_and_any_name_is_one(client):
    assert {"gpt-4o", "gpt-4o-mini"} <= {model.id async for model in client.models.list()}
    assert (await client.models.retrieve("my/model")).id == "my/model"


async def test_server_with_a_list_of_models_refuses_others():
    with OfflineLLM(models=["small", "large"]) as server:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["small", "large"]
            assert (await client.models.retrieve("small")).id == "small"
            with pytest.raises(openai.NotFoundError) as retrieved:
                await client.models.retrieve("gpt-4o")
            with pytest.raises(openai.NotFoundError) as called:
                await client.chat.completions.create(**body_of())
        assert post(server, json={**body_of(), "model": "large"}, headers=KEY).status_code == 200
    assert retrieved.value.code == called.value.code == "model_not_found"
    assert "The model `gpt-4o` does not exist" in str(called.value)


def test_fields_are_those_of_the_sdk():
    parameters = openai.types.chat.completion_create_params
    known = parameters.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    assert known <= FIELDS
