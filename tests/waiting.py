"""Wait for a condition instead of sleeping for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_POLL_S = 0.01


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Return the first true value of `condition`, which may be async; fail after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < give_up_at, f"waited {timeout_s} s for {inspect.getsource(condition).strip()}"
        await asyncio.sleep(_POLL_S)


def until_sync(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Wait as `until` does, from synchronous code."""
    return asyncio.run(until(condition, timeout_s))


class Gate:
    """Holds up the first run of a node behind its calls, until its worker hands the task back."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.runs = 0

    async def hold_first(self) -> None:
        self.runs += 1
        if self.runs == 1:
            self.reached.set()
            await asyncio.Event().wait()
