"""The ends of tasks, told by Redis in a list of each reader: of any number of tasks over one connection.

await_ends.lua puts a reader on the list of those that a task's end wakes. What a break of the connection loses is made
up for: its waiters look at their tasks.
"""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from langgraph_rq.producer.client.transport.event_feed import BLOCK_S, OUTAGE_WAIT_S
from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.queue.keys import awaited_key, ended_key, result_key

_OUTAGE = Backoff(first_s=OUTAGE_WAIT_S, longest_s=1.0)
_AT_ONCE = 16
"""Ends that are taken at once, with their results."""

Told = Mapping[str, bytes | None]
"""Tasks that have ended, with their results where these were read already."""


class EndWatch(Protocol):
    """Waits for the ends of some tasks, by their ids in Redis; a context manager."""

    @property
    def reader(self) -> str:
        """The reader for `await_ends_call`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def forget(self, task: str) -> None:
        """Stop waiting for one of the tasks."""
        ...

    async def next(self, timeout_s: float) -> Told | None:
        """Wait until some have ended; None: none has in this time, or it is not known, or the client is closed."""
        ...


class EndFeed:
    """The ends for all coroutines of one event loop.

    Args:
        blocking: Has a connection for this feed, and a timeout above `BLOCK_S`.
    """

    def __init__(self, blocking: AsyncRedis) -> None:
        self._id = uuid4().hex
        self.is_ending = False
        self._connection = KeptConnection(blocking)
        self._watches: dict[str, set[_FeedWatch]] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def reader(self) -> str:
        """The reader: another one after a fork, since of two processes each would take ends of the other."""
        return f"{self._id}-{os.getpid()}"

    def watch(self, tasks: Collection[str]) -> "_FeedWatch":
        """Wait for the ends of tasks."""
        return _FeedWatch(self, tasks)

    def add(self, task: str, watch: "_FeedWatch") -> None:
        """Tell `watch` when the task ends."""
        self._watches.setdefault(task, set()).add(watch)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())

    def remove(self, task: str, watch: "_FeedWatch") -> None:
        """Undo `add`."""
        self._watches[task].discard(watch)
        if not self._watches[task]:
            del self._watches[task]

    def end_waits(self) -> None:
        """End all waits, now and from now on."""
        self.is_ending = True
        self._let_all_look()

    async def aclose(self) -> None:
        """Stop reading."""
        self.end_waits()
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        failures = 0
        while self._watches:
            try:
                ended = await self._pop()
                failures = 0
            except (RedisError, OSError):
                failures += 1
                self._let_all_look()
                await asyncio.sleep(_OUTAGE.pause_s(failures))
                continue
            for task, document in ended.items():
                for watch in self._watches.get(task, ()):
                    watch.tell(task, document)
        # No `await` from here on: who begins to wait meanwhile would find a feed that does not read on.

    async def _pop(self) -> dict[str, bytes | None]:
        """Wait for ends; returns the tasks, with the results of those that are waited for alone."""
        command = ("BLMPOP", BLOCK_S, 1, ended_key(self.reader), "LEFT", "COUNT", _AT_ONCE)
        (reply,) = _values(await self._connection.exchange([command]))
        ended: dict[str, bytes | None] = dict.fromkeys([task.decode() for task in reply[1]] if reply else ())
        # Of many tasks a slow reader would keep all results in memory.
        alone = [task for task in ended if any(watch.is_alone for watch in self._watches.get(task, ()))]
        if alone:
            documents = _values(await self._connection.exchange([("GET", result_key(task)) for task in alone]))
            ended |= zip(alone, documents, strict=True)
        return ended

    def _let_all_look(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()


class _FeedWatch:
    """One wait of a coroutine."""

    def __init__(self, feed: EndFeed, tasks: Collection[str]) -> None:
        self.reader = feed.reader
        self.is_alone = len(tasks) == 1
        self._feed = feed
        self._tasks = set(tasks)
        self._told: dict[str, bytes | None] = {}
        self._woken: asyncio.Future[None] | None = None
        self._is_woken = False

    def __enter__(self) -> Self:
        for task in self._tasks:
            self._feed.add(task, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in list(self._tasks):
            self.forget(task)

    def forget(self, task: str) -> None:
        """Stop waiting for one of the tasks."""
        self._tasks.discard(task)
        self._feed.remove(task, self)

    def tell(self, task: str, document: bytes | None) -> None:
        """Take the end of a task."""
        self._told[task] = document
        self.wake()

    def wake(self) -> None:
        """End the wait, or the next one: what was lost meanwhile is not told again."""
        self._is_woken = True
        if self._woken and not self._woken.done():
            self._woken.set_result(None)

    async def next(self, timeout_s: float) -> Told | None:
        """Wait on the feed."""
        if not (self._told or self._is_woken or self._feed.is_ending):
            self._woken = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._woken,), timeout=timeout_s)
        told, self._told, self._is_woken = self._told, {}, False
        return told or None


class BlockingWatch:
    """One wait of a thread, over a list of its own.

    Args:
        blocking: A client with a timeout above `BLOCK_S`.
        tasks: Those that are waited for.
        is_ending: Whether the client is closed.
    """

    def __init__(self, blocking: Redis, tasks: Collection[str], is_ending: Callable[[], bool]) -> None:
        self.reader = uuid4().hex
        self._tasks = set(tasks)
        self._blocking = blocking
        self._is_ending = is_ending

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An end wakes so many readers only: those of waits that are over must not be among them.
        if self._tasks and not (self._is_ending() or isinstance(error, ConnectionError)):
            pipeline = self._blocking.pipeline(transaction=False)
            for task in self._tasks:
                pipeline.srem(awaited_key(task), self.reader)
            with suppress(RedisError, OSError):
                pipeline.execute()

    def forget(self, task: str) -> None:
        """Leave it: its end has come, or will not."""
        self._tasks.discard(task)

    async def next(self, timeout_s: float) -> Told | None:
        """Block, in one command that is sent again every `BLOCK_S`."""
        give_up_at = time.monotonic() + timeout_s
        while not self._is_ending() and (left_s := give_up_at - time.monotonic()) > 0:
            try:
                reply: Any = self._blocking.blmpop(
                    min(left_s, BLOCK_S), 1, ended_key(self.reader), direction="LEFT", count=_AT_ONCE
                )
            except (RedisError, OSError):
                time.sleep(min(left_s, OUTAGE_WAIT_S))  # noqa: ASYNC251 - blocking is what it does
                break
            if reply:
                return dict.fromkeys(task.decode() for task in reply[1])
        return None


def _values(replies: Sequence[Any]) -> Sequence[Any]:
    """Raise the first error among replies."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
