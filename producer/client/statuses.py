"""Find out where a task is, and what it waits for."""

from dataclasses import replace

from langgraph_rq.producer.client.lookup import (
    JOB_FIELDS,
    TaskStatus,
    ask_status,
    of_record,
    read_job_status,
    read_node,
    read_status,
)
from langgraph_rq.producer.client.recall import recall
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import ScriptsMissingError, UnknownTaskError
from langgraph_rq.shared.queue.keys import job_hash
from langgraph_rq.shared.queue.verbs import missing_worker_call
from langgraph_rq.shared.tasks import State

_NO_WORKER_YET = "no worker has been there since Redis started"


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
