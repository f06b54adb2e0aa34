"""The event streams of many tasks, followed by many coroutines of one process over a few connections to Redis.

Each waiter reads its own stream, as fast as its client takes it, and then waits. Waiters share readers: a reader is one
connection that blocks on the streams of its waiters at once (XREAD). To add a stream to a reader that blocks
already, its wake-up stream is written to. So 2,000 open event streams cost eight connections and no polling.

Key:
    agent:wake:<reader>    stream  one entry; a minute
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4
from zlib import crc32

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline
from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections.clients import is_outage, is_wrong_type
from langgraph_rq.shared.connections.kept_connection import Command, KeptConnection
from langgraph_rq.shared.queue.events import BEGINNING, Event, order, read_event

READERS = 8
"""Connections that block; more would be cheaper per stream, fewer need fewer connections."""

BLOCK_S = 5.0
_BLOCK_MS = round(BLOCK_S * 1000)

_GATHER_S = 0.004
"""Between two reads: a waiter that was woken just now waits again within this time, without waking the reader."""
_AT_ONCE = 4
"""Reads after a quiet time that wake no waiter, and need not gather any: those by which streams are added."""
_WAKE_TTL_S = 60
OUTAGE_WAIT_S = 0.25
ODD_WAIT_S = 1.0
"""A task whose stream is a key of another type is looked at again after this time."""
_OUTAGE = Backoff(first_s=OUTAGE_WAIT_S, longest_s=1.0)


def ask_types(pipeline: Pipeline | AsyncPipeline, keys: Iterable[str]) -> None:
    """Ask for the type of each key."""
    for key in keys:
        pipeline.type(key)


def of_another_type(keys: Iterable[str], types: Iterable[bytes]) -> set[str]:
    """Return the keys that are no streams."""
    return {key for key, kind in zip(keys, types, strict=True) if kind not in {b"stream", b"none"}}


async def _odd(redis: Redis, keys: Iterable[str]) -> set[str]:
    names = list(keys)
    pipeline = redis.pipeline(transaction=False)
    ask_types(pipeline, names)
    return of_another_type(names, await pipeline.execute())


class _Waiter:
    """A place in one stream; `notified` is shared by the waiters of one wait."""

    __slots__ = ("after", "notified")

    def __init__(self, after: str, notified: "asyncio.Future[bool]") -> None:
        self.after = order(after)
        self.notified = notified

    def see(self, event: Event) -> bool:
        """Take an event of the stream; returns whether it is new, so that the waiter reads on from its place."""
        is_new = self.after < order(event.id)
        if is_new:
            self.notify()
        return is_new

    def notify(self) -> None:
        if not self.notified.done():
            self.notified.set_result(True)


class _Reader:
    """One connection that waits for news of many streams."""

    def __init__(self, redis: Redis, blocking: Redis) -> None:
        self._redis = redis
        self._connection = KeptConnection(blocking)
        self._waiters: dict[str, set[_Waiter]] = {}
        self._watched: dict[str, tuple[int, int]] = {}
        self._wake_key = f"agent:wake:{uuid4().hex}"
        self._wake_place = BEGINNING
        self._is_waking = False
        self._expire_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    def add(self, key: str, waiter: _Waiter) -> None:
        """Notify `waiter` when the stream `key` has something after its place; `watch` makes the connection look."""
        self._waiters.setdefault(key, set()).add(waiter)

    def remove(self, key: str, waiter: _Waiter) -> None:
        """Undo `add`."""
        self._waiters[key].discard(waiter)
        if not self._waiters[key]:
            del self._waiters[key]

    def notify_all(self) -> None:
        """Notify all waiters."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.notify()

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def watch(self, key: str, waiter: _Waiter) -> None:
        """Block on this stream too, from the waiter's place."""
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
        failures, gathered_at = 0, 0.0
        while self._waiters:
            self._watched = {key: min(waiter.after for waiter in waiters) for key, waiters in self._waiters.items()}
            places = {key: f"{ms}-{sequence}" for key, (ms, sequence) in self._watched.items()}
            places[self._wake_key] = self._wake_place
            news: dict[str, Event] = {}
            try:
                news = await self._read_next(places)
                failures = 0
            except (RedisError, OSError) as error:
                if is_wrong_type(error):
                    await self._notify_odd(places)
                else:
                    failures += 1
                    await asyncio.sleep(_OUTAGE.pause_s(failures))
            self._watched, self._is_waking = {}, False
            are_woken = [self._see(key, event) for key, event in news.items()]
            now = time.monotonic()
            gathered_at = max(gathered_at, now) + _GATHER_S
            await asyncio.sleep(_GATHER_S if any(are_woken) else max(0.0, gathered_at - now - _AT_ONCE * _GATHER_S))
        # No `await` from here on: who begins to wait meanwhile would find a reader that does not read on.

    async def _read_next(self, places: Mapping[str, str]) -> dict[str, Event]:
        """Wait until some streams have an event after their places; answers one of each."""
        command: Command = ("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", *places, *places.values())
        (reply,) = await self._connection.exchange([command])
        if isinstance(reply, Exception):
            raise reply
        pairs = reply.items() if isinstance(reply, dict) else reply or ()  # RESP3, RESP2
        return {stream.decode(): _event(entry) for stream, (entry,) in pairs}

    async def _notify_odd(self, keys: Iterable[str]) -> None:
        """Notify the waiters of keys that are no streams: one of them would keep all others waiting."""
        with suppress(RedisError, OSError):
            for key in await _odd(self._redis, keys):
                for waiter in self._waiters.get(key, ()):
                    waiter.notify()

    def _see(self, key: str, event: Event) -> bool:
        """Show an event to the waiters of a stream; returns whether one of them goes on to read it by itself."""
        if key == self._wake_key:
            self._wake_place = event.id
        goes_on = [waiter.see(event) for waiter in self._waiters.get(key, ())]
        return any(goes_on)


def _event(entry: Sequence[Any]) -> Event:
    """Read an entry as Redis answers it."""
    place, fields = entry
    return read_event((place, dict(zip(fields[::2], fields[1::2], strict=True))))


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

    async def news(
        self, places: Mapping[str, str], timeout_s: float, *, most: int, is_drained: bool
    ) -> dict[str, list[Event]]:
        """Read the events of streams after the given places, as `Transport.news` describes it."""
        found = {} if is_drained else await self._read(places, most)
        if found == {} and not self.is_ending and await self._is_notified(places, timeout_s):
            found = await self._read(places, most)
        if found is None:
            await asyncio.sleep(OUTAGE_WAIT_S)
        return found or {}

    async def _is_notified(self, places: Mapping[str, str], timeout_s: float) -> bool:
        """Wait until a stream has something new, or `end_waits`; False after the time."""
        notified: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waits = [
            (self._readers[crc32(key.encode()) % READERS], key, _Waiter(after, notified))
            for key, after in places.items()
        ]
        for reader, key, waiter in waits:
            reader.add(key, waiter)
        try:
            for reader, key, waiter in waits:
                await reader.watch(key, waiter)
            await asyncio.wait((notified,), timeout=timeout_s)
        finally:
            for reader, key, waiter in waits:
                reader.remove(key, waiter)
        return notified.done()

    async def _read(self, places: Mapping[str, str], most: int) -> dict[str, list[Event]] | None:
        """Read a page of each stream; None: nothing can be read now, because Redis is away or a key is no stream."""
        streams: Any = dict(places)
        try:
            found: Any = await self._redis.xread(streams, count=most)
        except (RedisError, OSError) as error:
            if is_outage(error) or is_wrong_type(error) or isinstance(error, OSError):
                return None
            raise
        return {stream.decode(): [read_event(entry) for entry in entries] for stream, entries in found or ()}

    def end_waits(self) -> None:
        """End all waits, now and from now on."""
        self.is_ending = True
        for reader in self._readers:
            reader.notify_all()

    async def aclose(self) -> None:
        """Stop all readers."""
        self.end_waits()
        for reader in self._readers:
            await reader.aclose()
