"""Tasks of an event loop that no caller awaits."""

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any

CANCEL_AGAIN_S = 0.2
"""A cancellation may be swallowed, by a node or by redis-py while it connects; it is repeated after this time."""


class BackgroundTasks:
    """Keeps the tasks from the garbage collector, since a loop does not, and ends them before their clients close."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, object]) -> "asyncio.Task[Any]":
        """Run `coroutine` as a task of the running loop."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self, timeout_s: float) -> None:
        """Wait `timeout_s` for the tasks, and for those that they start, then cancel those that are left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._running:
                    await asyncio.wait(self._running)
        await end(self._running)


async def end(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel until all have ended, for a cancellation may be swallowed."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
