"""End a task while nobody runs it: cancelled by its user, or past its deadline. The queue decides whether it does."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import job_hash, task_hash
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import ResultMetadata, State, TaskError, TaskResult

_FIELDS = ("created", "epoch", "deadline", "input_tokens", "output_tokens", "cost_nano_usd")


def ask(pipeline: Pipeline | AsyncPipeline, task_id: str) -> None:
    """Put into `pipeline` what `early_end` has to know: the task's hash, its job's data, the server's clock."""
    pipeline.hmget(task_hash(task_id), _FIELDS)
    pipeline.hget(job_hash(task_id), "data")
    pipeline.time()


def early_end(task_id: str, state: State, replies: Sequence[Any]) -> bytes | None:
    """Write the result document of a task that ends as `state` (cancelled or timeout) without running any further.

    Args:
        task_id: As Redis knows the task; the document names it as its own tenant does.
        state: How it ends.
        replies: To what `ask` put into the pipeline. A job that a tool of RQ removed has no data.

    Returns:
        The document; None when there is no such task.
    """
    fields, data, time = replies
    if fields[0] is None:
        return None
    created_ms, epoch, deadline_ms, input_tokens, output_tokens, cost_nano_usd = (
        whole_number(value or b"") for value in fields
    )
    ended_ms = time[0] * 1000 + time[1] // 1000
    late = TaskError(
        type=ErrorType.TIMEOUT, message=f"the deadline of {(deadline_ms - created_ms) / 1000:g} s passed in the queue"
    )
    task = _read(data)
    return (
        TaskResult(
            task_id=str(task.get("task_id", task_id)),
            status=state,
            error=late if state is State.TIMEOUT else None,
            metadata=ResultMetadata(
                graph=str(task.get("graph", "")),
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_usd=cost_nano_usd / 1e9,
                attempts=epoch,
                queued_ms=ended_ms - created_ms,
                run_ms=0,
                worker="",
            ),
            submitted_at=_instant(created_ms),
            started_at=None,
            ended_at=_instant(ended_ms),
        )
        .model_dump_json(by_alias=True)
        .encode()
    )


def _read(data: bytes | None) -> dict[str, Any]:
    """Read the task's own words where they can be read; a broken job ends all the same."""
    try:
        task = read_json(data or b"")[2][0]
    except (ValueError, LookupError, TypeError):
        return {}
    return task if isinstance(task, dict) else {}


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
