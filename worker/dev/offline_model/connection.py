"""The connection of one request, which a fault may close or reset."""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph_rq.worker.dev.offline_model.replies import Reply


@dataclass(frozen=True, slots=True)
class Connection:
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

    async def start(self, reply: Reply, *headers: tuple[bytes, bytes]) -> None:
        """Send the status, the reply's headers and more `headers`."""
        start = {"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, *headers]}
        await self.send(start)

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body; `more`: others follow."""
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
