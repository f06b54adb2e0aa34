"""Outages and lost tasks, for checkpointers and the store: wait for Redis, refuse what an abandoned run writes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.guards.event_loops import OUTAGE, stops_a_loop
from langgraph_rq.worker.guards.task_guard import current_task

PATIENCE_S = 600.0
"""How long a write waits while Redis is away; then the node's work is lost."""

T = TypeVar("T")


class CheckpointOutageError(LanggraphRqError):
    """Redis was away for too long. Not caused by the task or its graph, unlike a Redis error raised by a node."""


class CheckpointFencedError(LanggraphRqError):
    """The run has ended, or another worker has taken over this one's tasks: the run's checkpoints are refused."""


class Outages:
    """Retries what Redis was away for.

    Args:
        patience_s: How long a call waits while Redis is away. A call that blocks an event loop does not wait.
        is_fenced: Whether this worker has lost its lease; then nothing is written or waited for.
        is_outage: Tells an outage from other errors.
        errors: What may be one.
        what: What could not be reached, for the error's message.
    """

    def __init__(
        self,
        patience_s: float = PATIENCE_S,
        is_fenced: Callable[[], bool] = lambda: False,
        is_outage: Callable[[BaseException], bool] = is_outage,
        errors: tuple[type[BaseException], ...] = (RedisError, OSError),
        what: str = "checkpoints",
    ) -> None:
        self._patience_s = patience_s
        self._is_fenced = is_fenced
        self._is_outage = is_outage
        self._errors = errors
        self._what = what

    def check_fence(self) -> None:
        """Refuse what an abandoned run writes: its thread may be another task's by now.

        Raises:
            CheckpointFencedError: the run has ended, or this worker has lost its tasks.
        """
        run = current_task.get()
        if self._is_fenced() or (run is not None and run.is_over):
            raise CheckpointFencedError("expected a run that still owns its task, got: one that has ended")

    async def retry(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run `step`, which must be idempotent, and retry it while Redis is away.

        Raises:
            CheckpointOutageError: Redis was away for `patience_s`, or this worker has lost its lease.
        """
        gives_up_at = time.monotonic() + self._patience_s
        failures = 0
        while True:
            try:
                return await step()
            except self._errors as error:
                if not self._is_outage(error):
                    raise
                failures += 1
                pause_s = OUTAGE.pause_s(failures)
                if stops_a_loop.get() or self._is_fenced() or time.monotonic() + pause_s > gives_up_at:
                    raise CheckpointOutageError(f"{self._what} could not be reached in Redis: {error}") from error
            await asyncio.sleep(pause_s)
