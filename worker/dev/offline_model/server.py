"""The HTTP application of the offline model: plain ASGI on uvicorn.

Every request under /v1/ goes to `apis` and is one call in the log; its id is sent as x-request-id (Anthropic:
request-id). A call first waits the latency; a stream waits half of it before its first words and spreads the rest.

Admin routes: GET, POST, DELETE /admin/faults (a JSON list of rules; POST replaces all);
GET /admin/calls?since=N, DELETE /admin/calls; GET /admin/stats; POST /admin/latency {"latency_s": 0.5};
POST /admin/headers {"name": "value"}, sent with each answer.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from pydantic_core import from_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from langgraph_rq.worker.dev.offline_model.apis.routes import KEY_HEADERS, Routes
from langgraph_rq.worker.dev.offline_model.call_log import CallLog, CallRecord
from langgraph_rq.worker.dev.offline_model.connection import Connection
from langgraph_rq.worker.dev.offline_model.errors import Dialect, ErrorReply, Json
from langgraph_rq.worker.dev.offline_model.faults import ERRORS, FaultPlan, FaultRule, positive
from langgraph_rq.worker.dev.offline_model.replies import Reply, error_reply, json_reply

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


class OfflineModel:
    """The ASGI application.

    Args:
        calls: The call log.
        latency_s: Seconds before each answer, until changed through /admin/latency.
        models: The models that exist. Empty: any name is accepted.
    """

    def __init__(self, calls: CallLog, latency_s: float = 0.0, models: Sequence[str] = ()) -> None:
        self._calls = calls
        self._routes = Routes(models)
        self._faults = FaultPlan()
        self._latency_s = latency_s
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        # Ids differ between servers: LangGraph treats two messages with the same id as one message.
        self._ids = (f"{boot}{n}" for boot in [secrets.token_hex(4)] for n in count(1))
        self._hanging: set[Connection] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request."""
        connection = Connection(receive, send, scope["extensions"]["offline"]["transport"])
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

    async def _serve_call(self, scope: Any, body: bytes, connection: Connection) -> None:
        logged, headers, command = _headers(scope["headers"])
        request_id = next(self._ids)
        exchange = self._routes.answer(scope["method"], scope["path"], body, headers, request_id)
        rule = None
        try:
            rule = FaultRule.from_header(command) if command else self._faults.choose(exchange.model, exchange.prompt)
        except ValueError as error:
            exchange = exchange._replace(reply=_bad_request(f"x-fault: {error}"))
        record = self._calls.accept(
            scope["path"],
            exchange.model,
            exchange.prompt,
            exchange.input_tokens,
            stream=exchange.reply.stream,
            fault=rule.fault if rule else None,
            headers=logged,
            request_id=f"req_{request_id}",
        )
        try:
            await self._perform(record, rule, exchange.reply, exchange.dialect, connection)
        finally:
            self._calls.end(record)

    async def _perform(
        self, record: CallRecord, rule: FaultRule | None, reply: Reply, dialect: Dialect, connection: Connection
    ) -> None:
        """Wait the latency, reply or apply the fault, and record the outcome."""
        fault = rule.fault if rule else None
        latency_s = self._latency_s if rule is None or rule.latency_s is None else rule.latency_s
        if fault == "hang":
            record.outcome = "hung"
            await self._hang(connection)
            return
        if rule and fault in ERRORS:
            reply = error_reply(ERRORS[fault], dialect, record.request_id, rule.retry_after_s)
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
        await connection.start(reply, (dialect.id_header, record.request_id.encode()), *self._headers)
        await self._send(record, reply, connection, latency_s, cut=fault == "cut")

    async def _send(
        self, record: CallRecord, reply: Reply, connection: Connection, latency_s: float, *, cut: bool
    ) -> None:
        pause_s = latency_s / 2 / max(1, len(reply.bursts) - 1)
        bursts = reply.first_half if cut else reply.bursts
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

    async def _hang(self, connection: Connection) -> None:
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


def _headers(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], dict[bytes, str], str]:
    """Return the headers to log, those that the APIs read, and the value of x-fault."""
    logged: dict[str, str] = {}
    read: dict[bytes, str] = {}
    command = ""
    for name, value in headers:
        if name in KEY_HEADERS:
            read[name] = value.decode("latin-1")
        elif name in _LOGGED_HEADERS or name.startswith(_LOGGED_PREFIX):
            logged[name.decode("latin-1")] = value.decode("latin-1")
        elif name == b"x-fault":
            command = value.decode("latin-1")
    return logged, read, command


def _object(body: bytes) -> Json:
    value = from_json(body)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - of the client's value, not of ours
    return value


def _bad_request(message: str) -> Reply:
    return error_reply(ErrorReply(400, "invalid_request_error", None, message))


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
