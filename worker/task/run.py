"""The life of one task, top to bottom: read it, find its graph, run it, make its result."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed, Origin
from langgraph_rq.shared.queue.attempts import ADOPT_NO_GRAPH, adopt_call
from langgraph_rq.shared.queue.waits import RETRY, WORKER, Wait, describe
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph
from langgraph_rq.worker.outputs.failures import Failure
from langgraph_rq.worker.outputs.last_state import read_last_state
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.guard_hook import install_handler
from langgraph_rq.worker.task.invocation.invoke import invoke
from langgraph_rq.worker.task.invocation.start import (
    run_of,
    thread_config,
)
from langgraph_rq.worker.task.invocation.threads import note_dropped
from langgraph_rq.worker.task.job import (
    NewerSchemaError,
    RejectedJobError,
    UnsignedJobError,
    job_text,
    kept_times,
    read_job,
)
from langgraph_rq.worker.task.result import (
    INTERRUPT,
    Ended,
    Result,
    read_error,
    usage_of,
    write_result,
)
from langgraph_rq.worker.task.run_context import RunContext

_RETRY = Backoff(first_s=1.0, longest_s=60.0, jitter=0.5)
_NEWER_SCHEMA = Wait(WORKER, 2_000, doubles=False)
"""A task of a newer schema comes back after this time."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Released:
    """The task goes back to the queue, or waits; `failed`: the attempt counts against its max_attempts."""

    wait: Wait
    reason: str
    failed: bool = False
    group_size: int = 0
    """How many tasks may share its child process from now on; 0: as many as before."""


async def run_task(attempt: Attempt) -> Ended | Released | None:
    """Run a claimed task to its end, in the scope of `attempt`; None: another worker owns it, and nothing is written.

    Never raises for what a task or its graph does; only an outage of Redis and a cancellation get through. The latter
    is the task's end instead when its user has cancelled it.
    """
    claimed, context, worker = attempt.claimed, attempt.context, attempt.worker
    started = time.monotonic()
    deadline_at_ms = claimed.deadline_at_ms
    try:
        text = job_text(claimed, context.limits)
        attempt.input_bytes = len(text)
        task = read_job(claimed, text, context.base_queue, context.limits, context.keys)
        kept = kept_times(claimed, context.times)
        signed = text if context.keys and claimed.origin is Origin.ENQUEUED else None
        del text  # it may be long, and so may the run
    except NewerSchemaError:
        return Released(_NEWER_SCHEMA, "newer schema")
    except RejectedJobError as error:
        return write_result(claimed, None, _rejected(error), worker, context.result_bytes, started)
    attempt.read(task)
    loaded = context.graphs.get(task.graph)
    attempt.context = context = context.of_graph(loaded)
    if claimed.origin is Origin.ENQUEUED or not (loaded or attempt.is_cancelled):
        call = adopt_call(claimed, worker, task, context.times, is_served=loaded is not None, data=signed, kept=kept)
        deadline_at_ms = await scripts.run(context.redis, call)
        if deadline_at_ms <= 0 and deadline_at_ms != ADOPT_NO_GRAPH:
            return None
    if claimed.origin is Origin.ENQUEUED and loaded:
        _warn(loaded, task)
    remaining_s = (deadline_at_ms - claimed.claimed_at_ms) / 1000
    if deadline_at_ms == ADOPT_NO_GRAPH:
        result = Result(State.ERROR, error=(ErrorType.UNKNOWN_GRAPH, f"no live worker has the graph {task.graph!r}"))
    elif attempt.is_cancelled or not loaded:
        result = Result(State.CANCELLED)
    else:
        result = await _run_graph(attempt, task, loaded, started + remaining_s)
    if result.state is State.PENDING:
        return Released(result.wait, result.error[1] if result.error else "")
    if result.state is State.RUNNING:
        return None
    again = _again(claimed, task, result, started + remaining_s)
    return again or await _end_task(attempt, task, loaded, result, started)


def _warn(loaded: LoadedGraph | GraphPerRun, task: Task) -> None:
    """Warn of what a producer of ours would have warned of."""
    if not task.goes_on and (ignored := loaded.input.ignored(task.input)):
        _log.warning("input.ignored", graph=task.graph, keys=len(ignored))


async def _end_task(
    attempt: Attempt, task: Task, loaded: LoadedGraph | GraphPerRun | None, result: Result, started: float
) -> Ended:
    claimed, context = attempt.claimed, attempt.context
    if loaded:
        await _add_last_state(context, task, loaded, result)
    if context.redaction:
        result = await context.redaction.result(result)
    is_refused = result.error is not None and result.error[0] is ErrorType.INVALID_INPUT
    rolls_back = False
    if result.state is State.CANCELLED:
        rolls_back, why = await attempt.read_stop()
        result.metadata = {**result.metadata, **why}
    if attempt.dropped and not (is_refused or rolls_back):
        await note_dropped(attempt, task, attempt.dropped)
        result.metadata = {**result.metadata, "dropped_question_of": attempt.dropped.rpartition("--")[2]}
    if task.continues:
        result.metadata = {**result.metadata, "continues": task.continues.task_id}
    is_open = await _is_question_open(context, task, result)
    return write_result(claimed, task, result, attempt.worker, context.result_bytes, started, is_question_open=is_open)


async def _is_question_open(context: RunContext, task: Task, result: Result) -> bool:
    """Whether the thread shows a question after this end: a new one, or the one that a lost answer was for."""
    if result.state is State.INTERRUPTED:
        return True
    if result.state is State.SUCCESS or not (task.goes_on and context.checkpointer):
        return False
    try:
        last = await context.checkpointer.aget_tuple(thread_config(task))
    except RefusedStateError:  # it cannot be answered
        return False
    except Exception as error:  # an outage must not change how the task ended
        _log.warning("last_state.not_read", error=type(error).__name__)
        return True
    if last is None or last.metadata.get("task_id") == task.key:
        return False
    return any(channel == INTERRUPT for _, channel, _ in last.pending_writes or ())


def _rejected(error: RejectedJobError) -> Result:
    if isinstance(error, UnsignedJobError):
        _log.warning("signature.refused", reason=error.reason.value)
    return Result(State.ERROR, error=(ErrorType.REJECTED, str(error)))


def _again(claimed: Claimed, task: Task, result: Result, deadline_at: float) -> Released | None:
    """Retry a failed graph after an exponential back-off with jitter; None: no attempt is left, or no time for one."""
    if not (result.is_worth_retrying and claimed.failures + 1 < task.max_attempts):
        return None
    wait_s = max(_RETRY.pause_s(claimed.failures + 1), result.retry_after_s or 0.0)
    if time.monotonic() + wait_s >= deadline_at:
        return None
    message = result.error[1] if result.error else ""
    wait = Wait(RETRY, round(wait_s * 1000), doubles=False, is_attempt=True)
    return Released(wait, f"attempt {claimed.failures + 1} failed: {message}", failed=True)


async def _run_graph(attempt: Attempt, task: Task, loaded: LoadedGraph | GraphPerRun, deadline_at: float) -> Result:
    """Run the graph, guarded, until its end or the deadline (monotonic), whichever comes first."""
    context = attempt.context
    attempt.deadline_at = deadline_at
    install_handler(attempt)
    if context.key_file:
        context.key_file.export()
    late = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, f"the deadline of {task.deadline_s:g} s passed"))
    remaining_s = deadline_at - time.monotonic()
    if remaining_s <= 0:
        return late
    events = context.events.open(attempt.claimed, attempt.worker)
    if context.redaction:
        events = context.redaction.events(context.events, attempt.claimed, attempt.worker)
    run = asyncio.create_task(invoke(attempt, task, loaded, deadline_at, events))
    try:
        await asyncio.wait([run], timeout=remaining_s)
        result = _result_of(run, deadline_at) if run.done() else late
        if result is late and attempt.waits.is_waiting:
            where = f"while it waited for {describe(attempt.waits.things[0])}"
            late.error = (ErrorType.TIMEOUT, f"the deadline of {task.deadline_s:g} s passed {where}")
    except asyncio.CancelledError:
        if not attempt.is_cancelled:
            raise
        result = Result(State.CANCELLED)
    finally:
        attempt.stop_calls()
        await _end(run, context)
        attempt.is_over = True
        if attempt.open:
            await asyncio.shield(context.guards.close_task(attempt))
    await events.flush()
    result.metadata = {**usage_of(attempt), **result.metadata}
    return result


def _result_of(run: asyncio.Task[Result], deadline_at: float) -> Result:
    if run.cancelled():
        return read_error(asyncio.CancelledError("the graph cancelled its own run"), deadline_at)
    return run.result()


async def _end(run: asyncio.Task[Result], context: RunContext) -> None:
    """Cancel a run that has not ended, and abandon it after the grace: a node may swallow its cancellation.

    R17 in docs/architecture.md. An abandoned run keeps its memory and nothing else: its task ends without it, its calls
    and checkpoints are refused, and no further node of it starts. If the caller is cancelled, so is the run, once more;
    the caller still waits.
    """
    give_up_at = time.monotonic() + context.cancel_grace_s
    while not run.done():
        run.cancel()
        left_s = max(0.0, give_up_at - time.monotonic())
        with suppress(asyncio.CancelledError):
            # Half of it, because redis-py may swallow one that comes while it connects.
            await asyncio.wait([run], timeout=min(left_s, context.cancel_grace_s / 2))
        if not run.done() and time.monotonic() >= give_up_at:
            _log.warning("task.abandoned", grace_s=context.cancel_grace_s)
            context.abandoned.add(run)
            run.add_done_callback(context.abandoned.discard)
            return


async def _add_last_state(context: RunContext, task: Task, loaded: LoadedGraph | GraphPerRun, result: Result) -> None:
    if context.checkpointer and result.state in {State.ERROR, State.TIMEOUT}:
        config = thread_config(task)
        opening = loaded.open(run_of(task))
        result.last_state, nodes = await read_last_state(opening, config, task.key)
        if nodes and not (result.failure and result.failure.node):
            result.failure = replace(result.failure or Failure(None), node=nodes)
