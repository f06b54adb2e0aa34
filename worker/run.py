"""The life of one task, top to bottom: read it, find its graph, run it, write down how it ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from redis.asyncio import Redis

from shared import lua
from shared.errors import ErrorType
from shared.task_queue import GRAPHS, Claimed, Origin, QueueTimes, adopt_call
from shared.tasks import State, Task, TaskLimits
from shared.token_budget import Payer
from worker.graphs import LoadedGraph
from worker.guard_hook import GuardHandler, guard_hook
from worker.guards import Guards, TaskGuard, current_task
from worker.job import NewerSchemaError, RejectedJobError, read_job
from worker.result import Ended, Result, read_error, read_output, usage_of, write_result

NOT_HERE_MS = 2_000
"""A task that this worker cannot run (newer schema, a graph it does not have) comes back after this time."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all tasks of one worker process share."""

    redis: Redis
    worker: str
    graphs: Mapping[str, LoadedGraph]
    base_queue: str
    times: QueueTimes
    limits: TaskLimits
    guards: Guards
    result_bytes: int = 1_000_000
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Released:
    """The task goes back to the queue."""

    delay_ms: int
    reason: str


async def run_task(claimed: Claimed, context: RunContext) -> Ended | Released | None:
    """Run a claimed task to its end; None: it is not ours any more, and nothing may be written.

    Never raises for what a task or its graph does; only an outage of Redis, or being cancelled, gets through.
    """
    started = time.monotonic()
    deadline_at_ms = claimed.deadline_at_ms
    try:
        task = read_job(claimed, context.base_queue, context.limits)
    except NewerSchemaError:
        return Released(NOT_HERE_MS, "newer schema")
    except RejectedJobError as error:
        result = Result(State.ERROR, error=(ErrorType.REJECTED, str(error)))
        return write_result(claimed, None, result, context.worker, context.result_bytes, started)
    if claimed.origin is Origin.ENQUEUED:
        deadline_at_ms = await lua.run(context.redis, adopt_call(claimed, context.worker, task, context.times))
    remaining_s = (deadline_at_ms - claimed.claimed_at_ms) / 1000
    loaded = context.graphs.get(task.graph)
    if loaded:
        result = await _run_graph(claimed, task, loaded, context, started + remaining_s)
    elif remaining_s > 0 and await _is_served(context.redis, task.graph, claimed.claimed_at_ms):
        return Released(NOT_HERE_MS, f"graph {task.graph} is not here")
    else:
        result = Result(State.ERROR, error=(ErrorType.UNKNOWN_GRAPH, f"no live worker has the graph {task.graph!r}"))
    if result.state is State.PENDING:
        return Released(round((result.retry_after_s or 0) * 1000), result.error[1] if result.error else "")
    if result.state is State.RUNNING:
        return None
    return write_result(claimed, task, result, context.worker, context.result_bytes, started)


async def _is_served(redis: Redis, graph: str, now_ms: int) -> bool:
    until = await redis.zscore(GRAPHS, graph)
    return until is not None and until > now_ms


async def _run_graph(
    claimed: Claimed, task: Task, loaded: LoadedGraph, context: RunContext, deadline_at: float
) -> Result:
    """Run the graph, guarded, until its end or the deadline (monotonic), whichever comes first."""
    guard = TaskGuard(
        context.guards,
        claimed.id,
        claimed.epoch,
        context.worker,
        Payer(task.tenant, task.user_id, task.task_id),
        deadline_at,
    )
    current_task.set(guard)
    guard_hook.set(GuardHandler(guard))
    late = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, f"the deadline of {task.deadline_s:g} s passed"))
    remaining_s = deadline_at - time.monotonic()
    if remaining_s <= 0:
        return late
    try:
        async with asyncio.timeout(remaining_s) as deadline:
            result = await _invoke(claimed, task, loaded, context, deadline_at)
    except TimeoutError as error:
        result = late if deadline.expired() else read_error(error, deadline_at)
    finally:
        await asyncio.shield(context.guards.close_task(guard))
    result.metadata = {**usage_of(guard), **result.metadata}
    return result


async def _invoke(claimed: Claimed, task: Task, loaded: LoadedGraph, context: RunContext, deadline_at: float) -> Result:
    config: RunnableConfig = {
        "configurable": {"thread_id": task.thread_key, "task_id": task.key, "user_id": task.user_id},
        "metadata": {**task.metadata, "task_id": task.key},
        "run_name": task.graph,
    }
    try:
        start = await _start(claimed, task, loaded, context, config)
        return read_output(await loaded.graph.ainvoke(start, config, durability="sync" if context.durable else None))
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        return read_error(error, deadline_at)
    except TimeoutError:
        raise
    except BaseException as error:  # a node that calls sys.exit() fails its task, not its neighbours
        return read_error(error, deadline_at)


async def _start(
    claimed: Claimed, task: Task, loaded: LoadedGraph, context: RunContext, config: RunnableConfig
) -> dict[str, Any] | None:
    """Say what to start with: the input, or None to go on from this task's own last checkpoint.

    The newest checkpoint of a thread may be an older task's: going on from that would answer with its state.
    """
    if not context.durable or claimed.epoch == 1:
        return task.input
    last = await loaded.graph.aget_state(config)
    return None if (last.metadata or {}).get("task_id") == task.key else task.input


def _is_being_cancelled() -> bool:
    """Whether it is us who cancel, not some node's own cancelled call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
