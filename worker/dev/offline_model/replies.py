"""Requests and replies as all APIs of the server share them: headers, bodies, event streams."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.errors import OPENAI, Dialect, ErrorReply, Json

_BURSTS = 5
"""The most writes per stream, so that one core can serve many streams at once."""

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class ApiRequest(NamedTuple):
    """One request: its JSON body, the headers that the APIs read, and the id that its reply carries."""

    body: Json
    headers: Mapping[bytes, str]
    id: str


class Reply(NamedTuple):
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

    def malformed(self) -> "Reply":
        """Return the same reply with a body that is not JSON; the first event of a stream keeps its name."""
        body = b'{"id": "broken'
        before = self.bursts[0].partition(b"data: ")[0]
        return self._replace(bursts=(before + b"data: " + body + b"\n\n",) if self.stream else (body,))


class Exchange(NamedTuple):
    """A request's model and prompt, for the call log and the fault rules, and the reply without a fault."""

    reply: Reply
    model: str = ""
    prompt: str = ""
    input_tokens: int = 0
    dialect: Dialect = OPENAI


def json_reply(value: Any, status: int = 200) -> Reply:
    """Make a reply of a JSON value that is not billed."""
    return Reply(status, (to_json(value),))


def error_reply(
    error: ErrorReply, dialect: Dialect = OPENAI, request_id: str = "", retry_after_s: float | None = None
) -> Reply:
    """Make an error reply; Retry-After is in whole seconds, rounded up, and retry-after-ms is exact."""
    reply = json_reply(dialect.document(error, request_id), error.status)
    if retry_after_s is None:
        return reply
    wait = (
        (b"retry-after", b"%d" % math.ceil(retry_after_s)),
        (b"retry-after-ms", b"%d" % round(retry_after_s * 1000)),
    )
    return reply._replace(extra_headers=wait)


def data_event(value: Json) -> bytes:
    """Write one event of a stream without names."""
    return b"data: %b\n\n" % orjson.dumps(value)


def named_event(value: Json) -> bytes:
    """Write one event of a stream whose events are named by their type."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), to_json(value))


def stream_reply(events: list[bytes], output_tokens: int) -> Reply:
    """Make the reply of a stream, in a few bursts."""
    size = math.ceil(len(events) / _BURSTS)
    bursts = tuple(b"".join(events[i : i + size]) for i in range(0, len(events), size))
    return Reply(200, bursts, stream=True, output_tokens=output_tokens, billed=True)


def pieces(text: str) -> list[str]:
    """Split a text word by word, as a stream sends it."""
    return re.findall(r"\S+\s*|\s+", text)
