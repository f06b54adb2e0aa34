"""Waiting for a provider that may not be called now: a short time in place, then by the task, within its deadline.

A refusal of the breaker or of pacing, and a 429, are no failures of the call: nothing was paid, and the caller uses up
none of its attempts. The waits are spread: callers that were refused at the same moment must not come back at the same
moment.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from langgraph_rq.worker.guards.refusals import ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import TaskGuard
from langgraph_rq.worker.guards.waiting import IN_PLACE_S, CallWait

PATIENCE_S = 30.0
"""All short pauses of a rate limit together; then the task waits, for those that need no model."""
_AFTER_DEADLINE_S = 0.2
"""A call of an attempt that keeps its memory waits past the deadline, at which its run is ended."""
_SPREAD = 0.25
_LEAST_SPREAD_S = 1.0

T = TypeVar("T")


def spread(wait_s: float) -> float:
    """Lengthen a wait by up to a quarter of it, or by up to a second if that is more."""
    return wait_s + random.uniform(0, max(wait_s * _SPREAD, _LEAST_SPREAD_S))  # noqa: S311 - not for secrets


async def call_at_rate(
    task: TaskGuard, attempt: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S, *, may_keep: bool = True
) -> T:
    """Make the attempt, and make it again after each refusal that may be waited for.

    Args:
        task: The run that the call belongs to.
        attempt: Makes the call.
        patience_s: All pauses of a rate limit in place.
        may_keep: Whether the call may wait longer while the attempt keeps its memory; not if another model is next.

    Raises:
        ProviderUnavailableError: as `attempt` raises it, when the wait is too long for this place, or the task's
            deadline would end before it.
    """
    started = time.monotonic()
    deadline_at = math.inf if task.deadline_at is None else task.deadline_at
    with task.guards.kept.waiting(task.waits) as waiting:
        while True:
            try:
                return await attempt()
            except ProviderUnavailableError as error:
                patience = patience_s if error.is_rate_limited else min(patience_s, IN_PLACE_S)
                wait_s = _wait_s(error, waiting, min(started + patience, deadline_at), may_keep=may_keep)
                left_s = deadline_at - time.monotonic()
                if wait_s == math.inf or (wait_s >= left_s and not waiting.thing):
                    raise
            await asyncio.sleep(min(wait_s, left_s + _AFTER_DEADLINE_S))


def _wait_s(error: ProviderUnavailableError, waiting: CallWait, give_up_at: float, *, may_keep: bool) -> float:
    """Return how long a refused call waits before it asks again; infinite: it does not wait."""
    has_end = error.is_rate_limited or (error.wait is not None and not error.is_half_open)
    if not waiting.thing and has_end and error.retry_after_s <= IN_PLACE_S:
        wait_s = spread(error.retry_after_s)
        if time.monotonic() + wait_s < give_up_at:
            return wait_s
    if error.wait and may_keep and waiting.keep(error.wait.thing):
        return spread(error.retry_after_s) if error.wait.delay_ms else waiting.pause_s()
    return math.inf
