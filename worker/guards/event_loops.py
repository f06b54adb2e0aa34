"""The event loops from which the guards call Redis: the worker's own, and one in a thread for all other callers.

A Redis client and a background task belong to one loop each. A sync caller (a sync node, a sync call inside an async
node) blocks until the second loop has answered. That loop runs no code of a graph, only model calls in threads. But a
caller inside of a running loop stops that loop, with all calls in it, so it may not wait for one of them to end.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections.background import BackgroundTasks
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.clients import is_outage, open_async
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.worker.guards.call_threads import CallThreads
from langgraph_rq.worker.guards.refusals import TaskGone

OUTAGE = Backoff(first_s=0.05, longest_s=2.0)
_RETRY_FOR_S = 120.0
_CLOSE_S = 2.0
"""How long closing waits for background tasks."""

stops_a_loop: ContextVar[bool] = ContextVar("stops_a_loop", default=False)
"""Whether the caller blocks a running loop until its call has ended."""

T = TypeVar("T")


@dataclass(slots=True)
class _Loop:
    """What belongs to one loop: its client and its background tasks."""

    redis: Redis
    trips: Batcher = field(init=False)
    background: BackgroundTasks = field(default_factory=BackgroundTasks)

    async def finish(self) -> None:
        await self.background.close(_CLOSE_S)
        await self.trips.aclose(_CLOSE_S)

    def __post_init__(self) -> None:
        self.trips = Batcher(self.redis)


class EventLoops:
    """Runs coroutines and script calls for callers on any loop or thread.

    Args:
        redis: The running loop's client.
        url: The same Redis, for the second loop, which starts with the first call that needs it.
    """

    def __init__(self, redis: Redis, url: str) -> None:
        self._url = url
        self._loops = {asyncio.get_running_loop(): _Loop(redis)}
        self._second: asyncio.AbstractEventLoop | None = None
        self._threads = CallThreads()
        self._lock = threading.Lock()
        self._is_closed = False
        _instances.add(self)

    def forget_parent(self) -> None:
        """Begin anew in a forked child, which has none of its parent's threads.

        The loops are kept: as garbage they would take connections out of the epoll instances of the parent.
        """
        self._second = None
        self._threads, self._lock = CallThreads(), threading.Lock()

    async def run_here(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine` in this loop if it has a client, else in the second loop."""
        if asyncio.get_running_loop() in self._loops:
            return await coroutine
        return await asyncio.wrap_future(self._submit(coroutine))

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Block until the second loop has run `coroutine`; inside a running loop, that loop stands still."""
        return copy_context().run(self._block, coroutine)

    def place(self) -> AbstractAsyncContextManager[None]:
        """Wait for a place among the sync calls, to be taken before anything is admitted, held or timed for the call.

        Only the second loop has sync calls; in any other loop there is nothing to wait for.
        """
        return self._threads.place() if asyncio.get_running_loop() is self._second else nullcontext()

    def run_in_background(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Start `coroutine` as a task of this loop if it has a client, else of the second one.

        After `aclose` it is dropped.
        """
        if self._is_closed:
            coroutine.close()
        elif running_loop() in self._loops:
            self._start(coroutine)
        else:
            self._submit(self._start_in_second(coroutine))

    async def attempt(self, call: Call[T]) -> T | RedisError:
        """Run the call once; an outage of Redis is returned. The call may have run before, so it must be idempotent."""
        try:
            return await self._loops[asyncio.get_running_loop()].trips.run(call)
        except RedisError as error:
            if not is_outage(error):
                raise
            return error

    async def retry(self, call: Call[T]) -> T | None:
        """Run the call as soon as Redis answers; None: Redis did not answer within two minutes."""
        give_up_at = time.monotonic() + _RETRY_FOR_S
        failures = 0
        while isinstance(reply := await self.attempt(call), RedisError):
            if time.monotonic() > give_up_at:
                return None
            failures += 1
            await asyncio.sleep(OUTAGE.pause_s(failures))
        return reply

    async def deliver(self, call: Call[T], done: Callable[[T | None], None]) -> None:
        """Run the call; if the caller is cancelled or Redis is away, `retry` it in the background.

        Args:
            call: Must be idempotent.
            done: Gets the reply, or None if the call was not delivered.
        """
        try:
            reply = await self.attempt(call)
        except asyncio.CancelledError:
            self.deliver_in_background(call, done)
            raise
        if isinstance(reply, RedisError):
            self.deliver_in_background(call, done)
        else:
            done(reply)

    def deliver_in_background(self, call: Call[T], done: Callable[[T | None], None]) -> None:
        """Run the call as a background task; see `deliver`."""
        self.run_in_background(self._retry(call, done))

    def _start(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._loops[asyncio.get_running_loop()].background.start(coroutine)

    async def _start_in_second(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._start(coroutine)

    async def _retry(self, call: Call[T], done: Callable[[T | None], None]) -> None:
        reply = await self.retry(call)
        done(reply)

    async def aclose(self) -> None:
        """Wait briefly for the background tasks, then stop the second loop, and the calls in it."""
        await self._loops[asyncio.get_running_loop()].finish()
        self._is_closed = True
        second, self._second = self._second, None
        if second:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close_second(), second))
            del self._loops[second]
            second.call_soon_threadsafe(second.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _close_second(self) -> None:
        loop = self._loops[asyncio.get_running_loop()]
        await loop.background.close(_CLOSE_S)
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls, timeout=_CLOSE_S)
        await loop.trips.aclose(_CLOSE_S)
        await loop.redis.aclose()

    def _block(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if running_loop():
            stops_a_loop.set(True)
        try:
            return self._submit(coroutine).result()
        except CancelledError:
            raise TaskGone("the worker has ended") from None

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise TaskGone("the worker has ended")
            if self._second is None:
                self._second = asyncio.new_event_loop()
                self._second.set_default_executor(self._threads)
                self._loops[self._second] = _Loop(open_async(self._url))
                threading.Thread(target=_run_forever, args=(self._second,), name="guards", daemon=True).start()
        # In the caller's context, which carries the task that the call belongs to.
        return copy_context().run(asyncio.run_coroutine_threadsafe, coroutine, self._second)


_instances: "WeakSet[EventLoops]" = WeakSet()


def _after_fork() -> None:
    for one in _instances:
        one.forget_parent()


os.register_at_fork(after_in_child=_after_fork)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()
