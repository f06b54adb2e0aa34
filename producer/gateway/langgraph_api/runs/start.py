"""Start runs: what is asked for is checked, recorded and submitted as tasks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.ids import new_id, thread_of_its_own
from langgraph_rq.producer.gateway.langgraph_api.objects import (
    Run,
    cancel_runs,
    forget_threads,
    read_each_run,
    read_thread,
    read_threads,
)
from langgraph_rq.producer.gateway.langgraph_api.runs.bodies import RunBody
from langgraph_rq.producer.gateway.langgraph_api.runs.records import about_run
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.errors import LanggraphRqError, ThreadBusyError
from langgraph_rq.shared.queue.verbs import Multitask
from langgraph_rq.shared.tasks import Priority, State, Task


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A run that was checked, and is not submitted yet."""

    task: Task
    record: Mapping[str, Any]
    """What was asked for."""
    thread_id: str
    """The thread under which it is found."""
    is_first: bool
    """Whether its thread begins with it, under a new id."""


async def start(caller: Caller, body: RunBody, thread_id: str | None) -> Run:
    """Submit the task of a run.

    Raises:
        ProblemError: 404 no such thread or assistant; 409 the thread is busy and the run was to be rejected then.
        LanggraphRqError: as `submit` does.
    """
    (run,) = await _submit(caller, [await _prepare(caller, body, thread_id)], body.multitask_strategy)
    return run


async def start_many(caller: Caller, bodies: Sequence[RunBody]) -> list[Run]:
    """Submit the tasks of runs without threads: all of them, or none if one is refused. Raises as `start`."""
    return await _submit(caller, [await _prepare(caller, body, None) for body in bodies], Multitask.ENQUEUE)


async def answer_started(caller: Caller, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Write runs as they were accepted: by now they may have begun, or be rolled back.

    Redis knows when that was. If it is away by now, the gateway's clock has to do: after an error a client would ask
    again, and start a second run.
    """
    try:
        known = await read_each_run(caller, [(run.thread_id, run.run_id) for run in runs])
    except (RedisError, OSError):
        known = [None] * len(runs)
    return [replace(one or run, state=State.PENDING).answer() for one, run in zip(known, runs, strict=True)]


async def _prepare(caller: Caller, body: RunBody, thread_id: str | None) -> _Prepared:
    """Check a run. Where it may begin a thread, the script that submits it makes one: a refused run leaves none."""
    is_first = thread_id is None and body.on_completion == "keep"
    if is_first:
        thread_id = new_id()
    thread = None
    if thread_id is not None and not is_first:
        may_make = body.if_not_exists == "create"
        thread = (await read_threads(caller, [thread_id]))[0] if may_make else await read_thread(caller, thread_id)
    body = body.without_outer_graph(thread.status if thread else None)
    document, record = await body.task(caller, new_id(), thread_id, thread.row.metadata if thread else {})
    task = caller.client.parse(document)
    await caller.admit(task.user_id)
    if task.priority not in caller.grant.priorities:
        highest = next(priority for priority in Priority if priority in caller.grant.priorities)
        task = task.model_copy(update={"priority": highest})
    return _Prepared(task, record, thread_id or thread_of_its_own(task.task_id), is_first)


async def _submit(caller: Caller, prepared: Sequence[_Prepared], multitask: Multitask) -> list[Run]:
    tasks = [one.task for one in prepared]
    about = {one.task.task_id: about_run(one.record) for one in prepared}
    try:
        async for _receipt in caller.client.submit_each(tasks, multitask=multitask, about=about):
            pass
    except LanggraphRqError as error:
        if len(prepared) > 1:
            with suppress(LanggraphRqError, RedisError, OSError):
                await _withdraw(caller, prepared)
        if not isinstance(error, ThreadBusyError):
            raise
        raise ProblemError(409, "thread_busy", f"{error}: wait, or choose another multitask_strategy") from None
    at = datetime.now(UTC)
    return [Run(one.task.task_id, one.thread_id, State.PENDING, at, one.task.graph, one.record) for one in prepared]


async def _withdraw(caller: Caller, prepared: Sequence[_Prepared]) -> None:
    """Take back those runs of a batch that were accepted, and the threads that began with them."""
    ids = [one.task.task_id for one in prepared]
    await cancel_runs(caller, ids, rollback=True, reason="another run of its batch was refused")
    await forget_threads(caller, [one.thread_id for one in prepared if one.is_first])
