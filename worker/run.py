"""The life of one task, top to bottom: read it, find its graph, run it, write down how it ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig
from redis.asyncio import Redis

from shared import lua
from shared.errors import ErrorType
from shared.pricing import Pricing
from shared.redis_clients import is_outage
from shared.task_queue import GRAPHS, Claimed, Origin, QueueTimes, adopt_call
from shared.tasks import State, Task, TaskLimits
from worker.graphs import LoadedGraph
from worker.job import NewerSchemaError, RejectedJobError, read_job
from worker.result import Ended, Result, graph_error, read_output, sum_usage, write_result
from worker.usage import TaskUsage

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
    pricing: Pricing
    result_bytes: int = 1_000_000
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Released:
    """The task goes back to the queue."""

    delay_ms: int
    reason: str


async def run_task(claimed: Claimed, context: RunContext) -> Ended | Released:
    """Run a claimed task to its end.

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
        result = await _run_graph(task, loaded, context, remaining_s)
    elif remaining_s > 0 and await _is_served(context.redis, task.graph, claimed.claimed_at_ms):
        return Released(NOT_HERE_MS, f"graph {task.graph} is not here")
    else:
        result = Result(State.ERROR, error=(ErrorType.UNKNOWN_GRAPH, f"no live worker has the graph {task.graph!r}"))
    return write_result(claimed, task, result, context.worker, context.result_bytes, started)


async def _is_served(redis: Redis, graph: str, now_ms: int) -> bool:
    until = await redis.zscore(GRAPHS, graph)
    return until is not None and until > now_ms


async def _run_graph(task: Task, loaded: LoadedGraph, context: RunContext, remaining_s: float) -> Result:
    """Run the graph until its end or the deadline, whichever comes first."""
    usage = TaskUsage()
    result = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, f"the deadline of {task.deadline_s:g} s passed"))
    if remaining_s > 0:
        # The message of our own timeout is the deadline's; one raised inside the graph is the graph's error.
        try:
            async with asyncio.timeout(remaining_s) as deadline:
                result = await _invoke(task, loaded, usage, durable=context.durable)
        except TimeoutError as error:
            if not deadline.expired():
                result = graph_error(error)
    result.metadata = {**sum_usage(usage, context.pricing), **result.metadata}
    return result


async def _invoke(task: Task, loaded: LoadedGraph, usage: TaskUsage, *, durable: bool) -> Result:
    config: RunnableConfig = {
        "configurable": {"thread_id": task.thread_key, "task_id": task.key, "user_id": task.user_id},
        "metadata": {**task.metadata, "task_id": task.key},
        "callbacks": [usage],
        "run_name": task.graph,
    }
    try:
        return read_output(await loaded.graph.ainvoke(task.input, config, durability="sync" if durable else None))
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        return graph_error(error)
    except TimeoutError:
        raise
    except BaseException as error:  # a node that calls sys.exit() fails its task, not its neighbours
        if is_outage(error):
            raise
        return graph_error(error)


def _is_being_cancelled() -> bool:
    """Whether it is us who cancel, not some node's own cancelled call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
