"""Connections over TLS that soon say so when the port answers without TLS.

A Redis without TLS takes the beginning of a handshake for a command that goes on, and waits: only a timeout ends it.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.connection import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

_FIRST_S = 1.0
"""A handshake that takes longer is given up, and begun again if the port does not answer in plain."""
_LEAST_S = 1.0


class PlainPortError(RedisConnectionError):
    """A Redis answers on this port, but without TLS."""

    def __init__(self) -> None:
        super().__init__("rediss:// needs a port with TLS, and this one answers without; redis:// is the one without")


class TlsConnection(SSLConnection):
    """A connection of the synchronous client."""

    def _connect(self) -> Any:
        try:
            return self._connect_within(_FIRST_S)
        except TimeoutError:
            refuse_plain_port(self.host, self.port)
            return self._connect_within(_rest_s(self.socket_connect_timeout))

    def _connect_within(self, limit_s: float | None) -> Any:
        """Connect, and shake hands, each within this time."""
        given = self.socket_connect_timeout, self.socket_timeout
        self.socket_connect_timeout = self.socket_timeout = limit_s
        try:
            connected = super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.socket_connect_timeout, self.socket_timeout = given
        connected.settimeout(self.socket_timeout)
        return connected


class AsyncTlsConnection(AsyncSSLConnection):
    """A connection of the asyncio client."""

    async def _connect(self) -> None:
        given = self.socket_connect_timeout
        try:
            self.socket_connect_timeout = _FIRST_S
            await super()._connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await asyncio.to_thread(refuse_plain_port, self.host, self.port)
            self.socket_connect_timeout = _rest_s(given)
            await super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.socket_connect_timeout = given


def refuse_plain_port(host: str, port: int) -> None:
    """Raise PlainPortError if a Redis answers here without TLS; nothing that is secret is sent."""
    answer = b""
    with suppress(OSError), socket.create_connection((host, port), timeout=_FIRST_S) as plain:
        plain.sendall(b"PING\r\n")
        answer = plain.recv(64)
    if answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED", b"-LOADING")):
        raise PlainPortError


def _rest_s(whole_s: float | None) -> float | None:
    """Return the time that is left (s) when neither the first attempt nor the one without TLS had an answer."""
    return None if whole_s is None else max(_LEAST_S, whole_s - 2 * _FIRST_S)
