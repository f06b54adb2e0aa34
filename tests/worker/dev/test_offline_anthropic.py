"""Anthropic's /v1/messages of the offline model server, with its own SDK."""

import anthropic
import httpx
import pytest

from langgraph_rq.worker.dev.offline_model.apis.anthropic_input import FIELDS
from langgraph_rq.worker.dev.offline_model.apis.prompt_cache import PromptCache
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.offline_model import until_idle

MODEL = "claude-opus-4-8"
KEYS = {"x-api-key": "secret-key", "anthropic-version": "2023-06-01"}
WEATHER = {
    "name": "get_weather",
    "description": "Look up the forecast for a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
HELLO = {"role": "user", "content": "Why?"}
ASKED = {"role": "user", "content": "What is the weather in Lima?"}
CALL = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"place": "Lima"}}
CALLED = {"role": "assistant", "content": [CALL]}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
RESULTS = {"role": "user", "content": [RESULT]}
LONG = "word " * 1_000
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
async def claude(server):
    plain = anthropic.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than most tests
    async with anthropic.AsyncAnthropic(
        base_url=server.anthropic_url, api_key="secret-key", max_retries=0, timeout=20, http_client=plain
    ) as client:
        yield client


def body_of(*messages, **options):
    return {"model": MODEL, "max_tokens": 2000, "messages": list(messages or [HELLO]), **options}


def post(server, body, path="messages", headers=KEYS):
    return httpx.post(f"{server.url}/{path}", json=body, headers=headers, verify=False)


def cached(text, ttl="5m"):
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}]


async def test_question_is_answered_and_billed(claude, server):
    message = await claude.messages.create(**body_of(system="Be brief."))
    assert '"Why?"' in message.content[0].text
    assert message.stop_reason == "end_turn"
    (call,) = server.admin.calls()
    assert (call["input_tokens"], call["output_tokens"]) == (message.usage.input_tokens, message.usage.output_tokens)
    assert call["prompt"] == "Be brief.\nWhy?"


@pytest.mark.parametrize("question", [HELLO, {"role": "user", "content": "The weather in San Francisco?"}])
async def test_stream_adds_up_to_the_whole_message(claude, question):
    request = body_of(question, tools=[WEATHER])
    whole = await claude.messages.create(**request)
    async with claude.messages.stream(**request) as stream:
        events = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    assert events.count("content_block_delta") > 1
    assert streamed.usage == whole.usage
    assert streamed.stop_reason == whole.stop_reason
    assert [block.to_dict() | {"id": None} for block in streamed.content] == [
        block.to_dict() | {"id": None} for block in whole.content
    ]


async def test_tool_is_called_and_its_result_quoted(claude):
    called = await claude.messages.create(**body_of(ASKED, tools=[WEATHER]))
    (call,) = called.content
    assert (called.stop_reason, call.name, call.input) == ("tool_use", "get_weather", {"place": "Lima"})
    results = {"role": "user", "content": [{**RESULT, "tool_use_id": call.id}]}
    said = await claude.messages.create(
        **body_of(ASKED, {"role": "assistant", "content": called.content}, results, tools=[WEATHER])
    )
    assert "sunny" in said.content[0].text


@pytest.mark.parametrize(("choice", "calls"), [("any", 1), ("auto", 0), ("none", 0)])
async def test_choice_decides_whether_a_tool_is_called(claude, choice, calls):
    message = await claude.messages.create(**body_of(tools=[WEATHER], tool_choice={"type": choice}))
    assert [block.type for block in message.content].count("tool_use") == calls


async def test_json_schema_gets_json_that_fits(claude):
    schema = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    message = await claude.messages.create(**body_of({"role": "user", "content": "For 3 days"}, output_config=wanted))
    assert message.content[0].text == '{"days":3}'


async def test_limit_and_stop_word_name_themselves(claude):
    cut = await claude.messages.create(**body_of(max_tokens=5))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)
    stopped = await claude.messages.create(**body_of(stop_sequences=["asked"]))
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "asked", "You ")


async def test_tool_call_that_is_cut_keeps_the_arguments_that_came(claude):
    message = await claude.messages.create(**body_of(ASKED, tools=[WEATHER], max_tokens=5))
    assert message.stop_reason == "max_tokens"
    assert message.content[0].input == {}


@pytest.mark.parametrize("display", ["summarized", "omitted"])
async def test_thinking_comes_first_and_is_billed_as_output(claude, display):
    plain = await claude.messages.create(**body_of())
    thought = await claude.messages.create(**body_of(thinking={**THINKING, "display": display}))
    thinking, text = thought.content
    assert (thinking.type, bool(thinking.thinking)) == ("thinking", display == "summarized")
    assert text == plain.content[0]
    details = thought.usage.output_tokens_details
    assert details.thinking_tokens > 0
    assert thought.usage.output_tokens == plain.usage.output_tokens + details.thinking_tokens


async def test_marked_prompt_is_written_to_the_cache_and_then_read(claude):
    body = body_of(system=cached("first " + LONG))
    written = (await claude.messages.create(**body)).usage
    read = (await claude.messages.create(**body)).usage
    assert written.cache_creation_input_tokens > 1_024
    assert written.cache_creation.ephemeral_5m_input_tokens == written.cache_creation_input_tokens
    assert (written.cache_read_input_tokens, read.cache_creation_input_tokens) == (0, 0)
    assert read.cache_read_input_tokens == written.cache_creation_input_tokens
    assert read.input_tokens == written.input_tokens < 10


async def test_growing_conversation_reads_what_its_last_turn_wrote(claude):
    first = {"role": "user", "content": cached("second " + LONG, "1h")}
    one = (await claude.messages.create(**body_of(first))).usage
    assert one.cache_creation.ephemeral_1h_input_tokens == one.cache_creation_input_tokens
    unmarked = {"role": "user", "content": [{"type": "text", "text": "second " + LONG}]}
    said = {"role": "assistant", "content": "I see."}
    # The mark has moved to the end: only what came since is written.
    two = (await claude.messages.create(**body_of(unmarked, said, {"role": "user", "content": cached("Go on.")}))).usage
    assert two.cache_read_input_tokens == one.cache_creation_input_tokens
    assert 0 < two.cache_creation_input_tokens < 10


async def test_short_or_other_prompts_are_not_in_the_cache(claude):
    for body in (
        body_of(system=cached("short")),
        body_of(system=cached("third " + LONG)),
        {**body_of(system=cached("third " + LONG)), "model": "claude-haiku-4-5"},
    ):
        assert (await claude.messages.create(**body)).usage.cache_read_input_tokens == 0


def test_cache_forgets_after_five_minutes_and_after_an_hour(monkeypatch):
    cache, now = PromptCache(), 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    short, long = (body_of(system=cached(f"{ttl} {LONG}", ttl)) for ttl in ("5m", "1h"))
    for body in (short, long):
        assert cache.use(body).read == 0
    now = 301.0
    assert (cache.use(short).read, cache.use(long).read > 0) == (0, True)
    now += 3601.0
    assert cache.use(long).read == 0


async def test_tokens_are_counted_without_an_answer(claude, server):
    message = await claude.messages.create(**body_of(tools=[WEATHER]))
    counted = await claude.messages.count_tokens(model=MODEL, messages=[HELLO], tools=[WEATHER])
    assert counted.input_tokens == message.usage.input_tokens
    assert server.admin.stats()["input_tokens"] == {MODEL: message.usage.input_tokens}


REFUSED = [
    ({"model": MODEL, "messages": [HELLO]}, "max_tokens: Field required"),
    ({"model": MODEL, "max_tokens": 5}, "messages: Field required"),
    ({"max_tokens": 5, "messages": [HELLO]}, "model: Field required"),
    ({**body_of(), "messages": []}, "messages: at least one message is required"),
    (body_of(max_tokens=0), "max_tokens: must be greater than or equal to 1"),
    (body_of(max_tokens="5"), "max_tokens: Input should be a valid integer"),
    (body_of(temperature=1.5), "temperature: range: 0..1"),
    (body_of(top_p="x"), "top_p: Input should be a valid number"),
    (body_of(n=2), "n: Extra inputs are not permitted"),
    (body_of(mcp_servers=[{}]), "mcp_servers: the offline model does not serve it"),
    (body_of({"role": "system", "content": "x"}, HELLO), 'Unexpected role "system"'),
    (body_of({"role": "tool", "content": "x"}), "messages.0.role: Input should be 'user' or 'assistant'"),
    (body_of({"role": "assistant", "content": "x"}), 'first message must use the "user" role'),
    (body_of({"role": "user", "content": ""}), "messages.0: all messages must have non-empty content"),
    (body_of({"role": "user", "content": " "}), "text content blocks must contain non-whitespace text"),
    (body_of({"role": "user", "content": [CALL]}), "messages.0.content.0: Input tag 'tool_use' found"),
    (body_of({"role": "user", "content": [{"type": "input_text"}]}), "Input tag 'input_text' found using 'type'"),
    (body_of(HELLO, {"role": "assistant", "content": "So "}), "cannot end with trailing whitespace"),
    (body_of(ASKED, CALLED), "messages.1: `tool_use` ids were found without `tool_result` blocks"),
    (body_of(ASKED, CALLED, HELLO), "messages.1: `tool_use` ids were found without `tool_result` blocks"),
    (body_of(RESULTS), "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: t1"),
    (body_of(ASKED, CALLED, RESULTS, RESULTS), "messages.3.content.0: unexpected `tool_use_id`"),
    (body_of(tools=[{"name": "f"}]), "tools.0.custom.input_schema: Field required"),
    (body_of(tools=[{**WEATHER, "name": "a b"}]), "tools.0.custom.name: String should match pattern"),
    (body_of(tools=[{**WEATHER, "input_schema": {}}]), "tools.0.custom.input_schema.type: Input should be 'object'"),
    (body_of(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "no tool of type 'web_search_20250305'"),
    (body_of(tool_choice={"type": "any"}), "tool_choice: may only be specified while providing tools"),
    (body_of(tools=[WEATHER], tool_choice={"type": "required"}), "Input tag 'required' found using 'type'"),
    (body_of(tools=[WEATHER], tool_choice={"type": "tool", "name": "nope"}), "Tool 'nope' not found"),
    (body_of(thinking={"type": "on"}), "Input tag 'on' found using 'type'"),
    (body_of(thinking={"type": "enabled"}), "thinking.enabled.budget_tokens: Field required"),
    (body_of(thinking={**THINKING, "budget_tokens": 5}), "greater than or equal to 1024"),
    (body_of(thinking=THINKING, max_tokens=1000), "must be greater than `thinking.budget_tokens`"),
    (body_of(thinking=THINKING, temperature=0), "may only be set to 1 when thinking is enabled"),
    (body_of(thinking=THINKING, tools=[WEATHER], tool_choice={"type": "any"}), "may not be enabled when tool_choice"),
    (body_of(system=cached("x") * 5), "A maximum of 4 blocks with cache_control may be provided. Found 5."),
    (body_of(output_config={"format": {"type": "json"}}), "output_config.format.type: Input should be 'json_schema'"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_bad_request_gets_the_error_document_of_the_api(server, body, message):
    reply = post(server, body)
    document = reply.json()
    assert (reply.status_code, document["type"]) == (400, "error"), document
    assert document["error"]["type"] == "invalid_request_error"
    assert message in document["error"]["message"]
    assert document["request_id"] == reply.headers["request-id"] == server.admin.calls()[0]["request_id"]


def test_request_without_a_key_or_a_version_is_refused(server):
    for path in ("messages", "messages/count_tokens"):
        reply = post(server, body_of(), path, headers={"anthropic-version": "2023-06-01"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
        reply = post(server, body_of(), path, headers={"x-api-key": "k"})
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, "anthropic-version: header is required")


async def test_models_are_listed_in_the_form_of_the_api(claude):
    assert "claude-opus-4-8" in {model.id async for model in claude.models.list()}
    assert (await claude.models.retrieve("any")).id == "any"


async def test_server_with_a_list_of_models_refuses_others():
    with OfflineLLM(models=["small"]) as server:
        async with anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=0) as claude:
            for call in (claude.messages.create(**body_of()), claude.models.retrieve(MODEL)):
                with pytest.raises(anthropic.NotFoundError, match=f"model: {MODEL}"):
                    await call


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "name"),
    [
        ("429; retry_after=2", anthropic.RateLimitError, "rate_limit_error"),
        ("529", anthropic.InternalServerError, "overloaded_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("413", anthropic.APIStatusError, "request_too_large"),
    ],
)
async def test_faults_are_errors_of_the_api(claude, fault, kind, name, stream):
    with pytest.raises(kind) as caught:
        await claude.messages.create(**body_of(), stream=stream, extra_headers={"x-fault": fault})
    assert caught.value.body["error"]["type"] == name
    if "retry_after" in fault:
        assert caught.value.response.headers["retry-after"] == "2"


async def test_cut_stream_breaks_in_the_middle(claude, server):
    with pytest.raises(Exception, match="incomplete chunked read"):  # of the SDK's own copy of httpx
        async with claude.messages.stream(**body_of(), extra_headers={"x-fault": "cut"}) as stream:
            await stream.get_final_message()
    assert until_idle(server)[0]["outcome"] == "cut"


async def test_malformed_stream_is_no_message(claude):
    with pytest.raises(ValueError, match="line 1 column"):
        async with claude.messages.stream(**body_of(), extra_headers={"x-fault": "malformed"}) as stream:
            await stream.get_final_message()


def test_fields_are_those_of_the_sdk():
    known = anthropic.types.message_create_params.MessageCreateParamsBase.__annotations__.keys() | {"stream"}
    assert known <= FIELDS
