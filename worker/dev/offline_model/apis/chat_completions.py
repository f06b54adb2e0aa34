"""OpenAI's /v1/chat/completions: tools, custom tools, structured output, streams, several answers, logprobs."""

import time
from collections.abc import Iterator

import orjson

from langgraph_rq.worker.dev.offline_model.answers import Answer, ToolCall, answer
from langgraph_rq.worker.dev.offline_model.apis.chat_checks import (
    chat_choice,
    chat_form,
    chat_tools,
    check_chat,
    messages_of,
    stop_words,
)
from langgraph_rq.worker.dev.offline_model.apis.checks import model_of
from langgraph_rq.worker.dev.offline_model.chat_request import ChatRequest
from langgraph_rq.worker.dev.offline_model.errors import Json
from langgraph_rq.worker.dev.offline_model.replies import ApiRequest, Exchange, Reply, data_event, pieces, stream_reply

_NEVER = -9999.0
"""The logprob that the API reports for a token that was no candidate."""

_INPUT_DETAILS = {"cached_tokens": 0, "audio_tokens": 0}
_OUTPUT_DETAILS = {
    "reasoning_tokens": 0,
    "audio_tokens": 0,
    "accepted_prediction_tokens": 0,
    "rejected_prediction_tokens": 0,
}


def complete_chat(api_request: ApiRequest) -> Exchange:
    """Answer /v1/chat/completions."""
    body = api_request.body
    request = _read(body)
    answered = answer(request)
    reply = (_stream if request.stream else _whole)(request, answered, body, api_request.id)
    return Exchange(reply, request.model, request.prompt, request.input_tokens)


def _read(body: Json) -> ChatRequest:
    model = model_of(body)
    messages = messages_of(body)
    check_chat(body)
    tools = chat_tools(body)
    limit = body.get("max_completion_tokens")
    return ChatRequest.measured(
        model,
        messages,
        (body.get("tools"), body.get("response_format")),
        stream=bool(body.get("stream")),
        limit_tokens=body.get("max_tokens") if limit is None else limit,
        tools=tools,
        choice=chat_choice(body, tools),
        is_parallel=body.get("parallel_tool_calls") is not False,
        form=chat_form(body, messages),
        stop=stop_words(body),
    )


def _usage(request: ChatRequest, output_tokens: int) -> Json:
    return {
        "prompt_tokens": request.input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": request.input_tokens + output_tokens,
        "prompt_tokens_details": _INPUT_DETAILS,
        "completion_tokens_details": _OUTPUT_DETAILS,
    }


def _answers(body: Json) -> int:
    """Return the number of answers that the request asks for; all are the same."""
    return body.get("n") or 1


def _calls(answered: Answer, prefix: str) -> list[Json]:
    return [{"id": f"call_{prefix}_{i}", **_call(call)} for i, call in enumerate(answered.tool_calls)]


def _call(call: ToolCall) -> Json:
    if call.is_custom:
        return {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _logprobs(text: str, body: Json) -> Json | None:
    """Report each word as a token that was certain; the other candidates were none."""
    if not body.get("logprobs"):
        return None
    others = [_token(f"<{i}>", _NEVER) for i in range(1, body.get("top_logprobs") or 0)]
    tokens = [_token(piece, 0.0) for piece in pieces(text)]
    top = bool(body.get("top_logprobs"))
    return {
        "content": [{**token, "top_logprobs": [token, *others] if top else []} for token in tokens],
        "refusal": None,
    }


def _token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _whole(request: ChatRequest, answered: Answer, body: Json, reply_id: str) -> Reply:
    answers = _answers(body)
    message: Json = {"role": "assistant", "content": answered.text, "refusal": None, "annotations": []}
    if answered.tool_calls:
        message |= {"content": None, "tool_calls": _calls(answered, reply_id)}
    choice = {
        "message": message,
        "logprobs": _logprobs(answered.text, body),
        "finish_reason": answered.finish_reason,
    }
    output_tokens = answered.output_tokens * answers
    value = {
        "id": f"chatcmpl-{reply_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": i, **choice} for i in range(answers)],
        "usage": _usage(request, output_tokens),
        "service_tier": "default",
    }
    return Reply(200, (orjson.dumps(value),), output_tokens=output_tokens, billed=True)


def _stream(request: ChatRequest, answered: Answer, body: Json, reply_id: str) -> Reply:
    output_tokens = answered.output_tokens * _answers(body)
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    chunk = {
        "id": f"chatcmpl-{reply_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.model,
        "service_tier": "default",
        **({"usage": None} if with_usage else {}),
    }
    # Each event differs in its one choice only: the rest is written once.
    before = b'%b,"choices":[' % data_event(chunk).removesuffix(b"}\n\n")
    events = [
        b"%b%b]}\n\n" % (before, orjson.dumps({"index": i, **choice}))
        for i in range(_answers(body))
        for choice in _choices(answered, body, reply_id)
    ]
    if with_usage:
        events.append(data_event({**chunk, "choices": [], "usage": _usage(request, output_tokens)}))
    events.append(b"data: [DONE]\n\n")
    return stream_reply(events, output_tokens)


def _choices(answered: Answer, body: Json, reply_id: str) -> Iterator[Json]:
    """Yield word by word the role, the text, for each tool call its name and arguments, and the end."""
    nothing = None if answered.tool_calls else ""
    yield _piece({"role": "assistant", "content": nothing, "refusal": None})
    for piece in pieces(answered.text):
        yield _piece({"content": piece}, _logprobs(piece, body))
    for i, call in enumerate(_calls(answered, reply_id)):
        kind = call["type"]
        field = "input" if kind == "custom" else "arguments"
        about = call[kind]
        yield _piece({"tool_calls": [{"index": i, **call, kind: {"name": about["name"], field: ""}}]})
        for piece in pieces(about[field]):
            yield _piece({"tool_calls": [{"index": i, kind: {field: piece}}]})
    yield {"delta": {}, "logprobs": None, "finish_reason": answered.finish_reason}


def _piece(delta: Json, logprobs: Json | None = None) -> Json:
    return {"delta": delta, "logprobs": logprobs, "finish_reason": None}
