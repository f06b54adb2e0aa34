"""The sweeper, a safety net below the queue.

It requeues tasks that an RQ tool or a restored backup displaced, and ends tasks that waited past their deadline, so
that their clients get a result.
"""

from collections.abc import Collection, Iterable

from redis import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.ending import add_reads, unrun_result
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, sweep_call
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)


def sweep(redis: Redis, times: QueueTimes, keys: TaskKeys | None = None) -> bool:
    """Sweep the next batch of open tasks; returns whether more may be overdue. `keys` sign the results."""
    swept = scripts.run_sync(redis, sweep_call())
    for task_id in swept.again:
        _log.warning("task.swept", task_id=task_id, reason="it was not where its hash said")
    _end(redis, swept.removed, State.CANCELLED, times, keys)
    _end(redis, swept.unreadable, State.ERROR, times, keys)
    _end(redis, swept.overdue, State.TIMEOUT, times, keys, swept.graphs)
    return swept.has_more


def _end(
    redis: Redis,
    task_ids: Iterable[str],
    state: State,
    times: QueueTimes,
    keys: TaskKeys | None,
    graphs: Collection[str] | None = None,
) -> None:
    """End tasks that no worker runs."""
    for task_id in task_ids:
        pipeline = redis.pipeline(transaction=False)
        add_reads(pipeline, task_id)
        result = unrun_result(task_id, state, pipeline.execute(raise_on_error=False), graphs)
        if result and keys:
            result = keys.sign_result(task_id, result)
        if result and scripts.run_sync(redis, cancel_call(task_id, state, result, times)) is state:
            _log.warning("task.completed", task_id=task_id, state=state, reason="it ended while it waited")
