"""Waiting for a provider's rate limit: a short pause in place, a long one by the task, always within its deadline.

A 429 is no failure. The provider is healthy, nothing was paid, and the breaker makes all callers pause for as long as
it asked. A caller that waits uses up none of its attempts. The waits are spread: callers that were refused at the same
moment must not come back at the same moment.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from langgraph_rq.worker.guards.guards import TaskGuard
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError

LONGEST_WAIT_S = 2.0
"""A longer pause is not waited for in place: the task gives back its slot."""
PATIENCE_S = 30.0
"""All pauses of one call together; then the task gives back its slot, for those that need no model."""
_SPREAD = 0.25
_LEAST_SPREAD_S = 1.0

T = TypeVar("T")


def spread(wait_s: float) -> float:
    """Lengthen a wait by up to a quarter of it, or by up to a second if that is more."""
    return wait_s + random.uniform(0, max(wait_s * _SPREAD, _LEAST_SPREAD_S))  # noqa: S311 - not for secrets


async def call_at_rate(task: TaskGuard, attempt: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """Make the attempt, and make it again after each short pause that a rate limit asks for.

    Raises:
        ProviderUnavailableError: as `attempt` raises it; of a rate limit when the pause is too long, or the patience or
            the task's deadline would end before it.
    """
    give_up_at = time.monotonic() + patience_s
    if task.deadline_at is not None:
        give_up_at = min(give_up_at, task.deadline_at)
    while True:
        try:
            return await attempt()
        except ProviderUnavailableError as error:
            wait_s = spread(error.retry_after_s)
            is_short = error.retry_after_s <= LONGEST_WAIT_S and time.monotonic() + wait_s < give_up_at
            if not (error.is_rate_limited and is_short):
                raise
        await asyncio.sleep(wait_s)
