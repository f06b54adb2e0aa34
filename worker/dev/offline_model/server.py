"""The HTTP application of the offline model: plain ASGI on uvicorn.

Model routes: POST /v1/chat/completions, POST /v1/embeddings, GET /v1/models. Every request under /v1/ is one call in
the log. A call first waits the latency; a stream waits half of it before its first words and spreads the rest.

Admin routes: GET, POST, DELETE /admin/faults (a JSON list of rules; POST replaces all);
GET /admin/calls?since=N, DELETE /admin/calls; GET /admin/stats; POST /admin/latency {"latency_s": 0.5};
POST /admin/headers {"name": "value"}, sent with each answer.
"""

import asyncio
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from pydantic_core import from_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from langgraph_rq.worker.dev.offline_model.answers import BadRequestError
from langgraph_rq.worker.dev.offline_model.call_log import CallLog, CallRecord
from langgraph_rq.worker.dev.offline_model.faults import ERRORS, ErrorReply, FaultPlan, FaultRule, positive
from langgraph_rq.worker.dev.offline_model.openai_replies import (
    Exchange,
    Reply,
    chat,
    embeddings,
    error_reply,
    json_reply,
    models,
)
from langgraph_rq.worker.dev.offline_model.sample_values import Json

_ROUTES: dict[tuple[str, str], Callable[[Json, str], Exchange]] = {
    ("POST", "/v1/chat/completions"): chat,
    ("POST", "/v1/embeddings"): embeddings,
    ("GET", "/v1/models"): models,
}

_LOGGED_HEADERS = {b"x-request-id", b"traceparent"}
_LOGGED_PREFIX = b"x-task-"

_KEEP_ALIVE_S = 3600
"""Longer than any client's: if the server closed an idle connection, a client reusing it would see an error."""

_DRAIN_S = 5
"""How long calls in flight may continue after SIGTERM."""


class _Protocol(HttpToolsProtocol):
    """Passes the connection to the application, which closes or resets it for a fault."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"offline": {"transport": self.transport}}


@dataclass(frozen=True, slots=True)
class _Connection:
    """The connection of one request."""

    receive: Callable[[], Any]
    send: Callable[[Any], Any]
    transport: asyncio.Transport

    async def body(self) -> bytes | None:
        """Read the request's body; None: the client disconnected first."""
        body = b""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return None
            body += bytes(message["body"])
            if not message["more_body"]:
                return body

    async def left(self) -> None:
        """Wait until the client disconnects."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def leaves_within(self, seconds: float) -> bool:
        """Wait; return whether the client disconnected meanwhile."""
        if not seconds:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.left()
        except TimeoutError:
            return False
        return True

    async def start(self, reply: Reply) -> None:
        await self.send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})

    async def write(self, body: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def close(self) -> None:
        """Close it in the middle of a reply, after flushing."""
        self.transport.close()
        await self.left()

    async def reset(self) -> None:
        """Reset it."""
        linger = struct.pack("ii", 1, 0)  # on, for zero seconds: the kernel sends RST
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()
        await self.left()


class OfflineModel:
    """The ASGI application.

    Args:
        calls: The call log.
        latency_s: Seconds before each answer, until changed through /admin/latency.
    """

    def __init__(self, calls: CallLog, latency_s: float = 0.0) -> None:
        self._calls = calls
        self._faults = FaultPlan()
        self._latency_s = latency_s
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        # Ids differ between servers: LangGraph treats two messages with the same id as one message.
        self._ids = (f"{boot}{n}" for boot in [secrets.token_hex(4)] for n in count(1))
        self._hanging: set[_Connection] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request."""
        connection = _Connection(receive, send, scope["extensions"]["offline"]["transport"])
        body = await connection.body()
        if body is None:
            return
        if scope["path"].startswith("/v1/"):
            await self._serve_call(scope, body, connection)
        else:
            reply = self._admin(scope["method"], scope["path"], scope["query_string"].decode(), body)
            await connection.start(reply)
            await connection.write(reply.bursts[0], more=False)

    def drop_hanging(self) -> None:
        """Abort the connections of hanging calls, so that the server can stop."""
        for connection in self._hanging:
            connection.transport.abort()

    async def _serve_call(self, scope: Any, body: bytes, connection: _Connection) -> None:
        logged, command = _headers(scope["headers"])
        exchange = self._exchange(scope["method"], scope["path"], body)
        rule = None
        try:
            rule = FaultRule.from_header(command) if command else self._faults.choose(exchange.model, exchange.prompt)
        except ValueError as error:
            exchange = Exchange(_bad_request(f"x-fault: {error}"), exchange.model, exchange.prompt)
        record = self._calls.accept(
            scope["path"],
            exchange.model,
            exchange.prompt,
            exchange.input_tokens,
            stream=exchange.reply.stream,
            fault=rule.fault if rule else None,
            headers=logged,
        )
        try:
            await self._perform(record, rule, exchange.reply, connection)
        finally:
            self._calls.end(record)

    def _exchange(self, method: str, path: str, body: bytes) -> Exchange:
        route = _ROUTES.get((method, path))
        if route is None:
            known = ", ".join(" ".join(one) for one in _ROUTES)
            return Exchange(error_reply(ErrorReply(404, "invalid_request_error", None, f"expected one of {known}")))
        try:
            return route(_object(body) if method == "POST" else {}, next(self._ids))
        except BadRequestError as error:
            return Exchange(_bad_request(str(error), error.param))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            # A field does not have the API's shape.
            return Exchange(_bad_request(f"not a valid request: {type(error).__name__}: {error}"))

    async def _perform(self, record: CallRecord, rule: FaultRule | None, reply: Reply, connection: _Connection) -> None:
        """Wait the latency, reply or apply the fault, and record the outcome."""
        fault = rule.fault if rule else None
        latency_s = self._latency_s if rule is None or rule.latency_s is None else rule.latency_s
        if fault == "hang":
            record.outcome = "hung"
            await self._hang(connection)
            return
        if rule and fault in ERRORS:
            reply = error_reply(ERRORS[fault], retry_after_s=rule.retry_after_s)
        elif fault == "malformed":
            reply = reply.malformed()
        if fault != "reset":
            record.billed = reply.billed
            record.output_tokens = reply.output_tokens
        record.outcome = "left"  # until the reply is complete
        if await connection.leaves_within(latency_s / 2 if reply.stream else latency_s):
            return
        if fault == "reset":
            record.outcome = "cut"
            await connection.reset()
            return
        record.status = reply.status
        reply = replace(reply, extra_headers=(*reply.extra_headers, *self._headers))
        await self._send(record, reply, connection, latency_s, cut=fault == "cut")

    async def _send(
        self, record: CallRecord, reply: Reply, connection: _Connection, latency_s: float, *, cut: bool
    ) -> None:
        pause_s = latency_s / 2 / max(1, len(reply.bursts) - 1)
        bursts = reply.first_half if cut else reply.bursts
        await connection.start(reply)
        for i, burst in enumerate(bursts):
            if i and await connection.leaves_within(pause_s):
                return
            await connection.write(burst, more=cut or i < len(bursts) - 1)
        if cut:
            record.outcome = "cut"
            record.output_tokens = reply.output_tokens // 2 if reply.stream else reply.output_tokens
            await connection.close()
        else:
            record.outcome = "completed"

    async def _hang(self, connection: _Connection) -> None:
        self._hanging.add(connection)
        await connection.left()
        self._hanging.discard(connection)

    def _admin(self, method: str, path: str, query: str, body: bytes) -> Reply:
        try:
            value = self._administer(method, path, query, body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _bad_request(str(error))
        if value is None:
            return error_reply(ErrorReply(404, "invalid_request_error", None, f"no such route: {method} {path}"))
        return json_reply(value)

    def _administer(self, method: str, path: str, query: str, body: bytes) -> Any:
        match method, path:
            case "GET", "/admin/calls":
                return self._calls.since(int(parse_qs(query).get("since", ["0"])[0]))
            case "DELETE", "/admin/calls":
                self._calls.clear()
            case "GET", "/admin/stats":
                return {**self._calls.stats(), "latency_s": self._latency_s}
            case "GET", "/admin/faults":
                return self._faults.as_json()
            case "POST", "/admin/faults":
                self._faults.replace([FaultRule.from_json(rule) for rule in from_json(body)])
            case "DELETE", "/admin/faults":
                self._faults.replace([])
            case "POST", "/admin/latency":
                self._latency_s = positive("latency_s", _object(body)["latency_s"])
            case "POST", "/admin/headers":
                self._headers = tuple((name.encode(), value.encode()) for name, value in _object(body).items())
            case _:
                return None
        return {"ok": True}


def _headers(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], str]:
    """Return the headers to log, and the value of x-fault."""
    logged: dict[str, str] = {}
    command = ""
    for name, value in headers:
        if name in _LOGGED_HEADERS or name.startswith(_LOGGED_PREFIX):
            logged[name.decode("latin-1")] = value.decode("latin-1")
        elif name == b"x-fault":
            command = value.decode("latin-1")
    return logged, command


def _object(body: bytes) -> Json:
    value = from_json(body)
    if not isinstance(value, dict):
        raise BadRequestError("expected the body to be a JSON object")
    return value


def _bad_request(message: str, param: str | None = None) -> Reply:
    return error_reply(ErrorReply(400, "invalid_request_error", None, message), param)


class _Server(uvicorn.Server):
    """Announces its URL at startup and drops hanging calls at shutdown."""

    def __init__(self, config: uvicorn.Config, model: OfflineModel, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._model = model
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._model.drop_hanging()
        await super().shutdown(sockets)


def serve(
    model: OfflineModel, listener: socket.socket, announce: Callable[[], None], *, with_parent: bool = False
) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT; `with_parent`: or until standard input closes."""
    config = uvicorn.Config(
        model,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Server(config, model, announce)
    if with_parent:
        threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def _end_with_parent(server: uvicorn.Server) -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe closes, even by kill -9
    server.should_exit = True
