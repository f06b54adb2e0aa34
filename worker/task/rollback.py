"""Take back what a task has written to its thread: the last step of the worker that owns it, before the task ends.

The task still holds its thread, so that the next one begins on what was there before. A worker that dies half-way has
lost the task as any other, and the next owner begins anew: what is removed already is not there.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from redis.exceptions import RedisError

from langgraph_rq.shared.queue.answers import Ownership
from langgraph_rq.shared.queue.attempts import owns_call
from langgraph_rq.shared.queue.keys import Question
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.threads.rows import hold_call
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph
from langgraph_rq.worker.guards.event_loops import OUTAGE
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.checkpointer import Checkpointer, RollsBack
from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.upkeep import ThreadChangedError
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.invocation.start import run_of
from langgraph_rq.worker.task.result import INTERRUPT, Ended, Result, usage_of, write_result

_PASSING = (RedisError, OSError, CheckpointOutageError, CheckpointFencedError, ThreadChangedError)
"""The next owner begins anew. A worker that has lost its lease is refused like this, too, and must not end the task."""

_CLEAR_S = 900.0
"""Longer than our own checkpointers wait for an outage; one of the project's may know no timeout."""

_TRIES = 5

_log = get_logger(__name__)


async def roll_back(attempt: Attempt, ended: Ended) -> Ended | None:
    """Remove what the task of an attempt has written to its thread; returns its end, None: Redis is away for long.

    Args:
        attempt: It has ended, and still owns the task.
        ended: How it would have ended.
    """
    task = attempt.task
    has_question = False
    why: dict[str, str] = {}
    if task and task.thread_id is not None and attempt.context.checkpointer:
        token = await attempt.guards.loops.retry(hold_call(task.thread_key, by_force=True))
        # A worker that takes the task over from here on has a higher token than `token`: ours is refused then.
        owns = owns_call(attempt.claimed.id, attempt.claimed.epoch, attempt.worker)
        if token is None or await attempt.guards.loops.retry(owns) in {None, Ownership.GONE}:
            return None
        # Above the token of the attempt: what a node still writes that does not let itself be cancelled is refused.
        before = current_task.set(TaskGuard(attempt.guards, thread=task.thread_key, token=token))
        try:
            async with asyncio.timeout(_CLEAR_S):
                has_question = await _try_to_clear(attempt, task, attempt.context.checkpointer)
            _, why = await attempt.read_stop()
        except _PASSING as error:
            _log.warning("rollback.delayed", error=f"{type(error).__name__}: {error}")
            return None
        finally:
            current_task.reset(before)
    result = Result(State.CANCELLED, metadata={**usage_of(attempt), **why})
    started = time.monotonic() - ended.run_s
    written = write_result(attempt.claimed, task, result, attempt.worker, attempt.context.result_bytes, started)
    return replace(written, question=Question.KEPT if has_question else Question.NONE)


async def _try_to_clear(attempt: Attempt, task: Task, checkpointer: Checkpointer) -> bool:
    """Clear the thread as `_clear` does, a few times: what a project's database raises when it is busy is not known."""
    for failures in range(1, _TRIES + 1):
        try:
            return await _clear(attempt, task, checkpointer)
        except _PASSING:
            raise
        except Exception as error:
            if failures == _TRIES:  # it would fail again and again, such as a checkpointer that cannot list
                _log.warning("rollback.failed", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(OUTAGE.pause_s(failures))
    return True  # whatever the thread shows stays


async def _clear(attempt: Attempt, task: Task, checkpointer: Checkpointer) -> bool:
    """Clear the thread of the task; returns whether it shows a question again."""
    await checkpointer.begin(task.thread_key)
    await take_back(task, attempt.context.graphs.get(task.graph), checkpointer)
    try:
        last = await checkpointer.aget_tuple(_root(task))
    except RefusedStateError:  # it cannot be answered
        return False
    return any(channel == INTERRUPT for _, channel, _ in (last and last.pending_writes) or ())


async def take_back(task: Task, loaded: LoadedGraph | GraphPerRun | None, checkpointer: Checkpointer) -> None:
    """Remove what the task wrote; where the checkpointer cannot, put a copy of the state before it on its thread."""
    if isinstance(checkpointer, RollsBack):
        await checkpointer.roll_back(task.thread_key, task.key)
    elif loaded:
        await go_back(task, loaded, checkpointer)


async def go_back(task: Task, loaded: LoadedGraph | GraphPerRun, checkpointer: Checkpointer) -> None:
    """Put a copy of the last state before the task on its thread."""
    before, oldest = await _last_before(task, checkpointer)
    if before:
        if oldest or task.goes_on:  # else it wrote nothing, and a copy would lose the thread's question
            async with loaded.open(run_of(task)) as opened:
                await opened.graph.aupdate_state(before.config, None, as_node="__copy__")
    elif oldest and oldest.parent_config:
        raise LookupError("the checkpoint on which the task began is not listed: the thread is left as it is")
    elif oldest:
        await checkpointer.adelete_thread(task.thread_key)


async def _last_before(task: Task, checkpointer: Checkpointer) -> tuple[CheckpointTuple | None, CheckpointTuple | None]:
    """Return the last checkpoint before those of the task, and the oldest one of the task."""
    oldest: CheckpointTuple | None = None
    listed = checkpointer.alist(_root(task))
    async with aclosing(cast("AsyncGenerator[CheckpointTuple, None]", listed)):  # LangGraph's own hold a lock till then
        async for found in listed:
            if found.config["configurable"].get("checkpoint_ns"):  # langgraph-checkpoint-redis lists all namespaces
                continue
            if found.metadata.get("task_id") != task.key:
                return found, oldest
            oldest = found
    return None, oldest


def _root(task: Task) -> RunnableConfig:
    return {"configurable": {"thread_id": task.thread_key, "checkpoint_ns": ""}}
