"""OpenAI's /v1/responses: items for the answer, its tool calls and the model's reasoning, whole or as a stream."""

import time
from collections.abc import Iterator

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.answers import Answer, answer, thought
from langgraph_rq.worker.dev.offline_model.apis.checks import model_of
from langgraph_rq.worker.dev.offline_model.apis.responses_input import (
    StoredResponses,
    check_response,
    messages_of,
    response_choice,
    response_form,
    response_tools,
)
from langgraph_rq.worker.dev.offline_model.chat_request import ChatRequest, tokens
from langgraph_rq.worker.dev.offline_model.errors import Json
from langgraph_rq.worker.dev.offline_model.replies import (
    ApiRequest,
    Exchange,
    Reply,
    named_event,
    pieces,
    stream_reply,
)


class ResponsesApi:
    """The API and the responses that it keeps for `previous_response_id`."""

    def __init__(self) -> None:
        self._stored = StoredResponses()

    def respond(self, api_request: ApiRequest) -> Exchange:
        """Answer /v1/responses."""
        body = api_request.body
        model = model_of(body)
        check_response(body)
        messages = messages_of(body, self._stored)
        request = _request(model, body, messages)
        thinking = _thinking(body, request)
        answered = answer(request.after(thinking))
        items = [*_reasoning(body, thinking, api_request.id), *_items(answered, api_request.id)]
        if body.get("store") is not False:
            self._stored.keep(f"resp_{api_request.id}", [*messages, *_as_messages(items)])
        reply = _reply(request, answered, thinking, items, api_request)
        return Exchange(reply, request.model, request.prompt, request.input_tokens)


def _request(model: str, body: Json, messages: list[Json]) -> ChatRequest:
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    tools = response_tools(body)
    return ChatRequest.measured(
        model,
        [*system, *messages],
        (body.get("tools"), (body.get("text") or {}).get("format")),
        stream=bool(body.get("stream")),
        limit_tokens=body.get("max_output_tokens"),
        tools=tools,
        choice=response_choice(body, tools),
        is_parallel=body.get("parallel_tool_calls") is not False,
        form=response_form(body, messages),
    )


def _thinking(body: Json, request: ChatRequest) -> str:
    """Return what the model thinks before its answer; it does so where the request asks for `reasoning`."""
    reasoning = body.get("reasoning") or {}
    return thought(request) if reasoning and reasoning.get("effort") != "none" else ""


def _reasoning(body: Json, thinking: str, reply_id: str) -> Iterator[Json]:
    if not thinking:
        return
    summary = [{"type": "summary_text", "text": thinking}] if body["reasoning"].get("summary") else []
    item: Json = {"id": f"rs_{reply_id}", "type": "reasoning", "summary": summary}
    if "reasoning.encrypted_content" in (body.get("include") or ()):
        item["encrypted_content"] = "offline"
    yield item


def _items(answered: Answer, reply_id: str) -> Iterator[Json]:
    status = "incomplete" if answered.finish_reason == "length" else "completed"
    for i, call in enumerate(answered.tool_calls):
        about: Json = {"status": status, "call_id": f"call_{reply_id}_{i}", "name": call.name}
        if call.is_custom:
            yield {"id": f"ctc_{reply_id}_{i}", "type": "custom_tool_call", **about, "input": call.arguments}
        else:
            yield {"id": f"fc_{reply_id}_{i}", "type": "function_call", **about, "arguments": call.arguments}
    if not answered.tool_calls:
        content = [_text_part(answered.text)]
        yield {"id": f"msg_{reply_id}", "type": "message", "status": status, "role": "assistant", "content": content}


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _as_messages(items: list[Json]) -> list[Json]:
    """Give the model's answer as a message, for the conversation that is kept."""
    text = [part for item in items if item["type"] == "message" for part in item["content"]]
    calls = [_as_call(item) for item in items if "call_id" in item]
    return [{"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}]


def _as_call(item: Json) -> Json:
    kind, field = ("custom", "input") if item["type"] == "custom_tool_call" else ("function", "arguments")
    return {"id": item["call_id"], "type": kind, kind: {"name": item["name"], field: item[field]}}


def _reply(request: ChatRequest, answered: Answer, thinking: str, items: list[Json], api_request: ApiRequest) -> Reply:
    body = api_request.body
    is_cut = answered.finish_reason == "length"
    reasoning_tokens = tokens(thinking)
    output_tokens = answered.output_tokens + reasoning_tokens
    started = {
        "id": f"resp_{api_request.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.is_parallel,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "store": body.get("store") is not False,
        "temperature": 1.0 if body.get("temperature") is None else body["temperature"],
        "text": {"format": {"type": "text"}, **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0 if body.get("top_p") is None else body["top_p"],
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }
    ended = {
        **started,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": items,
        "usage": {
            "input_tokens": request.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
            "total_tokens": request.input_tokens + output_tokens,
        },
    }
    if not request.stream:
        return Reply(200, (to_json(ended),), output_tokens=output_tokens, billed=True)
    events = enumerate(_events(started, items, ended))
    return stream_reply([named_event({**event, "sequence_number": n}) for n, event in events], output_tokens)


def _events(started: Json, items: list[Json], ended: Json) -> Iterator[Json]:
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for index, item in enumerate(items):
        place = {"item_id": item["id"], "output_index": index}
        empty = {name: [] if isinstance(item[name], list) else "" for name in _FIELDS[item["type"]]}
        added = {**item, **empty, **({"status": "in_progress"} if "status" in item else {})}
        yield {"type": "response.output_item.added", "output_index": index, "item": added}
        yield from _parts(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{ended['status']}", "response": ended}


_FIELDS = {
    "message": ("content",),
    "function_call": ("arguments",),
    "custom_tool_call": ("input",),
    "reasoning": ("summary",),
}
"""Types of items -> what is empty when they begin."""


def _parts(item: Json, place: Json) -> Iterator[Json]:
    """Yield the events between an item's beginning and its end."""
    kind = item["type"]
    if kind == "message":
        (part,) = item["content"]
        at = {**place, "content_index": 0}
        yield {"type": "response.content_part.added", **at, "part": _text_part("")}
        yield from _deltas("response.output_text", {**at, "logprobs": []}, "text", part["text"])
        yield {"type": "response.content_part.done", **at, "part": part}
    elif kind == "reasoning":
        for part in item["summary"]:
            at = {**place, "summary_index": 0}
            yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
            yield from _deltas("response.reasoning_summary_text", at, "text", part["text"])
            yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
    elif kind == "function_call":
        at = {**place, "name": item["name"]}
        yield from _deltas("response.function_call_arguments", at, "arguments", item["arguments"])
    else:
        yield from _deltas("response.custom_tool_call_input", place, "input", item["input"])


def _deltas(name: str, place: Json, field: str, text: str) -> Iterator[Json]:
    for piece in pieces(text):
        yield {"type": f"{name}.delta", **place, "delta": piece}
    yield {"type": f"{name}.done", **place, field: text}
