"""Call LangGraph for a task: from its checkpoint or its input, to an output, a question, a breakpoint or a failure."""

import asyncio
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Command

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.run_fields import Durability
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.graphs.graphs import AnyGraph, GraphPerRun, LoadedGraph
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.events import TaskEvents
from langgraph_rq.worker.task.guard_hook import has_begun, has_stopped
from langgraph_rq.worker.task.invocation.breakpoints import find_stop, has_breakpoints
from langgraph_rq.worker.task.invocation.invalid_input import read_invalid_input
from langgraph_rq.worker.task.invocation.start import (
    InvalidFieldError,
    Start,
    choose_start,
    no_checkpoints,
    run_config,
    run_of,
    thread_config,
)
from langgraph_rq.worker.task.invocation.streaming import stream_graph
from langgraph_rq.worker.task.invocation.threads import find_dropped
from langgraph_rq.worker.task.result import (
    Result,
    read_error,
    read_failure,
    read_output,
)

_log = get_logger(__name__)


async def invoke(
    attempt: Attempt, task: Task, loaded: LoadedGraph | GraphPerRun, deadline_at: float, events: TaskEvents
) -> Result:
    """Run a task's graph, made for this run where a factory wants that, to its end.

    An error while the graph is left ends no finished task.

    Raises:
        CancelledError: the worker cancels the task.
    """
    result: Result | None = None
    try:
        async with loaded.open(run_of(task)) as opened:
            result = await _invoke(attempt, task, opened, deadline_at, events)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            raise
        if result is None:
            return read_error(error, deadline_at)
        _log.warning("graph.not_left", graph=task.graph, error=type(error).__name__)
    finally:
        if isinstance(attempt.context.checkpointer, ThreadSaver):
            attempt.context.checkpointer.lent.forget(task.thread_key)
    return result


async def _invoke(attempt: Attempt, task: Task, loaded: LoadedGraph, deadline_at: float, events: TaskEvents) -> Result:
    context = attempt.context
    config = run_config(task, context.callbacks)
    before: CheckpointTuple | None = None
    start: Start | Result | None = None
    try:
        before = await _read_before(attempt, task, config)
        attempt.dropped = await find_dropped(attempt, task, before)
        start = await choose_start(
            task,
            loaded.graph,
            config,
            context.checkpointer,
            context.redaction,
            before,
            has_begun=attempt.claimed.epoch > 1,
        )
        if isinstance(start, Result):
            return start
        if task.stream:
            output = await stream_graph(
                loaded.graph,
                start.input,
                start.config,
                start.options,
                task.stream,
                events,
                subgraphs=bool(task.stream_subgraphs),
                detail=context.error_detail,
                task=task,
            )
        else:
            output = await loaded.graph.ainvoke(start.input, start.config, **start.options)
        return await _read_end(task, loaded, context.checkpointer, output)
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        return read_failure(error, deadline_at, context.error_detail)
    except InvalidFieldError as error:
        return Result(State.ERROR, error=(ErrorType.INVALID_INPUT, str(error)))
    except BaseException as error:  # a node that calls sys.exit() fails its task, not its neighbours
        given = start.input if isinstance(start, Start) and not isinstance(start.input, Command) else None
        reason = read_invalid_input(error, given) if given is not None and not has_begun() else None
        try:
            await _save_input(context.checkpointer, task)
            if reason is not None:
                await _restore(loaded.graph, before, context.checkpointer, task)
        except Exception as outage:
            return read_error(outage, deadline_at)
        if reason is None:
            return read_failure(error, deadline_at, context.error_detail)
        return Result(State.ERROR, error=(ErrorType.INVALID_INPUT, reason))


async def _read_before(attempt: Attempt, task: Task, config: RunnableConfig) -> CheckpointTuple | None:
    """Read what earlier tasks of the thread and earlier attempts left, and bar the latter from the store."""
    context, epoch = attempt.context, attempt.claimed.epoch
    if epoch > 1 and isinstance(context.store, Store):
        await context.store.raise_epoch(attempt.claimed.id, epoch)
    if attempt.journal and epoch > 1:
        attempt.journal.open(await context.guards.loops.retry(attempt.journal.read_call()) or {})
    # With `exit` the first write, which begins it otherwise, comes when all is paid for.
    is_new = epoch == 1 and task.thread_id is None and task.origin is None and task.durability is not Durability.EXIT
    if is_new and isinstance(context.checkpointer, ThreadSaver):
        context.checkpointer.begin_new(task.thread_key)
    elif context.checkpointer and await context.checkpointer.begin(task.thread_key):
        found = await context.checkpointer.aget_tuple(config)
        if found and isinstance(context.checkpointer, ThreadSaver):
            context.checkpointer.lent.lend(task.thread_key, found)
        return found
    return None


async def _read_end(task: Task, loaded: LoadedGraph, checkpointer: Checkpointer | None, output: Any) -> Result:
    """Read how a run ended: with its output, a question, or at a breakpoint."""
    await _save_input(checkpointer, task)
    result = read_output(output)
    if checkpointer is None:
        return no_checkpoints() if result.state is State.INTERRUPTED or has_stopped() else result
    # A graph that a node makes itself is not among those whose breakpoints are known beforehand.
    if result.state is State.SUCCESS and (has_breakpoints(loaded.graph, task) or has_stopped()):
        return await find_stop(loaded.graph, result, thread_config(task))
    return result


async def _save_input(checkpointer: Checkpointer | None, task: Task) -> None:
    """Wait until the checkpoint of the input is saved, of a run that has written nothing more."""
    if isinstance(checkpointer, ThreadSaver):
        await checkpointer.input_is_saved(task.thread_key)


async def _restore(
    graph: AnyGraph, before: CheckpointTuple | None, checkpointer: Checkpointer | None, task: Task
) -> None:
    """Restore a thread to what it was before an input that LangGraph refused.

    LangGraph has saved that input already, and would refuse every later one because of it.
    """
    if checkpointer is None or task.thread_id is None:
        return
    if before is None:
        await checkpointer.expire_thread(task.thread_key, 0)
    else:
        await graph.aupdate_state(before.config, None, as_node="__copy__")


def _is_being_cancelled() -> bool:
    """Whether the worker cancels the task, as opposed to a call that a node itself cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
