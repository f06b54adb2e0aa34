"""The end of a task that no worker runs: cancelled by its user, or past its deadline."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import JOB_TASK, Place, TaskField, job_hash, task_hash
from langgraph_rq.shared.queue.waits import describe
from langgraph_rq.shared.results import ResultMetadata, TaskError, TaskResult
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State

_FIELDS = (
    TaskField.CREATED,
    TaskField.EPOCH,
    TaskField.WAITS,
    TaskField.DEADLINE,
    TaskField.INPUT_TOKENS,
    TaskField.OUTPUT_TOKENS,
    TaskField.COST_NANO_USD,
    TaskField.ESTIMATED_CALLS,
    TaskField.STOOD_STILL,
    TaskField.PLACE,
    TaskField.WAITS_FOR,
    TaskField.CANCEL_REASON,
)


READS = 3
"""Replies to what `add_reads` adds."""


def add_reads(pipeline: Pipeline | AsyncPipeline, task_id: str) -> None:
    """Add to `pipeline` what `unrun_result` reads: the task's hash, its job's task, the server's clock."""
    pipeline.hmget(task_hash(task_id), _FIELDS)
    pipeline.hmget(job_hash(task_id), JOB_TASK)
    pipeline.time()


def unrun_result(
    task_id: str, state: State, replies: Sequence[Any], served: Collection[str] | None = None, reason: str = ""
) -> bytes | None:
    """Encode the result document of a task that ends as `state` without running any further.

    Args:
        task_id: The task's id in Redis; the document has the id without its tenant.
        state: How it ends; as an error a task whose hash cannot be read.
        replies: To what `add_reads` put into the pipeline; None or the errors for keys of another type. A job that a
            tool of RQ removed has no data.
        served: The graphs of the live workers, where known: a task that waited for another one says so.
        reason: Who cancels it, if that is said and does not stand in its hash.

    Returns:
        The document; None when there is no such task.
    """
    fields, data, (seconds, microseconds) = replies
    if fields is None or isinstance(fields, Exception) or not any(fields):
        return None
    created_ms, epoch, waits, deadline_ms, input_tokens, output_tokens, cost_nano_usd, estimated_calls, stood_ms = (
        whole_number(value or b"") for value in fields[:-3]
    )
    place, thing, known_reason = ((value or b"").decode(errors="replace") for value in fields[-3:])
    why = known_reason or reason if state is State.CANCELLED else ""
    where = f"while it waited for {describe(thing)}" if place == Place.DELAYED and thing else "in the queue"
    if place == Place.PARKED and stood_ms:
        where = f"while a question of its thread had no answer, for {stood_ms / 1000:g} s of which it stood still"
    ended_ms = seconds * 1000 + microseconds // 1000
    task = {} if data is None or isinstance(data, Exception) else _read_task(data[0] or data[1])
    graph = str(task.get("graph", ""))
    deadline = f"the deadline of {(deadline_ms - stood_ms - created_ms) / 1000:g} s passed"
    late = TaskError(type=ErrorType.TIMEOUT, message=f"{deadline} {where}")
    if graph and served is not None and graph not in served:
        late = TaskError(
            type=ErrorType.UNKNOWN_GRAPH, message=f"no live worker served the graph {graph!r} when {deadline}"
        )
    errors = {
        State.TIMEOUT: late,
        State.ERROR: TaskError(type=ErrorType.REJECTED, message="the task's hash in Redis cannot be read"),
    }
    return TaskResult.encode(
        task_id=str(task.get("task_id", task_id)),
        status=state,
        error=errors.get(state),
        metadata=ResultMetadata(
            graph=graph,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_nano_usd / 1e9,
            usage_estimated=estimated_calls > 0,
            attempts=epoch - waits,
            queued_ms=ended_ms - created_ms,
            run_ms=0,
            worker="",
            **({"cancel_reason": why} if why else {}),
        ).model_dump(exclude_unset=True),
        submitted_at=_instant(created_ms),
        started_at=None,
        ended_at=_instant(ended_ms),
    )


@dataclass(frozen=True, slots=True)
class Unrun:
    """What logs, the audit log and RQ's tools say of the end of a task that no worker runs."""

    graph: str | None
    """None: its job is gone or cannot be read."""
    error_type: str
    """Empty: none."""
    failure: str
    """What RQ's tools show as the reason; empty: none."""
    total_ms: int
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    usage_estimated: bool

    @classmethod
    def of(cls, result: bytes) -> Self:
        """Read it from what `unrun_result` encoded."""
        document = read_json(result)
        metadata, error = document["metadata"], document.get("error")
        kind, failure = (error["type"], f"{error['type']}: {error['message']}") if error else ("", "")
        return cls(
            metadata["graph"] or None,
            kind,
            failure,
            metadata["queued_ms"],
            metadata["attempts"],
            metadata["input_tokens"],
            metadata["output_tokens"],
            round(metadata["cost_usd"] * 1e9),
            metadata["usage_estimated"],
        )


def _read_task(data: bytes | None) -> dict[str, Any]:
    """Read the task in a job's data; an unreadable one is empty, and ends all the same."""
    try:
        task = read_json(data or b"")[2][0]
    except (ValueError, LookupError, TypeError):
        return {}
    return task if isinstance(task, dict) else {}


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
