"""Tell many waiters of one process what happens to their tasks, over a few connections to Redis.

Each waiter reads its own stream, as fast as its client takes it, and then waits. Waiters share readers: a reader is one
connection that blocks on the streams of its waiters at once (XREAD). To add a stream to a reader that blocks
already, its wake-up stream is written to. So 2,000 open event streams cost eight connections, and nobody polls.

Key:
    agent:wake:<reader>    stream  one entry; a minute
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4
from zlib import crc32

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.queue.events import BEGINNING, Event, order, read_event

READERS = 8
"""Connections that block; more would be cheaper per stream, fewer need fewer connections."""

BLOCK_S = 5.0

_GATHER_S = 0.004
"""Between two reads: whoever was told just now comes back within this time, and need not wake the reader."""
_WAKE_TTL_S = 60
_OUTAGE_WAIT_S = 0.25
_PAGE = 200


class _Waiter:
    __slots__ = ("after", "told")

    def __init__(self, after: str) -> None:
        self.after = order(after)
        self.told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        if not self.told.done():
            self.told.set_result(True)


class _Reader:
    """One connection that waits for news of many streams."""

    def __init__(self, redis: Redis, blocking: Redis) -> None:
        self._redis = redis
        self._blocking = blocking
        self._waiters: dict[str, set[_Waiter]] = {}
        self._watched: dict[str, tuple[int, int]] = {}
        self._wake_key = f"agent:wake:{uuid4().hex}"
        self._wake_place = BEGINNING
        self._is_waking = False
        self._expire_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def quiet(self, key: str, after: str, quiet_s: float) -> AsyncGenerator[None, None]:
        """Yield each `quiet_s` in which nothing has come after the place `after` of `key`; end when something has."""
        waiter = _Waiter(after)
        self._waiters.setdefault(key, set()).add(waiter)
        try:
            await self._watch(key, waiter)
            while not waiter.told.done():
                await asyncio.wait((waiter.told,), timeout=quiet_s)
                if not waiter.told.done():
                    yield None
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]

    def tell_all(self) -> None:
        """Let all waiters go."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.tell()

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _watch(self, key: str, waiter: _Waiter) -> None:
        """See to it that the reader blocks on this stream too."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        watched = self._watched.get(key)
        is_blocked_without_it = self._watched and (watched is None or watched > waiter.after)
        if is_blocked_without_it and not self._is_waking:
            self._is_waking = True
            await self._wake()

    async def _wake(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xadd(self._wake_key, {"": ""}, maxlen=1, approximate=False)
        if self._wake_place == BEGINNING or time.monotonic() > self._expire_at:
            pipeline.expire(self._wake_key, _WAKE_TTL_S)
            self._expire_at = time.monotonic() + _WAKE_TTL_S / 2
        try:
            await pipeline.execute()
        except (RedisError, OSError):
            self._is_waking = False  # its read ends within BLOCK_S anyway

    async def _read(self) -> None:
        while self._waiters:
            self._watched = {key: min(waiter.after for waiter in waiters) for key, waiters in self._waiters.items()}
            streams: Any = {key: f"{ms}-{sequence}" for key, (ms, sequence) in self._watched.items()}
            streams[self._wake_key] = self._wake_place
            try:
                found: Any = await self._blocking.xread(streams, count=1, block=round(BLOCK_S * 1000))
            except (RedisError, OSError):
                found = ()
                await asyncio.sleep(_OUTAGE_WAIT_S)
            self._watched, self._is_waking = {}, False
            for stream, entries in found or ():
                self._tell(stream.decode(), entries[-1][0].decode())
            await asyncio.sleep(_GATHER_S)

    def _tell(self, key: str, place: str) -> None:
        if key == self._wake_key:
            self._wake_place = place
        for waiter in self._waiters.get(key, ()):
            if waiter.after < order(place):
                waiter.tell()


class EventFeed:
    """Follows the events of any number of tasks.

    Args:
        redis: For reading; its callers wait for a connection.
        blocking: For waiting: at least `READERS` connections, and a timeout above `BLOCK_S`.
    """

    def __init__(self, redis: Redis, blocking: Redis) -> None:
        self._redis = redis
        self._readers = [_Reader(redis, blocking) for _ in range(READERS)]
        self.is_ending = False

    async def follow(self, key: str, after: str, quiet_s: float) -> AsyncGenerator[Event | None, None]:
        """Yield the events of the stream `key` after the place `after`, up to the task's end, as they come.

        Yields None when nothing has happened for `quiet_s`, also while Redis is away, which is waited for. Stops before
        the end only after `end_waits`.
        """
        reader = self._readers[crc32(key.encode()) % len(self._readers)]
        while not self.is_ending:
            events = await self._page(key, after)
            for event in events or ():
                after = event.id
                yield event
                if event.is_last:
                    return
            if events is None:
                await asyncio.sleep(_OUTAGE_WAIT_S)
                yield None
            elif len(events) < _PAGE:
                async with aclosing(reader.quiet(key, after, quiet_s)) as silences:
                    async for _ in silences:
                        yield None

    async def _page(self, key: str, after: str) -> list[Event] | None:
        """Read some events; None: Redis is away."""
        try:
            entries: Any = await self._redis.xrange(key, min=f"({after}", count=_PAGE)
        except (RedisError, OSError) as error:
            if is_outage(error) or isinstance(error, OSError):
                return None
            raise
        return [read_event(entry) for entry in entries]

    def end_waits(self) -> None:
        """Let nobody wait any longer."""
        self.is_ending = True
        for reader in self._readers:
            reader.tell_all()

    async def aclose(self) -> None:
        """Stop all readers."""
        self.end_waits()
        for reader in self._readers:
            await reader.aclose()
