"""What a client reads of tasks: which commands, and what their replies mean. Nothing here waits for anything."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from langgraph_rq.producer.client.client_log import ClientLog
from langgraph_rq.shared.errors import (
    QueueFullError,
    TaskConflictError,
    TenantFullError,
    ThreadBusyError,
    UnknownGraphError,
    UnreadableTaskError,
)
from langgraph_rq.shared.queue.answers import Submission, Submitted, whole_number
from langgraph_rq.shared.queue.events import EventType, read_event
from langgraph_rq.shared.queue.keys import Place, events_key, graph_name, job_hash, result_key, task_hash
from langgraph_rq.shared.queue.records import RunRecord
from langgraph_rq.shared.queue.waits import describe, explain
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import State, Task, tenant_of, thread_of_key

STATUS_FIELDS = (
    "state", "queue", "epoch", "waits", "created", "started", "deadline", "owner", "place", "waits_for", "waits_until",
    "kept_for", "graph", "user", "thread", "input_tokens", "output_tokens", "cost_nano_usd",
)  # fmt: skip
"""Of a task's hash, for `read_status`."""

JOB_FIELDS = ("origin", "created_at")
"""Of RQ's job, for `read_job_status`."""

_NODE_EVENTS = 32
"""Newest entries among which the running node is looked for; each has up to 64 kB."""

_log = ClientLog(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A task that is on the queue; `created` is False when it was known already under its id."""

    task_id: str
    state: State
    created: bool
    reason: str | None = None
    """Why no live worker can run it, so that it waits until one comes."""
    warnings: tuple[str, ...] = ()
    """Keys of the input that the graph does not take, so that LangGraph ignores them; a sentence each."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Where a task is. `attempts` counts the workers that started it."""

    task_id: str
    state: State
    queue: str
    attempts: int
    submitted_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    worker: str | None
    reason: str | None = None
    """Why no live worker can run it, so that it waits until one comes; or what it waits for."""
    graph: str | None = None
    """None: a job of stock RQ that no worker has read yet."""
    user_id: str | None = None
    thread_id: str | None = None
    """None: the task is a conversation of its own."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Of the model calls that have ended, as the tokens are."""
    node: str | None = None
    """The node that runs, if the task streams any mode; of several in parallel the one that began last."""


def ask_results(pipeline: Pipeline | AsyncPipeline, keys: Iterable[str]) -> None:
    """Ask for the state, the job and the result of each task."""
    for key in keys:
        pipeline.hget(task_hash(key), "state")
        pipeline.exists(job_hash(key))
        pipeline.get(result_key(key))


def ask_status(pipeline: Pipeline | AsyncPipeline, key: str) -> None:
    """Ask for what `read_status` and `read_node` read."""
    pipeline.hmget(task_hash(key), STATUS_FIELDS)
    pipeline.xrevrange(events_key(key), count=_NODE_EVENTS)


def ask_place(pipeline: Pipeline | AsyncPipeline, key: str) -> None:
    """Ask for the state, the job and the last event of a task."""
    # The state first: when it is the last one, the last event is there too.
    pipeline.hget(task_hash(key), "state")
    pipeline.exists(job_hash(key))
    pipeline.xrevrange(events_key(key), count=1)


def read_receipt(task: Task, queue: str, submission: Submission | Exception) -> Receipt:
    """Read the answer of `submit`, or raise what it means."""
    if isinstance(submission, Exception):
        raise submission
    match submission.outcome:
        case Submitted.CREATED | Submitted.EXISTS:
            created = submission.outcome is Submitted.CREATED
            state = read_state(task.task_id, submission.detail.encode())
            _log.info("task.submitted", task_id=task.key, graph=task.graph, state=submission.detail, created=created)
            reason = submission.missing and submission.missing.explain(queue, task.graph)
            return Receipt(task.task_id, state, created, reason)
        case Submitted.CONFLICT:
            raise TaskConflictError(task.task_id, submission.detail)
        case Submitted.BUSY:
            raise ThreadBusyError(task.thread_id)
        case Submitted.UNKNOWN_GRAPH:
            raise UnknownGraphError(task.graph, submission.detail)
        case Submitted.FULL:
            raise QueueFullError(int(submission.detail))
        case Submitted.TENANT_TASKS:
            raise TenantFullError(task.tenant, f"{int(submission.detail):,} open tasks, as many as it may")
        case Submitted.TENANT_BYTES:
            held = f"{int(submission.detail):,} bytes in tasks and results, so that this one is too much"
            raise TenantFullError(task.tenant, held)
        case Submitted.TENANT_SHARE:
            held = f"more than its share of a Redis that is {submission.detail} % full"
            raise TenantFullError(task.tenant, held)


def read_state(task_id: str, value: bytes) -> State:
    """Read the state in a task's hash. Raises UnreadableTaskError."""
    try:
        return State(value.decode(errors="replace"))
    except ValueError as error:
        raise UnreadableTaskError(task_id, "state", value.decode(errors="replace")) from error


def read_result(task_id: str, document: bytes) -> TaskResult:
    """Read a result document. Raises UnreadableTaskError."""
    try:
        return TaskResult.model_validate_json(document)
    except ValidationError as error:
        raise UnreadableTaskError(task_id, "result", document[:60].decode(errors="replace")) from error


def read_status(task_id: str, fields: Sequence[bytes | None] | None) -> TaskStatus | None:
    """Read STATUS_FIELDS, of which numbers of other programs count as zero; None: no task of ours.

    Raises:
        UnreadableTaskError: the state is none.
    """
    if fields is None or fields[0] is None:
        return None
    found = read_state(task_id, fields[0])
    (
        queue,
        epoch,
        waits,
        created,
        started,
        deadline,
        owner,
        place,
        thing,
        until,
        kept_for,
        graph,
        payer,
        thread,
        *used,
    ) = (value.decode(errors="replace") if value else "" for value in fields[1:])
    tenant, _, user_id = payer.partition("--")
    input_tokens, output_tokens, cost_nano_usd = map(_number, used)
    kept_epoch, _, kept_thing = kept_for.partition(":")
    is_kept = found is State.RUNNING and kept_thing and kept_epoch == epoch
    kept_reason = f"waits for {describe(kept_thing)} in its worker's memory" if is_kept else None
    return TaskStatus(
        task_id,
        found,
        queue,
        max(0, _number(epoch) - _number(waits)),
        _instant(created),
        _instant(started) if started else None,
        _instant(deadline) if deadline else None,
        owner or None,
        _reason(place, thing, until) if found is State.PENDING else kept_reason,
        graph_name(graph) or None,
        user_id or None,
        thread_of_key(thread, tenant) or None,
        input_tokens,
        output_tokens,
        cost_nano_usd / 1e9,
    )


def of_record(task_id: str, record: RunRecord) -> TaskStatus:
    """Read where a task is from its record; of one of which only the id is left, that it has ended."""
    tenant = tenant_of(record.key)
    return TaskStatus(
        task_id,
        record.state,
        "",
        record.attempts,
        record.created or _instant(""),
        record.started,
        None,
        None,
        graph=record.graph or None,
        user_id=record.user_id,
        thread_id=record.thread.removeprefix(f"{tenant}--") if record.thread else None,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cost_usd=record.cost_nano_usd / 1e9,
    )


def _reason(place: str, thing: str, until: str) -> str | None:
    match place:
        case Place.PARKED:
            return "waits for an earlier task of its thread"
        case Place.WAITING:
            return "waits for its turn behind other tasks of its user or tenant"
        case Place.DELAYED if thing:
            return explain(thing, _number(until))
    return None


def read_node(entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> str | None:
    """Find the node that runs in the newest events of a task, the newest first."""
    ended: set[Any] = set()
    for event in map(read_event, entries):
        if event.type != EventType.NODE:
            continue
        with suppress(ValueError, TypeError, KeyError):  # of another program
            node, phase = event.data["node"], event.data["phase"]
            if phase == "start" and node not in ended:
                return str(node)
            ended.add(node)
    return None


def read_job_status(task_id: str, fields: Sequence[bytes | None] | None) -> TaskStatus | None:
    """Read JOB_FIELDS of a job that stock RQ enqueued and no worker has seen yet; None: there is none."""
    queue, created = fields or (None, None)
    if queue is None or created is None:
        return None
    try:
        created_at = datetime.fromisoformat(created.decode())
    except ValueError:
        created_at = _instant("")
    return TaskStatus(task_id, State.PENDING, queue.decode(errors="replace"), 0, created_at, None, None, None)


def _number(text: str) -> int:
    return whole_number(text.encode())


def read_instant(ms: bytes) -> datetime:
    """Read an instant of a task's hash (ms); what is no number counts as zero."""
    return _instant(ms.decode(errors="replace"))


def _instant(ms: str) -> datetime:
    return datetime.fromtimestamp(_number(ms) / 1000, UTC)
