"""End a task while nobody runs it: cancelled by its user, or past its deadline. The queue decides whether it does."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shared.errors import ErrorType
from shared.safe_json import read_json
from shared.task_queue import whole_number
from shared.tasks import ResultMetadata, State, TaskError, TaskResult

FIELDS = ("created", "epoch", "deadline", "input_tokens", "output_tokens", "cost_nano_usd")
"""Of the task's hash: what `early_end` reads, with the job's data and the server's TIME."""


def early_end(
    task_id: str, state: State, fields: Sequence[bytes | None], data: bytes | None, time: tuple[int, int]
) -> bytes:
    """Write the result document of a task that ends as `state` (cancelled or timeout) without running any further.

    Args:
        task_id: As Redis knows the task; the document names it as its own tenant does.
        state: How it ends.
        fields: The values of `FIELDS`.
        data: Of RQ's job; None when a tool of RQ removed it.
        time: The server's clock, seconds and microseconds.
    """
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
