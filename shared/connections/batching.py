"""Batching of script calls: those that arrive while a round trip is under way share the next one.

In Python a round trip costs many times the CPU of one more command in it, and a busy loop has a hundred tasks that call
Redis at the same time.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.background import end
from langgraph_rq.shared.connections.kept_connection import KeptConnection


class Source(Protocol):
    """An entry of the queue that builds its call when its turn has come, such as a buffer that still fills."""

    def next_call(self) -> scripts.Call[Any] | None:
        """Build the call; None: nothing to send any more. Called again after an outage that is retried."""

    def take_reply(self, reply: Any) -> bool:
        """Take the value or the exception that the last call returned; True queues this source again, at the end."""


_LONG_S = 1.0
"""Of a round trip to a Redis that answers nothing, or that cannot be reached."""
_OUTAGE = Backoff(first_s=0.05, longest_s=2.0)


def _ignore(*_args: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Retry:
    """Policy of a batcher whose calls must reach Redis, even if their caller has gone. Each may safely run twice.

    Args:
        is_worthwhile: Tells an outage, after which the call is repeated, from an error, which is its reply.
        backoff: Pauses while the outage lasts.
        on_delay: Called with the number of calls that an outage has delayed, and the error.
        on_failure: Called with any other error that broke a whole round trip, while it is handled.
    """

    is_worthwhile: Callable[[Exception], bool]
    backoff: Backoff = _OUTAGE
    on_delay: Callable[[int, Exception], None] = _ignore
    on_failure: Callable[[Exception], None] = _ignore


class Batcher:
    """Run the script calls of one event loop, in the order in which they were given, one round trip at a time.

    Without `retry` a call that comes alone makes its round trip at once, in its caller's task, and a call whose caller
    has gone is not sent; each caller gets the value or the error of its own call.

    Args:
        redis: A client of the loop; one of its connections is kept.
        calls: The most in one round trip. More save little CPU, and hold as many large documents in memory at once.
        gather_s: Time to wait for further calls before each round trip.
        retry: Repeat calls during an outage; None: an outage is the caller's answer.
        on_refused: Called with the error of a call from `send`, which has no caller to raise it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        calls: int = 16,
        gather_s: float = 0.0,
        retry: Retry | None = None,
        on_refused: Callable[[Exception], None] = _ignore,
    ) -> None:
        self._connection = KeptConnection(redis)
        self._calls = self._most = calls
        self._gather_s = gather_s
        self._retry = retry
        self._on_refused = on_refused
        self._waiting: list[Source] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._writer: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    async def run(self, call: scripts.Call[scripts.T]) -> scripts.T:
        """Run `call` and return its value.

        If the caller is cancelled, the call may have run or not; with `retry` it will run.

        Raises:
            redis.RedisError: An outage, unless it is retried, or an error of the call itself.
        """
        if self._retry or not self._is_idle.is_set():
            answer: asyncio.Future[scripts.T] = asyncio.get_running_loop().create_future()
            self.add((_Kept if self._retry else _Awaited)(call, answer))
            return await answer
        self._is_idle.clear()
        try:
            return await scripts.run(self._connection, call)
        finally:
            self._is_idle.set()
            if self._waiting:
                self._start()

    def send(self, *calls: scripts.Call[Any] | None) -> None:
        """Run calls as `run` does, without waiting; None is skipped. The next call shares their round trip."""
        for call in filter(None, calls):
            self.add(_Sent(call, self._on_refused))

    def add(self, source: Source) -> None:
        """Queue a source, which must not be queued already."""
        self._waiting.append(source)
        if self._is_idle.is_set():
            self._start()

    def hurry(self) -> None:
        """Make the next round trip without gathering further calls."""
        self._hurry.set()

    async def drain(self, timeout_s: float) -> None:
        """Wait until all calls have their reply, for at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._is_idle.is_set():
                    await self._is_idle.wait()

    async def aclose(self, timeout_s: float) -> None:
        """Let what was begun end, for at most `timeout_s`: what runs on would use the client after it was closed."""
        self.hurry()
        await self.drain(timeout_s)
        if self._writer:
            await end([self._writer])
        self._give_up(self._take_turns())

    def _give_up(self, sources: Sequence[Source]) -> None:
        """Let no caller wait for what is not sent any more."""
        if not self._retry:
            for source in sources:
                source.take_reply(RedisConnectionError("the client was closed"))

    def _start(self) -> None:
        self._is_idle.clear()
        # In an empty context: the calls that share a round trip belong to different tasks.
        self._writer = asyncio.get_running_loop().create_task(self._write(), context=Context())

    async def _write(self) -> None:
        failures = 0
        try:
            while self._waiting:
                if self._gather_s:
                    await self._gather()
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                delayed = await self._run(batch)
                failures = failures + 1 if delayed else 0
                if self._retry and delayed:
                    self._waiting = delayed + self._waiting
                    await asyncio.sleep(self._retry.backoff.pause_s(failures))
        finally:
            self._is_idle.set()

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._gather_s):
                await self._hurry.wait()
        self._hurry.clear()

    async def _run(self, batch: Sequence[Source]) -> list[Source]:
        """Run the calls of `batch` in one round trip; return the sources whose call must be repeated."""
        sources, calls = _with_calls(batch)
        if not calls:
            return []
        replies = await self._ask(sources, calls)
        delayed, outage = [], None
        for source, reply in zip(sources, replies, strict=True):
            if isinstance(reply, Exception) and self._retry and self._retry.is_worthwhile(reply):
                delayed.append(source)
                outage = outage or reply
            elif source.take_reply(reply):
                self._waiting.append(source)
        if self._retry and outage:
            self._retry.on_delay(len(delayed), outage)
        return delayed

    async def _ask(self, sources: list[Source], calls: Sequence[scripts.Call[Any]]) -> list[Any]:
        """Return the reply or the error of each source's call.

        If that took long and failed, those that wait for the next round trip are moved to `sources` and get the same
        error: one round trip after another would wait as long.
        """
        began_at = time.monotonic()
        try:
            replies = await scripts.run_each(self._connection, calls)
        except asyncio.CancelledError:
            self._give_up(sources)
            raise
        except Exception as error:
            self._most = max(1, self._most // 2)  # calls that together take longer than a timeout get through in parts
            if self._retry and not self._retry.is_worthwhile(error):
                self._retry.on_failure(error)
            if not self._retry and time.monotonic() - began_at > _LONG_S:
                sources += self._take_turns()
            return [error] * len(sources)
        self._most = self._calls
        return replies

    def _take_turns(self) -> list[Source]:
        """Take all that wait out of the queue, as if their turn had come: no source expects a reply before."""
        waiting, self._waiting = self._waiting, []
        return _with_calls(waiting)[0]


def _with_calls(batch: Sequence[Source]) -> tuple[list[Source], list[scripts.Call[Any]]]:
    """Return the sources that have something to send, and their calls."""
    sources, calls = [], []
    for source in batch:
        if call := source.next_call():
            sources.append(source)
            calls.append(call)
    return sources, calls


class _Awaited:
    """A call whose caller waits; not sent once the caller has gone."""

    __slots__ = ("_answer", "_call")

    def __init__(self, call: scripts.Call[Any], answer: "asyncio.Future[Any]") -> None:
        self._call = call
        self._answer = answer

    def next_call(self) -> scripts.Call[Any] | None:
        return None if self._answer.done() else self._call

    def take_reply(self, reply: Any) -> bool:
        if self._answer.done():
            return False
        if isinstance(reply, Exception):
            self._answer.set_exception(reply)
        else:
            self._answer.set_result(reply)
        return False


class _Kept(_Awaited):
    """A call that is sent even if its caller has gone."""

    __slots__ = ()

    def next_call(self) -> scripts.Call[Any]:
        return self._call


@dataclass(eq=False, slots=True)
class _Sent:
    call: scripts.Call[Any]
    on_refused: Callable[[Exception], None]

    def next_call(self) -> scripts.Call[Any]:
        return self.call

    def take_reply(self, reply: Any) -> bool:
        if isinstance(reply, Exception):
            self.on_refused(reply)
        return False
