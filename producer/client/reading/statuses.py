"""Find out where a task is, and what it waits for; list tasks."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypedDict, Unpack

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from langgraph_rq.producer.client.reading.lookup import (
    JOB_FIELDS,
    STATUS_FIELDS,
    TaskStatus,
    ask_status,
    of_record,
    read_job_status,
    read_node,
    read_status,
)
from langgraph_rq.producer.client.reading.recall import recall
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import ScriptsMissingError, UnknownTaskError, UnreadableTaskError
from langgraph_rq.shared.queue.keys import job_hash, task_hash
from langgraph_rq.shared.queue.records import RunFilter, list_runs_call
from langgraph_rq.shared.queue.verbs import missing_worker_call
from langgraph_rq.shared.tasks import State

_NO_WORKER_YET = "no worker has been there since Redis started"


class ListFields(TypedDict, total=False):
    """Which tasks are listed."""

    state: State | None
    graph: str | None
    user_id: str | None
    """An empty one: tasks without user."""
    since: datetime | None
    until: datetime | None
    """Submitted between these instants, both included."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks, the newest first."""

    tasks: tuple[TaskStatus, ...]
    following: int
    """Where the next page begins; 0: there is none. A page may be short, or empty, and not the last."""


async def find_status(connection: Connection, task_id: str, key: str) -> TaskStatus:
    """Read where a task is; `key` is its id in Redis.

    Raises:
        UnknownTaskError: there is no such task.
        RedisUnavailableError: Redis cannot be reached.
    """
    fields, events = await connection.read(lambda pipeline: ask_status(pipeline, key))
    found = read_status(task_id, fields)
    if found is None:
        (job,) = await connection.read(lambda pipeline: pipeline.hmget(job_hash(key), JOB_FIELDS))
        found = read_job_status(task_id, job)
    if found is None:
        (record,) = await recall(connection, [key])
        if record is None:
            raise UnknownTaskError(task_id)
        return of_record(task_id, record)
    if found.state is State.RUNNING:
        return replace(found, node=read_node(events or ()))
    if found.state is not State.PENDING:
        return found
    try:
        (missing,) = await connection.run([missing_worker_call(key)], awaits_scripts=False)
    except ScriptsMissingError:
        missing = _NO_WORKER_YET
    return replace(found, reason=missing or found.reason)


async def list_tasks(
    connection: Connection, tenant: str, most_records: int, before: int, limit: int, **only: Unpack[ListFields]
) -> TaskPage:
    """List a page of a tenant's tasks, without those that another program has overwritten.

    Args:
        connection: To Redis.
        tenant: The tenant.
        most_records: Its newest tasks that are listed, for a day, and those of threads as long as them: `LGRQ_RECORDS`.
        before: Where the page begins: `following` of the page before it; 0: with the newest.
        limit: The most tasks, 100 at most.
        only: Which tasks.
    """
    call = list_runs_call(tenant, RunFilter(**only), most_records=most_records, before=before, limit=limit)
    (page,) = await connection.run([call])
    if isinstance(page, Exception):
        raise page

    def ask(pipeline: Pipeline | AsyncPipeline) -> None:
        for run in page.runs:
            pipeline.hmget(task_hash(run.key), STATUS_FIELDS)

    rows = await connection.read(ask) if page.runs else []
    found = []
    for run, fields in zip(page.runs, rows, strict=True):
        task_id = run.key.removeprefix(f"{tenant}--")
        with suppress(UnreadableTaskError):
            found.append(read_status(task_id, fields) or of_record(task_id, run))
    return TaskPage(tuple(found), page.before)
