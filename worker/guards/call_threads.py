"""The threads in which the model calls and tools of sync callers run.

A call takes a place before it asks for admission, and gives it back when its thread has returned. So no call waits for
a thread with its timeout running, its reservation held and its breaker waiting for the outcome.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

PLACES = 256
"""Concurrent calls of sync callers."""
_THREADS = 4 * PLACES
"""More than places, for what takes none: a guarded model that a guarded tool calls, and the loop's name look-ups."""
_NAME = "node_model_call"
"""Starts with the prefix of the sync nodes' threads: a worker that ends does not wait for those that still block."""

P = ParamSpec("P")
T = TypeVar("T")


class _Place:
    """A place of a call, held by the call itself and by each thread that runs on its behalf.

    A sync call cannot be interrupted: when its caller stops waiting, its thread keeps the place until it returns.
    """

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._holders = 1

    def hold(self) -> None:
        self._holders += 1

    def leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._free.release()


_place: ContextVar[_Place | None] = ContextVar("place", default=None)


class CallThreads(ThreadPoolExecutor):
    """The default executor of the loop of sync callers."""

    def __init__(self) -> None:
        super().__init__(_THREADS, thread_name_prefix=_NAME)
        self._free = asyncio.Semaphore(PLACES)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a free place. A call within a call uses the place of the outer one, which waits for it."""
        if _place.get():
            yield
            return
        await self._free.acquire()
        place = _Place(self._free)
        token = _place.set(place)
        try:
            yield
        finally:
            _place.reset(token)
            place.leave()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `function` in a thread, which holds the place of the calling context, if it has one."""
        future = super().submit(function, *args, **kwargs)
        place = _place.get()
        if place:
            place.hold()
            future.add_done_callback(_leave_in(asyncio.get_running_loop(), place))
        return future


def _leave_in(loop: asyncio.AbstractEventLoop, place: _Place) -> Callable[[Future[T]], None]:
    def leave(_future: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nothing waits for the place
            loop.call_soon_threadsafe(place.leave)

    return leave
