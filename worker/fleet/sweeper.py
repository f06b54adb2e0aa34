"""The sweeper, a safety net below the queue. One worker of the fleet sweeps at a time; the script decides which.

It requeues tasks that an RQ tool or a restored backup displaced, and ends tasks that waited past their deadline, so
that their clients get a result.
"""

import math
from collections.abc import Callable, Collection, Sequence

from redis import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.ending import READS, Unrun, add_reads, unrun_result
from langgraph_rq.shared.queue.upkeep import SWEPT, sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.audit import Action, Audit
from langgraph_rq.shared.telemetry.logs import get_logger

_ROUNDS = 20
"""All open tasks are looked at in so many rounds, one for each renewal of the lease: 40 s by default."""

_log = get_logger(__name__)


class Sweeper:
    """Sweeps as `worker`, while no other one does.

    Args:
        redis: Of the caller's thread.
        worker: Its name.
        times: How long ended tasks are kept.
        keys: Sign the results.
        audit: Records the ends; None: there is no audit log.
        on_spent: Called with ids of ended tasks whose own checkpoints may go.
    """

    def __init__(
        self,
        redis: Redis,
        worker: str,
        times: QueueTimes,
        keys: TaskKeys | None = None,
        audit: Audit | None = None,
        on_spent: Callable[[Sequence[str]], None] = lambda _ids: None,
    ) -> None:
        self._redis = redis
        self._worker = worker
        self._times = times
        self._keys = keys
        self._audit = audit
        self._on_spent = on_spent
        self._swept = 0
        """Batches of this round."""

    def sweep_batch(self) -> bool:
        """Sweep the next batch of open tasks; returns whether more are left for this round, or may have to end."""
        call = sweep_call(worker=self._worker, lease_ms=self._times.lease_ms)
        swept = scripts.run_sync(self._redis, call)
        for task_id in swept.again:
            _log.warning("task.swept", task_id=task_id, reason="it was not where its hash said")
        self._end(swept.removed, State.CANCELLED)
        self._end(swept.unreadable, State.ERROR)
        self._end(swept.overdue, State.TIMEOUT, swept.graphs)
        if swept.spent:
            self._on_spent(swept.spent)
        self._swept += 1
        if swept.has_more or swept.removed or self._swept < math.ceil(swept.open / (_ROUNDS * SWEPT)):
            return True
        self._swept = 0
        return False

    def _end(self, task_ids: Sequence[str], state: State, graphs: Collection[str] | None = None) -> None:
        """End tasks that no worker runs, in two round trips."""
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            add_reads(pipeline, task_id)
        replies = pipeline.execute(raise_on_error=False)
        calls, about = {}, {}
        for i, task_id in enumerate(task_ids):
            result = unrun_result(task_id, state, replies[READS * i : READS * (i + 1)], graphs)
            if result:
                signed = self._keys.sign_result(task_id, result) if self._keys else result
                one = about[task_id] = Unrun.of(result)
                calls[task_id] = cancel_call(
                    task_id, state, signed, self._times, error_type=one.error_type, failure=one.failure
                )
        # The entries before the ends, as of tasks that ran; those that are refused here are sent again with others.
        entries = [self._entry_call(task_id, state, one) for task_id, one in about.items()] if self._audit else []
        replies = scripts.run_many_sync(self._redis, [*entries, *calls.values()])[len(entries) :]
        for task_id, ended in zip(calls, replies, strict=True):
            if isinstance(ended, Exception):
                raise ended
            if ended.has_ended:
                _log_end(task_id, state, about[task_id])
            elif self._audit:
                fenced = self._audit.entry_call(Action.FENCED, task_id, actor=self._worker)
                scripts.run_many_sync(self._redis, [fenced])

    def _entry_call(self, task_id: str, state: State, about: Unrun) -> scripts.Call[None]:
        assert self._audit
        return self._audit.entry_call(
            Action.ENDED,
            task_id,
            actor=self._worker,
            outcome=state,
            error=about.error_type or None,
            attempts=about.attempts,
            input_tokens=about.input_tokens,
            output_tokens=about.output_tokens,
            cost_nano_usd=about.cost_nano_usd,
            usage_estimated=about.usage_estimated or None,
        )


def _log_end(task_id: str, state: State, about: Unrun) -> None:
    is_cancelled = state is State.CANCELLED
    log = _log.info if is_cancelled else _log.warning
    log(
        "task.completed" if is_cancelled else "task.failed",
        task_id=task_id,
        graph=about.graph,
        state=state,
        error=about.error_type or None,
        total_ms=about.total_ms,
        reason="it ended while it waited",
    )
