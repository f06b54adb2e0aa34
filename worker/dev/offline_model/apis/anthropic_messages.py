"""Anthropic's /v1/messages: text, tools, structured output, thinking, the prompt cache, whole or as a stream."""

from collections.abc import Iterator

from pydantic_core import from_json, to_json

from langgraph_rq.worker.dev.offline_model.answers import Answer, answer, thought
from langgraph_rq.worker.dev.offline_model.apis.anthropic_input import (
    check_message,
    message_choice,
    message_form,
    message_tools,
    messages_of,
    system_of,
)
from langgraph_rq.worker.dev.offline_model.apis.prompt_cache import CacheUse, PromptCache
from langgraph_rq.worker.dev.offline_model.chat_request import ChatRequest, tokens
from langgraph_rq.worker.dev.offline_model.errors import ANTHROPIC, Json
from langgraph_rq.worker.dev.offline_model.replies import (
    ApiRequest,
    Exchange,
    Reply,
    json_reply,
    named_event,
    pieces,
    stream_reply,
)

_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


class MessagesApi:
    """The API and its prompt cache."""

    def __init__(self) -> None:
        self._cache = PromptCache()

    def create(self, api_request: ApiRequest) -> Exchange:
        """Answer /v1/messages."""
        body = api_request.body
        check_message(body, is_count=False)
        request = _request(body)
        thinking = _thinking(body, request)
        answered = answer(request.after(thinking))
        blocks = [*_thinking_blocks(body, thinking), *_blocks(answered, api_request.id)]
        message = _message(request, answered, blocks, api_request.id)
        usage = _usage(request, self._cache.use(body), tokens(thinking), answered)
        make = _stream if request.stream else _whole
        return Exchange(make(message, usage), request.model, request.prompt, request.input_tokens, ANTHROPIC)

    @staticmethod
    def count(api_request: ApiRequest) -> Exchange:
        """Answer /v1/messages/count_tokens."""
        check_message(api_request.body, is_count=True)
        request = _request(api_request.body)
        counted = json_reply({"input_tokens": request.input_tokens})
        return Exchange(counted, request.model, request.prompt, dialect=ANTHROPIC)


def _request(body: Json) -> ChatRequest:
    tools = message_tools(body)
    form = message_form(body)
    return ChatRequest.measured(
        body["model"],
        [*system_of(body), *messages_of(body)],
        (body.get("tools"), form.schema),
        stream=bool(body.get("stream")),
        limit_tokens=body.get("max_tokens"),
        tools=tools,
        choice=message_choice(body, tools),
        is_parallel=not (body.get("tool_choice") or {}).get("disable_parallel_tool_use"),
        form=form,
        stop=body.get("stop_sequences") or (),
    )


def _thinking(body: Json, request: ChatRequest) -> str:
    """Return what the model thinks before its answer, where the request asks for it."""
    is_on = (body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}
    return thought(request) if is_on else ""


def _thinking_blocks(body: Json, thinking: str) -> Iterator[Json]:
    if thinking:
        is_omitted = body["thinking"].get("display") == "omitted"
        yield {"type": "thinking", "thinking": "" if is_omitted else thinking, "signature": "offline"}


def _blocks(answered: Answer, reply_id: str) -> Iterator[Json]:
    for i, call in enumerate(answered.tool_calls):
        yield {"type": "tool_use", "id": f"toolu_{reply_id}_{i}", "name": call.name, "input": call.arguments}
    if answered.text:
        yield {"type": "text", "text": answered.text}


def _message(request: ChatRequest, answered: Answer, blocks: list[Json], reply_id: str) -> Json:
    stopped = "stop_sequence" if answered.stopped_at is not None else _STOP_REASONS[answered.finish_reason]
    return {
        "id": f"msg_{reply_id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": blocks,
        "stop_reason": stopped,
        "stop_sequence": answered.stopped_at,
    }


def _usage(request: ChatRequest, cached: CacheUse, thinking_tokens: int, answered: Answer) -> Json:
    """Count the tokens; the cache's are not in `input_tokens`, as the API has it."""
    read, written = cached.read, cached.written_5m + cached.written_1h
    return {
        "input_tokens": request.input_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": cached.written_5m,
            "ephemeral_1h_input_tokens": cached.written_1h,
        },
        "output_tokens": answered.output_tokens + thinking_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
        "service_tier": "standard",
    }


def _whole(message: Json, usage: Json) -> Reply:
    blocks = [_with_input(block) for block in message["content"]]
    body = to_json({**message, "content": blocks, "usage": usage})
    return Reply(200, (body,), output_tokens=usage["output_tokens"], billed=True)


def _with_input(block: Json) -> Json:
    """Give a tool call its arguments; those that were cut at the token limit as far as they came."""
    if block["type"] != "tool_use":
        return block
    return {**block, "input": from_json(block["input"] or "{}", allow_partial=True)}


def _stream(message: Json, usage: Json) -> Reply:
    events = [named_event(event) for event in _events(message, usage)]
    return stream_reply(events, usage["output_tokens"])


def _events(message: Json, usage: Json) -> Iterator[Json]:
    nothing: Json = {"content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**message, **nothing, "usage": {**usage, "output_tokens": 1}}}
    for index, block in enumerate(message["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **_EMPTY[block["type"]]}}
        if not index:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    yield {"type": "message_delta", "delta": ended, "usage": usage}
    yield {"type": "message_stop"}


_EMPTY: dict[str, Json] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def _deltas(block: Json) -> Iterator[Json]:
    if block["type"] == "text":
        for piece in pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}
    elif block["type"] == "tool_use":
        for piece in pieces(block["input"]):
            yield {"type": "input_json_delta", "partial_json": piece}
    else:
        for piece in pieces(block["thinking"]):
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": block["signature"]}
