"""The life of one task, top to bottom: read it, find its graph, run it, write down how it ended."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command
from redis.asyncio import Redis

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.task_queue import GRAPHS, Claimed, Origin, QueueTimes, adopt_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.shared.telemetry import tracing
from langgraph_rq.shared.telemetry.audit import Audit
from langgraph_rq.worker.graphs.graphs import LoadedGraph
from langgraph_rq.worker.guards.guards import Guards, TaskGuard, current_task
from langgraph_rq.worker.state.checkpoints import Checkpointer
from langgraph_rq.worker.task.attempt import tell_task
from langgraph_rq.worker.task.events import EventWriter, TaskEvents
from langgraph_rq.worker.task.guard_hook import GuardHandler, guard_hook
from langgraph_rq.worker.task.interrupts import kept_answers, resume_again, resume_first
from langgraph_rq.worker.task.job import NewerSchemaError, RejectedJobError, read_job
from langgraph_rq.worker.task.node_watch import NodeWatch
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.task.result import Ended, Result, read_error, read_output, usage_of, write_result
from langgraph_rq.worker.task.streaming import stream_graph
from langgraph_rq.worker.task.threads import continue_thread

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 60.0
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
    checkpointer: Checkpointer | None = None
    """Where the graphs' checkpoints live; None for none."""
    result_bytes: int = 1_000_000
    callbacks: Sequence[BaseCallbackHandler] = ()
    """Told of every step of every run."""
    audit: Audit | None = None
    is_traced: bool = field(default_factory=tracing.is_on)
    """Whether attempts have spans."""
    redaction: Redaction | None = None
    events: EventWriter = field(init=False)

    def __post_init__(self) -> None:
        """Give the tasks one writer of events."""
        object.__setattr__(self, "events", EventWriter(self.redis))


@dataclass(frozen=True, slots=True)
class Released:
    """The task goes back to the queue; `failed` counts against its max_attempts."""

    delay_ms: int
    reason: str
    failed: bool = False


async def run_task(
    claimed: Claimed, context: RunContext, is_cancelled: Callable[[], bool] = lambda: False
) -> Ended | Released | None:
    """Run a claimed task to its end; None: it is not ours any more, and nothing may be written.

    Never raises for what a task or its graph does; only an outage of Redis, or being cancelled, gets through. When
    `is_cancelled` says that it was the task's user who cancelled, that is the task's end instead.
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
    tell_task(task)
    if claimed.origin is Origin.ENQUEUED:
        deadline_at_ms = await scripts.run(context.redis, adopt_call(claimed, context.worker, task, context.times))
        if deadline_at_ms <= 0:
            return None
    remaining_s = (deadline_at_ms - claimed.claimed_at_ms) / 1000
    loaded = context.graphs.get(task.graph)
    if claimed.is_cancelled:
        result = Result(State.CANCELLED)
    elif loaded:
        result = await _run_graph(claimed, task, loaded, context, started + remaining_s, is_cancelled)
    elif remaining_s > 0 and await _is_served(context.redis, task.graph, claimed.claimed_at_ms):
        return Released(NOT_HERE_MS, f"graph {task.graph} is not here")
    else:
        result = Result(State.ERROR, error=(ErrorType.UNKNOWN_GRAPH, f"no live worker has the graph {task.graph!r}"))
    if result.state is State.PENDING:
        return Released(round((result.retry_after_s or 0) * 1000), result.error[1] if result.error else "")
    if result.state is State.RUNNING:
        return None
    again = _again(claimed, task, result, started + remaining_s)
    result = context.redaction.result(result) if context.redaction else result
    return again or write_result(claimed, task, result, context.worker, context.result_bytes, started)


def _again(claimed: Claimed, task: Task, result: Result, deadline_at: float) -> Released | None:
    """Say when a failed graph is tried again, with exponential backoff and jitter; None: it has failed for good."""
    if not (result.is_worth_retrying and claimed.failures + 1 < task.max_attempts):
        return None
    wait_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**claimed.failures) * random.uniform(0.5, 1.5)  # noqa: S311
    wait_s = max(wait_s, result.retry_after_s or 0.0)
    if time.monotonic() + wait_s >= deadline_at:
        return None
    message = result.error[1] if result.error else ""
    return Released(round(wait_s * 1000), f"attempt {claimed.failures + 1} failed: {message}", failed=True)


async def _is_served(redis: Redis, graph: str, now_ms: int) -> bool:
    until = await redis.zscore(GRAPHS, graph)
    return until is not None and until > now_ms


async def _run_graph(
    claimed: Claimed,
    task: Task,
    loaded: LoadedGraph,
    context: RunContext,
    deadline_at: float,
    is_cancelled: Callable[[], bool],
) -> Result:
    """Run the graph, guarded, until its end or the deadline (monotonic), whichever comes first."""
    guard = TaskGuard(
        context.guards,
        claimed.id,
        claimed.epoch,
        context.worker,
        Payer(task.tenant, task.user_id, task.task_id),
        deadline_at,
        input_tokens=claimed.used.input_tokens,
        output_tokens=claimed.used.output_tokens,
        cost_nano_usd=claimed.used.cost_nano_usd,
    )
    current_task.set(guard)
    guard_hook.set(GuardHandler(guard, NodeWatch.of_attempt()))
    late = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, f"the deadline of {task.deadline_s:g} s passed"))
    remaining_s = deadline_at - time.monotonic()
    if remaining_s <= 0:
        return late
    events = context.events.open(claimed, context.worker)
    if context.redaction:
        events = context.redaction.events(context.events, claimed, context.worker)
    try:
        async with asyncio.timeout(remaining_s) as deadline:
            result = await _invoke(claimed, task, loaded, context, deadline_at, events)
    except TimeoutError as error:
        result = late if deadline.expired() else read_error(error, deadline_at)
    except asyncio.CancelledError:
        if not is_cancelled():
            raise
        result = Result(State.CANCELLED)
    finally:
        await asyncio.shield(context.guards.close_task(guard))
    await events.flush()
    result.metadata = {**usage_of(guard), **result.metadata}
    return result


async def _invoke(
    claimed: Claimed, task: Task, loaded: LoadedGraph, context: RunContext, deadline_at: float, events: TaskEvents
) -> Result:
    config: RunnableConfig = {
        "configurable": {"thread_id": task.thread_key, "task_id": task.key, "user_id": task.user_id},
        "metadata": {**task.metadata, "task_id": task.key},
        "run_name": task.graph,
        "callbacks": list(context.callbacks) or None,
    }
    try:
        start = await _start(claimed, task, loaded, context, config)
        if isinstance(start, Result):
            return start
        durability: Literal["sync"] | None = "sync" if context.checkpointer else None
        if task.stream:
            return read_output(await stream_graph(loaded.graph, start, config, durability, task.stream, events))
        return read_output(await loaded.graph.ainvoke(start, config, durability=durability))
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
) -> "dict[str, Any] | Command[str] | Result | None":
    """Say what to start with: the input, the answers to an interrupt, or None to go on from this task's own checkpoint.

    The newest checkpoint of a thread may be an older task's: going on from that would answer with its state. A result
    says that there is nothing to run.
    """
    if context.checkpointer is None or (claimed.epoch == 1 and task.thread_id is None and not task.resume):
        return task.input
    last = await context.checkpointer.aget_tuple(config)
    if last and last.metadata.get("task_id") == task.key:
        return None
    if task.resume:
        state = await loaded.graph.aget_state(config, subgraphs=claimed.epoch > 1)
        if claimed.epoch == 1:
            return resume_first(state, task.resume)
        return resume_again(state, task.resume, await kept_answers(context.checkpointer, state))
    return continue_thread(last.checkpoint["channel_values"], task.input) if last else task.input


def _is_being_cancelled() -> bool:
    """Whether it is us who cancel, not some node's own cancelled call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
