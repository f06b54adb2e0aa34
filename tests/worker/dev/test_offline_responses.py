"""OpenAI's /v1/responses of the offline model server, with its own SDK."""

import openai
import pytest
from openai.types.responses import response_create_params
from pydantic import BaseModel

from langgraph_rq.worker.dev.offline_model.apis.responses_input import FIELDS, StoredResponses
from tests.offline_model import post

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Look up the forecast for a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
NOTE = {"type": "custom", "name": "take_note", "description": "Take a note."}
ASKED = {"role": "user", "content": "What is the weather in Lima?"}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"place":"Lima"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": []}


class Trip(BaseModel):
    place: str
    days: int


def body_of(given="Why?", **options):
    return {"model": "gpt-5", "input": given, **options}


async def test_question_is_answered_and_billed(client, server):
    response = await client.responses.create(**body_of(instructions="Be brief."))
    assert '"Why?"' in response.output_text
    assert response.status == "completed"
    (call,) = server.admin.calls()
    assert (call["input_tokens"], call["output_tokens"]) == (response.usage.input_tokens, response.usage.output_tokens)
    assert call["prompt"] == "Be brief.\nWhy?"


@pytest.mark.parametrize(
    "request_options",
    [
        {},
        {"reasoning": {"effort": "low", "summary": "auto"}},
        {"input": [ASKED], "tools": [WEATHER]},
        {"input": "Take a note: 'buy milk'", "tools": [NOTE]},
        {"max_output_tokens": 16},
    ],
)
async def test_stream_adds_up_to_the_whole_response(client, request_options):
    request = {**body_of(), **request_options}
    whole = await client.responses.create(**request)
    events = [event async for event in await client.responses.create(**request, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", f"response.{whole.status}")
    streamed = events[-1].response
    assert streamed.usage == whole.usage
    without_ids = {"id": None, "call_id": None}
    assert [item.to_dict() | without_ids for item in streamed.output] == [
        item.to_dict() | without_ids for item in whole.output
    ]
    deltas = "".join(event.delta for event in events if event.type.endswith(".delta"))
    written = [
        part["text"]
        for item in whole.to_dict()["output"]
        for part in (item.get("summary") or []) + (item.get("content") or [])
    ]
    calls = [item.get("arguments") or item.get("input") or "" for item in whole.to_dict()["output"]]
    assert deltas == "".join(written + calls)


async def test_tool_is_called_and_its_output_quoted(client):
    called = await client.responses.create(**body_of([ASKED], tools=[WEATHER]))
    (call,) = called.output
    assert (call.type, call.name, call.arguments) == ("function_call", "get_weather", '{"place":"Lima"}')
    output = {**OUTPUT, "call_id": call.call_id}
    said = await client.responses.create(**body_of([ASKED, call, output], tools=[WEATHER]))
    assert "sunny" in said.output_text


async def test_conversation_continues_from_the_previous_response(client):
    called = await client.responses.create(**body_of([ASKED], tools=[WEATHER]))
    output = {**OUTPUT, "call_id": called.output[0].call_id}
    said = await client.responses.create(**body_of([output], tools=[WEATHER], previous_response_id=called.id))
    assert "sunny" in said.output_text
    assert said.usage.input_tokens > called.usage.input_tokens


async def test_response_that_is_not_stored_cannot_be_continued(client):
    response = await client.responses.create(**body_of(store=False))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**body_of(previous_response_id=response.id))
    assert caught.value.code == "previous_response_not_found"


def test_only_the_latest_responses_are_stored():
    stored = StoredResponses()
    for n in range(StoredResponses.CAPACITY + 1):
        stored.keep(f"r{n}", [])
    assert stored.find("r1") == []
    with pytest.raises(Exception, match="'r0' not found"):
        stored.find("r0")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["get_weather"]),
        ("none", []),
        ("required", ["get_weather"]),
        ({"type": "custom", "name": "take_note"}, ["take_note"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "take_note"}]}, []),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "take_note"}]},
            ["take_note"],
        ),
    ],
)
async def test_choice_decides_which_tool_is_called(client, choice, names):
    response = await client.responses.create(**body_of([ASKED], tools=[WEATHER, NOTE], tool_choice=choice))
    assert [item.name for item in response.output if hasattr(item, "call_id")] == names


async def test_custom_tool_is_answered_with_an_output_of_its_own(client):
    called = await client.responses.create(**body_of("Take a note: 'buy milk'", tools=[NOTE]))
    (call,) = called.output
    assert (call.type, call.input) == ("custom_tool_call", "buy milk")
    output = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "noted"}
    said = await client.responses.create(**body_of([output], previous_response_id=called.id))
    assert "noted" in said.output_text


async def test_json_schema_gets_json_that_fits(client):
    response = await client.responses.parse(**body_of("Go to Lima for 3 days"), text_format=Trip)
    assert response.output_parsed == Trip(place="Lima", days=3)


async def test_limit_makes_the_response_incomplete(client):
    response = await client.responses.create(**body_of(max_output_tokens=16))
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 16


async def test_reasoning_is_an_item_and_billed_as_output(client):
    plain = await client.responses.create(**body_of())
    reasoned = await client.responses.create(**body_of(reasoning={"effort": "low"}))
    reasoning, message = reasoned.output
    assert (reasoning.type, reasoning.summary) == ("reasoning", [])
    assert message.content == plain.output[0].content
    thought = reasoned.usage.output_tokens_details.reasoning_tokens
    assert reasoned.usage.output_tokens == plain.usage.output_tokens + thought > plain.usage.output_tokens


REFUSED = [
    ({"model": "gpt-5"}, "input", "missing_required_parameter", "Missing required parameter: 'input'."),
    ({"input": "x"}, None, None, "you must provide a model parameter"),
    (body_of([]), "input", "empty_array", "empty array"),
    (body_of(["x"]), "input[0]", "invalid_type", "expected an object"),
    (body_of([{"role": "human", "content": "x"}]), "input[0].role", "invalid_value", "'developer', and 'user'"),
    (body_of([{"role": "tool", "content": "x"}]), "input[0].role", "invalid_value", "'tool'"),
    (body_of([{"role": "user"}]), "input[0].content", "missing_required_parameter", "content"),
    (
        body_of([{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
        "input[0].content[0].type",
        "invalid_value",
        "'input_text', 'input_image', and 'input_file'",
    ),
    (
        body_of([{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]),
        "input[0].content[0].type",
        "invalid_value",
        "'output_text' and 'refusal'",
    ),
    (body_of([{"type": "item_reference", "id": "x"}]), "input[0].type", "invalid_value", "'item_reference'"),
    (body_of([ASKED, OUTPUT]), "input", None, "No tool call found for function call output with call_id c1."),
    (body_of([ASKED, CALL]), "input", None, "No tool output found for function call c1."),
    (body_of([ASKED, {**CALL, "call_id": "c" * 65}, OUTPUT]), "input[1].call_id", "string_above_max_length", "64"),
    (body_of([ASKED, REASONING]), "input", None, "'rs_1' of type 'reasoning' was provided without its required"),
    (body_of([ASKED, REASONING, ASKED]), "input", None, "without its required following item"),
    ({"model": "gpt-5", "messages": [ASKED]}, "messages", "unsupported_parameter", "has moved to 'input'"),
    (body_of(max_tokens=50), "max_tokens", "unsupported_parameter", "has moved to 'max_output_tokens'"),
    (body_of(n=2), "n", "unknown_parameter", "Unknown parameter: 'n'."),
    (body_of(stop=["x"]), "stop", "unknown_parameter", "Unknown parameter: 'stop'."),
    (body_of(background=True), "background", "unsupported_parameter", "does not serve 'background'"),
    (body_of(top_logprobs=2), "top_logprobs", "unsupported_parameter", "does not serve 'top_logprobs'"),
    (body_of(max_output_tokens=5), "max_output_tokens", "integer_below_min_value", ">= 16"),
    (body_of(temperature=3), "temperature", "decimal_above_max_value", "<= 2"),
    (
        body_of(reasoning={"effort": "low"}, model="gpt-4o"),
        "reasoning.effort",
        "unsupported_parameter",
        "not supported with this model",
    ),
    (
        body_of(tools=[{"type": "function", "function": {"name": "f"}}]),
        "tools[0].name",
        "missing_required_parameter",
        "tools[0].name",
    ),
    (body_of(tools=[{"type": "web_search"}]), "tools[0].type", "invalid_value", "'function' and 'custom'"),
    (
        body_of(tools=[{**WEATHER, "strict": True}]),
        "tools[0].parameters",
        "invalid_function_parameters",
        "'additionalProperties' is required",
    ),
    (body_of(tools=[WEATHER], tool_choice="any"), "tool_choice", "invalid_value", "'none', 'auto', and 'required'"),
    (body_of(tools=[WEATHER], tool_choice={"type": "function", "name": "f"}), "tool_choice", None, "'f' not found"),
    (body_of(text={"format": {"type": "json_schema"}}), "text.format.name", "missing_required_parameter", "name"),
    (body_of(text={"format": {"type": "json_object"}}), "input", None, "must contain the word 'json'"),
    (body_of(previous_response_id="resp_x"), "previous_response_id", "previous_response_not_found", "'resp_x'"),
]


@pytest.mark.parametrize(("body", "param", "code", "message"), REFUSED)
def test_bad_request_gets_the_error_document_of_the_api(server, body, param, code, message):
    reply = post(server, "responses", json=body)
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]


def test_request_without_a_key_is_refused(server):
    assert post(server, "responses", headers={}, json=body_of()).status_code == 401


@pytest.mark.parametrize("stream", [False, True])
async def test_faults_are_errors_of_the_api(client, stream):
    with pytest.raises(openai.RateLimitError) as caught:
        await client.responses.create(**body_of(), stream=stream, extra_headers={"x-fault": "quota"})
    assert caught.value.code == "insufficient_quota"


async def test_cut_stream_breaks_in_the_middle(client):
    stream = await client.responses.create(**body_of(), stream=True, extra_headers={"x-fault": "cut"})
    with pytest.raises(openai.APIConnectionError):
        _ = [event async for event in stream]


def test_fields_are_those_of_the_sdk():
    known = response_create_params.ResponseCreateParamsBase.__annotations__.keys() | {"stream"}
    assert known <= FIELDS
