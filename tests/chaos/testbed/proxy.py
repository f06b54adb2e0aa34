"""A proxy in front of Redis or Postgres that loses replies or cuts its clients off on command."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK_BYTES = 1 << 16


class Proxy:
    """Forward between its own unix socket and that of a server, in a thread of its own.

    Args:
        socket: Where clients connect to.
        server_socket: Where the server listens.
    """

    def __init__(self, socket: Path, server_socket: Path) -> None:
        self.url = f"unix://{socket}?db=0"
        """Where clients of Redis connect to."""
        self.dropped = 0
        """Replies that were lost so far: the server had answered, and the client's connection was closed instead."""
        self.late = b""
        """What clients sent while they were cut off."""
        self._socket = socket
        self._server_socket = server_socket
        self._target = b""
        self._every = 0
        self._passing = 0
        self._dice = random.Random(5)
        self._is_open: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def lose_replies(self, sha: str, every: int) -> None:
        """Lose the reply of one in so many round trips with the script `sha` in it; 0 for none.

        The choice is random: a fixed step could always hit the same claim of a repeating sequence.
        """
        self._target, self._every, self._passing = sha.encode(), every, 1

    def cut(self) -> None:
        """Stop forwarding in both directions; connections stay open, as behind a dead switch."""
        assert self._is_open
        self._loop.call_soon_threadsafe(self._is_open.clear)

    def heal(self) -> None:
        """Resume forwarding, buffered data first."""
        assert self._is_open
        self._loop.call_soon_threadsafe(self._is_open.set)

    @contextmanager
    def serve(self) -> Iterator["Proxy"]:
        """Listen while the block runs."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _listen(self) -> None:
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._server = await asyncio.start_unix_server(self._connect, self._socket)

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        assert self._is_open
        to_server = None
        with suppress(OSError, asyncio.CancelledError):
            await self._is_open.wait()
            server, to_server = await asyncio.open_unix_connection(self._server_socket)
            loses: list[bool] = []
            ways = (self._up(client, to_server, loses), self._down(server, to_client, loses))
            _, left = await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when="FIRST_COMPLETED")
            for way in left:
                way.cancel()
        for writer in (to_client, to_server):
            if writer:
                writer.close()

    async def _up(self, client: asyncio.StreamReader, server: asyncio.StreamWriter, loses: list[bool]) -> None:
        assert self._is_open
        with suppress(OSError):
            while data := await client.read(_CHUNK_BYTES):
                if not self._is_open.is_set():
                    self.late += data
                await self._is_open.wait()
                if self._is_hit(data):
                    loses.append(True)
                server.write(data)
                await server.drain()

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, loses: list[bool]) -> None:
        assert self._is_open
        with suppress(OSError):
            while data := await server.read(_CHUNK_BYTES):
                await self._is_open.wait()
                if loses:
                    self.dropped += 1
                    return
                client.write(data)
                await client.drain()

    def _is_hit(self, data: bytes) -> bool:
        if not self._every or self._target not in data:
            return False
        if self._passing:
            self._passing -= 1
            return False
        self._passing = self._dice.randrange(2 * self._every - 1)
        return True
