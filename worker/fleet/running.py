"""The tasks that run in this process: start them, cancel them, wait for them, and compare them with what Redis says."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from langgraph_rq.shared.connections.background import CANCEL_AGAIN_S
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed, Lease
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE, AT_ONCE
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.fleet.forked.isolation import Isolation, group_size, is_to_be_isolated
from langgraph_rq.worker.fleet.outcomes import OutcomeWriter
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.job import NewerSchemaError, RejectedJobError, job_text, read_job
from langgraph_rq.worker.task.result import Ended, Result, write_result
from langgraph_rq.worker.task.run import Released, run_task
from langgraph_rq.worker.task.run_context import RunContext

_log = get_logger(__name__)


@dataclass(slots=True)
class _Running:
    """An attempt and the asyncio task that runs it."""

    attempt: Attempt
    task: "asyncio.Task[None]"
    claimed_at: float
    """On the monotonic clock."""
    kept_for: str = ""
    """What it waits for with its memory kept, as Redis knows it."""
    is_released: bool = False
    """It goes back to the queue when its asyncio task is cancelled."""
    is_committing: bool = False
    """Its outcome is being written and must not be cancelled."""


class RunningTasks:
    """Runs claimed tasks, each in an asyncio task of its own.

    Args:
        context: What the tasks share.
        outcomes: Where their outcomes are written.
        isolation: Runs tasks under which workers crashed; None runs them here as any other.
        on_end: Called when a task has ended.
    """

    def __init__(
        self, context: RunContext, outcomes: OutcomeWriter, isolation: Isolation | None, on_end: Callable[[], None]
    ) -> None:
        self._context = context
        self._outcomes = outcomes
        self._isolation = isolation
        self._on_end = on_end
        self._running: dict[tuple[str, int], _Running] = {}

    def __len__(self) -> int:
        """Count the tasks in flight."""
        return len(self._running)

    @property
    def slots(self) -> int:
        """How many slots they take: none a task whose attempt keeps its memory while it waits."""
        return sum(not running.attempt.waits.is_waiting for running in self._running.values())

    @property
    def ids(self) -> set[str]:
        """The ids of the tasks in flight."""
        return {running.attempt.claimed.id for running in self._running.values()}

    @property
    def input_bytes(self) -> int:
        """How much the inputs of the tasks in flight take."""
        return sum(running.attempt.input_bytes for running in self._running.values())

    def start(self, claimed: Claimed, worker: str) -> None:
        """Run a task that was claimed as `worker`."""
        key = (claimed.id, claimed.epoch)
        attempt = Attempt.of(claimed, worker, self._context)
        task = asyncio.create_task(self._run(attempt))
        self._running[key] = _Running(attempt, task, time.monotonic())
        task.add_done_callback(lambda _task: self._forget(key))

    def cancel(self, task_id: str) -> None:
        """End a task that its user has cancelled. A sync node cannot be stopped: it keeps its thread to its end."""
        for running in self._running.values():
            is_under_way = running.is_committing or running.attempt.is_cancelled
            if running.attempt.claimed.id == task_id and not is_under_way:
                running.attempt.is_cancelled = True
                running.task.cancel()

    def reconcile(self, lease: Lease, asked_at: float) -> None:
        """Abandon tasks that Redis says this worker does not own, and end those that were cancelled.

        Args:
            lease: The reply to a renewal.
            asked_at: When the renewal was sent (monotonic); tasks claimed after that are not in the reply.
        """
        for running in self._running.values():
            is_gone = running.attempt.claimed.id not in lease.own and running.claimed_at < asked_at
            if is_gone and not running.is_committing:
                _log.warning("task.lost", task_id=running.attempt.claimed.id)
                running.task.cancel()
        for task_id in lease.cancelled:
            self.cancel(task_id)

    def abandon(self) -> None:
        """Cancel all: another worker has taken them over, so that nothing of them may be written."""
        for running in self._running.values():
            running.task.cancel()

    def record_waits(self) -> None:
        """Record in Redis which attempts have begun to wait with their memory kept, and which go on."""
        for running in self._running.values():
            thing = running.attempt.waits.thing
            if thing != running.kept_for:
                running.kept_for = thing
                self._outcomes.record_wait(running.attempt, thing)

    def release_waiting(self) -> None:
        """Give those back to the queue that only wait: nothing says that they will go on before the worker ends."""
        for running in self._running.values():
            if running.attempt.waits.is_waiting and not running.is_committing:
                running.is_released = True
                running.task.cancel()

    async def release(self, timeout_s: float) -> None:
        """Cancel all and give them back to the queue, within `timeout_s`."""
        for running in self._running.values():
            running.is_released = True
        await self.end(timeout_s)

    async def end(self, timeout_s: float) -> None:
        """Cancel all and wait until they have ended, for at most `timeout_s`; outcomes are left to be written."""
        give_up_at = time.monotonic() + timeout_s
        await asyncio.sleep(0)  # a task that is cancelled before its first step would not be released
        while self._running and time.monotonic() < give_up_at:
            for running in self._running.values():
                if not running.is_committing:
                    running.task.cancel()
            await asyncio.wait([running.task for running in self._running.values()], timeout=CANCEL_AGAIN_S)

    def _forget(self, key: tuple[str, int]) -> None:
        self._running.pop(key, None)
        self._on_end()

    async def _run(self, attempt: Attempt) -> None:
        attempt.enter()
        running = self._running[attempt.claimed.id, attempt.claimed.epoch]
        try:
            outcome = await self._outcome(attempt, running)
            if outcome is None:
                _log.warning("task.lost", reason="it waits, or another worker owns it")
                attempt.end("lost")
                return
            running.is_committing = True
            await self._outcomes.write(attempt, outcome)
        finally:
            attempt.end()

    async def _outcome(self, attempt: Attempt, running: _Running) -> Ended | Released | None:
        try:
            return await self._isolate_or_run(attempt)
        except asyncio.CancelledError:
            return Released(AT_ONCE, "the worker ends") if running.is_released else None
        except RedisError as error:
            return Released(AFTER_OUTAGE, f"Redis is away: {error}")
        except Exception as error:  # a fault of the worker must not let the task run again and again
            _log.exception("task.broken")
            broken = Result(State.ERROR, error=(ErrorType.GRAPH_ERROR, f"the worker failed: {error!r}"))
            limit = self._context.result_bytes
            return write_result(
                attempt.claimed, attempt.task, broken, attempt.worker, limit, running.claimed_at, is_question_open=True
            )

    async def _isolate_or_run(self, attempt: Attempt) -> Ended | Released | None:
        claimed = attempt.claimed
        try:
            if self._isolation is None or not is_to_be_isolated(claimed) or attempt.is_cancelled:
                return await run_task(attempt)
            _read(attempt)
            about = {"crashes": claimed.crashes, "blocked_in": claimed.blocked_in or None}
            _log.warning("task.isolated", **about, group_size=group_size(claimed))
            return await self._isolation.run(claimed, attempt.worker, attempt.task)
        except asyncio.CancelledError:
            if not attempt.is_cancelled:
                raise
            return await run_task(attempt)


def _read(attempt: Attempt) -> None:
    """Read the task of an attempt that runs in a child process, which reads it again; what is no task is left to it."""
    claimed, context = attempt.claimed, attempt.context
    with suppress(RejectedJobError, NewerSchemaError):
        text = job_text(claimed, context.limits)
        attempt.input_bytes = len(text)
        attempt.task = read_job(claimed, text, context.base_queue, context.limits, context.keys)
        attempt.context = context.of_graph(context.graphs.get(attempt.task.graph))
