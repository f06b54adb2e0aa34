"""The replies of the OpenAI API: JSON bodies and event streams."""

import base64
import math
import re
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.answers import (
    Answer,
    BadRequestError,
    ChatRequest,
    answer,
    embedding,
    model_of,
    tokens,
)
from langgraph_rq.worker.dev.offline_model.faults import ErrorReply
from langgraph_rq.worker.dev.offline_model.sample_values import Json

MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small", "text-embedding-3-large")
"""The models that /v1/models lists; any other name is accepted as well."""

DIMENSIONS = {"text-embedding-3-large": 3072}
DEFAULT_DIMENSIONS = 1536

_BURSTS = 5
"""The most writes per stream, so that one core can serve many streams at once."""

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply: a body (one burst) or the bursts of a stream, and the tokens that a provider would bill."""

    status: int
    bursts: tuple[bytes, ...]
    stream: bool = False
    output_tokens: int = 0
    billed: bool = False
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of the complete reply, also for one that is cut."""
        if self.stream:
            return [_EVENTS, *self.extra_headers]
        return [_JSON, (b"content-length", b"%d" % len(self.bursts[0])), *self.extra_headers]

    @property
    def first_half(self) -> tuple[bytes, ...]:
        """The part that a client receives when the connection is cut."""
        if self.stream:
            return self.bursts[: len(self.bursts) // 2]
        return (self.bursts[0][: len(self.bursts[0]) // 2],)

    def malformed(self) -> Self:
        """Return the same reply with a body that is not JSON."""
        return replace(self, bursts=(b'data: {"id": "chatcmpl\n\n',) if self.stream else (b'{"id": "chatcmpl',))


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request's model and prompt, for the call log and the fault rules, and the reply without a fault."""

    reply: Reply
    model: str = ""
    prompt: str = ""
    input_tokens: int = 0


def json_reply(value: Any, status: int = 200) -> Reply:
    """Make a reply of a JSON value that is not billed."""
    return Reply(status, (to_json(value),))


def error_reply(error: ErrorReply, param: str | None = None, retry_after_s: float | None = None) -> Reply:
    """Make an error reply; Retry-After is in whole seconds, rounded up, and retry-after-ms is exact."""
    body = {"error": {"message": error.message, "type": error.type, "param": param, "code": error.code}}
    if retry_after_s is None:
        return json_reply(body, error.status)
    wait = (
        (b"retry-after", b"%d" % math.ceil(retry_after_s)),
        (b"retry-after-ms", b"%d" % round(retry_after_s * 1000)),
    )
    return replace(json_reply(body, error.status), extra_headers=wait)


def chat(body: Json, reply_id: str) -> Exchange:
    """Answer /v1/chat/completions."""
    request = ChatRequest.from_body(body)
    answered = answer(request)
    reply = Reply(
        status=200,
        bursts=_in_bursts(list(_events(request, answered, reply_id)))
        if request.stream
        else (_body(request, answered, reply_id),),
        stream=request.stream,
        output_tokens=answered.output_tokens,
        billed=True,
    )
    return Exchange(reply, request.model, request.prompt, request.input_tokens)


def _usage(request: ChatRequest, answered: Answer) -> Json:
    return {
        "prompt_tokens": request.input_tokens,
        "completion_tokens": answered.output_tokens,
        "total_tokens": request.input_tokens + answered.output_tokens,
    }


def _calls(answered: Answer, reply_id: str) -> list[Json]:
    return [
        {
            "id": f"call_{reply_id}_{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(answered.tool_calls)
    ]


def _body(request: ChatRequest, answered: Answer, reply_id: str) -> bytes:
    message: Json = {"role": "assistant", "content": answered.text, "refusal": None}
    if answered.tool_calls:
        message |= {"content": None, "tool_calls": _calls(answered, reply_id)}
    return to_json(
        {
            "id": f"chatcmpl-{reply_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish_reason}],
            "usage": _usage(request, answered),
        }
    )


def _events(request: ChatRequest, answered: Answer, reply_id: str) -> Iterator[bytes]:
    chunk = {
        "id": f"chatcmpl-{reply_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.model,
        **({"usage": None} if request.include_usage else {}),
    }
    for delta in _deltas(answered, reply_id):
        yield _event({**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]})
    end = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": answered.finish_reason}
    yield _event({**chunk, "choices": [end]})
    if request.include_usage:
        yield _event({**chunk, "choices": [], "usage": _usage(request, answered)})
    yield b"data: [DONE]\n\n"


def _event(value: Json) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _deltas(answered: Answer, reply_id: str) -> Iterator[Json]:
    """Yield word by word the role, the text, and for each tool call its name and arguments."""
    yield {"role": "assistant", "content": None if answered.tool_calls else "", "refusal": None}
    for piece in _pieces(answered.text):
        yield {"content": piece}
    for i, call in enumerate(_calls(answered, reply_id)):
        function = call["function"]
        yield {"tool_calls": [{"index": i, **call, "function": {"name": function["name"], "arguments": ""}}]}
        for piece in _pieces(function["arguments"]):
            yield {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}


def _pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _in_bursts(events: list[bytes]) -> tuple[bytes, ...]:
    size = math.ceil(len(events) / _BURSTS)
    return tuple(b"".join(events[i : i + size]) for i in range(0, len(events), size))


def embeddings(body: Json, _reply_id: str) -> Exchange:
    """Answer /v1/embeddings: texts or token ids, as lists of floats or base64 of little-endian 32-bit floats."""
    model = model_of(body)
    texts = _texts(body.get("input"))
    dimensions = body.get("dimensions") or DIMENSIONS.get(model, DEFAULT_DIMENSIONS)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= max(DIMENSIONS.values()):
        raise BadRequestError(
            f"expected dimensions to be 1 to {max(DIMENSIONS.values())}, got: {dimensions}", "dimensions"
        )
    vectors: list[Any] = [embedding(text, dimensions) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(array("f", vector).tobytes()).decode() for vector in vectors]
    input_tokens = sum(map(tokens, texts))
    value = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
    return Exchange(replace(json_reply(value), billed=True), model, "\n".join(texts), input_tokens)


def _texts(value: Any) -> list[str]:
    """Validate the input: a text, token ids, or a list of either."""
    many = value if isinstance(value, list) and not all(isinstance(one, int) for one in value) else [value]
    if not value or not all(isinstance(one, str | list) for one in many):
        raise BadRequestError("expected input to be a text, token ids, or a list of either", "input")
    return [one if isinstance(one, str) else " ".join(map(str, one)) for one in many]


def models(_body: Json, _reply_id: str) -> Exchange:
    """Answer /v1/models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "offline"} for name in MODELS]
    return Exchange(json_reply({"object": "list", "data": data}))
