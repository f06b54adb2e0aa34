"""The event loops in which the guards ask Redis: the worker's own, and one in a thread of its own for everybody else.

A client and what runs late belong to one loop each. Sync callers (a sync node, a sync call inside an async node) block
until the other loop has answered, which cannot deadlock: it waits for nobody's code but the model's, in threads.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.asyncio import Redis

from langgraph_rq.shared.connections.batching import RoundTrips
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.guards.refusals import TaskGone

_SYNC_CALLS = 256
"""Model calls of sync callers at once."""
_THREADS = "node_model_call"
"""Begins as the threads of sync nodes do: a worker does not wait at its end for those that still block."""
_LATE_S = 2.0

T = TypeVar("T")


@dataclass(slots=True)
class _Side:
    """One loop: its client, and the tasks that nobody awaits."""

    redis: Redis
    trips: RoundTrips = field(init=False)
    late: set["asyncio.Task[object]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.trips = RoundTrips(self.redis)

    async def end(self) -> None:
        if self.late:
            await asyncio.wait(self.late, timeout=_LATE_S)


class GuardLoops:
    """The two loops.

    Args:
        redis: The running loop's client.
        url: The same Redis, for the other loop.
    """

    def __init__(self, redis: Redis, url: str) -> None:
        self._url = url
        self._sides = {asyncio.get_running_loop(): _Side(redis)}
        self._other: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(_SYNC_CALLS, thread_name_prefix=_THREADS)
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def trips(self) -> RoundTrips:
        """The running loop's way to Redis."""
        return self._sides[asyncio.get_running_loop()].trips

    def later(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run `coroutine` in the running loop while nobody waits for it; not at all once the guards are closed."""
        if self._is_closed:
            coroutine.close()
            return
        loop = asyncio.get_running_loop()
        late = self._sides[loop].late
        task = loop.create_task(coroutine)
        late.add(task)
        task.add_done_callback(late.discard)

    async def run_here(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine` in a loop that has a client: this one, or the one of sync callers."""
        if asyncio.get_running_loop() in self._sides:
            return await coroutine
        return await asyncio.wrap_future(self._submit(coroutine))

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` for a sync caller, who blocks; also inside a running loop this cannot deadlock."""
        return self._submit(coroutine).result()

    async def aclose(self) -> None:
        """Let what runs late end, and end the other loop."""
        await self._sides[asyncio.get_running_loop()].end()
        self._is_closed = True
        other, self._other = self._other, None
        if other:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end_other(), other))
            del self._sides[other]
            other.call_soon_threadsafe(other.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _end_other(self) -> None:
        side = self._sides[asyncio.get_running_loop()]
        await side.end()
        await side.redis.aclose()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise TaskGone("the worker has ended")
            if self._other is None:
                self._other = asyncio.new_event_loop()
                self._other.set_default_executor(self._threads)
                self._sides[self._other] = _Side(open_async(self._url))
                threading.Thread(target=_run_forever, args=(self._other,), name="guards", daemon=True).start()
        # The coroutine runs in the caller's context, so that what it calls still belongs to the caller's task.
        return copy_context().run(asyncio.run_coroutine_threadsafe, coroutine, self._other)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()
