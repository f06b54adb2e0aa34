"""The connections of a gateway process: how many there may be, and how long each may keep the process waiting.

uvicorn bounds neither the number of silent connections, nor the time in which a request's head arrives, nor the time
that a client takes for an answer; its limit on concurrency refuses all requests once silent connections fill it. Here a
connection at the limit takes the place of the oldest one that waits for a request, so that no client is kept out.
"""

import asyncio
import ctypes
import gc
import resource
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from langgraph_rq.shared.telemetry.logs import get_logger

_HEAD_BYTES = 65_536
"""Of a request's line and headers, as of anything else between two pieces of a body."""
_SEND_BYTES = 131_072
"""What the kernel takes of an answer before its client does; by itself it would take up to 4 MB."""
_RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: the kernel forgets what the client has not taken."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\n\r\n"
)
HANDSHAKE_S = 10.0
_RETURN_S = 5.0
"""The process stands still for some 50 ms then."""
_MOST_BACKLOG = 2_048
_FEWEST = 16

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connections:
    """The limits of one process, and its connections that wait for a request, the longest first.

    Args:
        most: Open connections.
        head_s: Until the head of a request has arrived, counted from the connection or from the last answer.
        stalled_s: Close a connection whose client has taken nothing of its answer for so long.
    """

    most: int
    head_s: float
    stalled_s: float
    waiting: dict["LimitedProtocol", None] = field(default_factory=dict)
    returning: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def backlog(self) -> int:
        """Connections that are accepted at once, before the limit is looked at."""
        return min(_MOST_BACKLOG, max(_FEWEST, self.most // 4))

    def return_memory_soon(self) -> None:
        """Give back to the system what slow readers held, once for all that are closed together."""
        if not self.returning:
            self.returning.append(asyncio.get_running_loop().call_later(_RETURN_S, self._return_memory))

    def _return_memory(self) -> None:
        """Free what cancelled sends left in cycles, and let glibc return free pages, which it keeps by itself."""
        self.returning.clear()
        gc.collect()
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)

    def protocol(self, **options: Any) -> "LimitedProtocol":
        """Make the protocol of one connection, as uvicorn asks for it."""
        return LimitedProtocol(self, **options)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, limits: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unparsed_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, or refuse it while every other one has a request."""
        super().connection_made(transport)
        self._set_option(socket.SO_SNDBUF, _SEND_BYTES)
        self._await_request()
        if len(self.connections) > self._limits.most:
            oldest = next(iter(self._limits.waiting))
            if oldest is self:
                transport.write(_FULL)
                self._close()
            else:
                oldest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close it at once, with what its client has not taken; its file is free in the next turn of the loop."""
        self.connections.discard(self)
        self._forget()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer, and see to it that the connection ends."""
        super().send_400_response(msg)
        self._watch_writes()

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection, and see to it that it ends."""
        super().timeout_keep_alive_handler()
        self._watch_writes()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless a head or a trailer grows too long."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > _HEAD_BYTES and not self.transport.is_closing():
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Count from here."""
        self._unparsed_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting: this is a request."""
        self._unparsed_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count from here."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count from here."""
        self._unparsed_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to take the last of the answer."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writes()
        elif self.cycle.response_complete:
            self._await_request()

    def pause_writing(self) -> None:
        """Watch that the client takes something."""
        super().pause_writing()
        self._watch_writes()

    def resume_writing(self) -> None:
        """The client has taken what was written."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def _set_option(self, name: int, value: int | bytes) -> None:
        with suppress(OSError):  # the connection may have ended already
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, name, value)

    def _close(self) -> None:
        self.connections.discard(self)
        self._stop_waiting()
        self.transport.close()
        self._watch_writes()

    def _await_request(self) -> None:
        self._stop_waiting()
        self._limits.waiting[self] = None
        self._head_timer = self.loop.call_later(self._limits.head_s, self.drop)

    def _stop_waiting(self) -> None:
        self._limits.waiting.pop(self, None)
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_writes(self) -> None:
        self._stop_watching()
        self._look_later(self.transport.get_write_buffer_size())

    def _look_later(self, unsent_bytes: int) -> None:
        self._stall_timer = self.loop.call_later(self._limits.stalled_s, self._look, unsent_bytes)

    def _look(self, unsent_bytes: int) -> None:
        """Close the connection if nothing was taken since the last look; `pause_writing` lets nothing be added."""
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes < unsent_bytes:
            self._look_later(left_bytes)
        else:
            self._set_option(socket.SO_LINGER, _RESET)
            self.transport.abort()
            self._limits.return_memory_soon()

    def _stop_watching(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _forget(self) -> None:
        self._stop_waiting()
        self._stop_watching()


def new_loop() -> asyncio.AbstractEventLoop:
    """Make uvicorn's event loop, in which a TLS handshake may not take a minute; uvicorn has no setting for that."""
    loop = auto_loop_factory(use_subprocess=False)()
    create = loop.create_server

    async def create_server(*args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HANDSHAKE_S
        server: asyncio.Server = await create(*args, **options)
        return server

    loop.create_server = create_server  # type: ignore[method-assign]
    return loop


def affordable(most: int, others: int) -> int:
    """Allow this process the files for `most` connections beside `others`; answers how many connections it can have."""
    wanted = most + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most
    found = max(_FEWEST, soft - others)
    _log.warning("files.limited", limit=soft, wanted=wanted, connections=found)
    return found
