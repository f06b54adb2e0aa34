"""The result of a task: read from the graph's output or its error, and encoded as the result document."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from langgraph.types import default_retry_on  # type: ignore[attr-defined] # RetryPolicy's own default
from pydantic import ValidationError

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.keys import Question
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE, AT_ONCE, PROVIDER, Wait
from langgraph_rq.shared.results import ResultMetadata, TaskResult
from langgraph_rq.shared.tasks import State, Task, explain
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.calls.provider_errors import read_failure as read_provider_failure
from langgraph_rq.worker.guards.refusals import (
    BudgetBusy,
    DeadlinePassed,
    GuardUnavailable,
    ProviderRefused,
    ProviderUnavailableError,
    Refusal,
    TaskCancelled,
    TaskGone,
    ToolError,
)
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.outputs.failures import ErrorDetail, Failure, describe, lines
from langgraph_rq.worker.outputs.json_values import encode
from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.refused_state import RefusedStateError

ERROR_BYTES = 8_000
"""Longest error message of a result."""

_SHORTEST_WAIT_S = 0.5
_CLOSE_S = 0.1
"""A task so near to its deadline counts as having reached it."""

_log = get_logger(__name__)

INTERRUPT = "__interrupt__"
TASK_METADATA = "task_metadata"
"""A key of a graph's output whose dict becomes part of the result's metadata."""
_MEASURED = {"graph": "", "attempts": 1, "queued_ms": 0, "run_ms": 0, "worker": ""}
"""The metadata that every result has, and no graph gives."""
TASK_ERROR = "task_error"
"""A key of a graph's output with {type, message}: the task ends as `error`, and keeps its output."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a task, as `finish` writes it. `failure` is the text that RQ's tools show."""

    state: State
    document: bytes
    failure: str
    run_s: float
    error_type: str | None
    """Of `error`."""
    error: dict[str, Any] | None
    """The result's error."""
    question: Question
    """What the task's thread shows now."""
    spent_thread: str | None
    """The private thread of a task without `thread_id`: its checkpoints are not needed any more."""


@dataclass(slots=True)
class Result:
    """How a graph's run ended, before it is encoded.

    Two states are no end: pending, the task waits as `wait` says; running, another worker owns it.
    """

    state: State
    output: Any = None
    not_written: tuple[str, ...] = ()
    """What of the output was replaced by null when it was read as JSON."""
    error: tuple[ErrorType, str] | None = None
    failure: Failure | None = None
    """What else is known of the exception that ended the run."""
    last_state: Any = None
    """Of a run that failed: the state after its last step, as JSON."""
    metadata: dict[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None
    wait: Wait = AT_ONCE
    is_worth_retrying: bool = False
    """Whether another attempt may succeed, if the task allows one."""


def read_output(output: Any) -> Result:
    """Read a graph's output, with its two optional keys for metadata and an error."""
    if not isinstance(output, dict):
        return Result(State.SUCCESS, output)
    if INTERRUPT in output:
        return Result(State.INTERRUPTED, output)
    metadata, error = output.pop(TASK_METADATA, None) or {}, output.pop(TASK_ERROR, None)
    try:
        given = ResultMetadata.model_validate({**_MEASURED, **metadata}) if metadata else None
    except (ValidationError, TypeError) as problem:
        return Result(State.ERROR, output, error=(ErrorType.GRAPH_ERROR, _read_metadata_error(problem)))
    metadata = given.model_dump(include=set(metadata)) if given else {}
    if error:
        why = _read_task_error(error)
        is_passing = why[0] in {ErrorType.PROVIDER_UNAVAILABLE, ErrorType.TOOL_ERROR}
        return Result(State.ERROR, output, error=why, metadata=metadata, is_worth_retrying=is_passing)
    return Result(State.SUCCESS, output, metadata=metadata)


def _read_task_error(error: Any) -> tuple[ErrorType, str]:
    try:
        return ErrorType(error["type"]), str(error["message"])
    except (KeyError, TypeError, ValueError):
        types = ", ".join(ErrorType)
        return ErrorType.GRAPH_ERROR, f"{TASK_ERROR}: expected {{type, message}}, with a type of {types}"


def _read_metadata_error(error: ValidationError | TypeError) -> str:
    """Name the keys of a graph's metadata that a result cannot have."""
    if isinstance(error, TypeError):
        return f"{TASK_METADATA}: expected a dict"
    return f"{TASK_METADATA}: " + "; ".join(
        str(explain(problem, ResultMetadata)) for problem in error.errors(include_url=False)
    )


def read_error(error: BaseException, deadline_at: float) -> Result:
    """Read the end of a run from the exception that it raised; `deadline_at` is monotonic."""
    message = str(error) or type(error).__name__
    left_s = deadline_at - time.monotonic()
    if isinstance(error, TaskGone):
        return Result(State.RUNNING)
    if isinstance(error, TaskCancelled):
        return Result(State.CANCELLED)
    # A fenced run that still owns its task, after a failover, comes back with a higher token.
    if isinstance(error, CheckpointOutageError | CheckpointFencedError) or is_outage(error):
        return Result(State.PENDING, error=(ErrorType.GUARD_UNAVAILABLE, message), wait=AFTER_OUTAGE)
    wait = wait_for_provider(error, deadline_at)
    if wait:
        return Result(State.PENDING, error=(ErrorType.PROVIDER_UNAVAILABLE, message), wait=wait)
    if isinstance(error, ProviderRefused | ProviderUnavailableError):
        return Result(
            State.ERROR,
            error=(ErrorType.PROVIDER_UNAVAILABLE, message),
            retry_after_s=error.retry_after_s or None,
            is_worth_retrying=True,
        )
    if isinstance(error, Refusal):
        return _read_refusal(error, message, left_s)
    if isinstance(error, RefusedStateError):
        return Result(State.ERROR, error=(ErrorType.STATE_REFUSED, message))
    if isinstance(error, ToolError):
        return Result(
            State.ERROR,
            error=(ErrorType.TOOL_ERROR, message),
            retry_after_s=error.retry_after_s,
            is_worth_retrying=True,
        )
    is_provider = _called_breaker(error) is not None and read_provider_failure(error).is_unavailable
    kind = ErrorType.PROVIDER_UNAVAILABLE if is_provider else ErrorType.GRAPH_ERROR
    # The rule of LangGraph's RetryPolicy: a TypeError, say, would be raised again.
    is_passing = is_provider or (isinstance(error, Exception) and default_retry_on(error))
    return Result(State.ERROR, error=(kind, f"{type(error).__name__}: {error}"), is_worth_retrying=is_passing)


def read_failure(error: BaseException, deadline_at: float, detail: ErrorDetail) -> Result:
    """Read the end of a run as `read_error` does, and describe the exception in as much detail as is allowed."""
    result = read_error(error, deadline_at)
    if result.state in {State.ERROR, State.TIMEOUT}:
        result.failure = describe(error, detail)
        if result.error and detail is ErrorDetail.CLASS and not isinstance(error, Refusal):
            result.error = result.error[0], type(error).__name__  # only a refusal's message is our own
    return result


def _read_refusal(error: Refusal, message: str, left_s: float) -> Result:
    """Read the end of a run whose model call was refused, `left_s` before its deadline."""
    if isinstance(error, BudgetBusy) and error.wait and (error.retry_after_s or 0.0) < left_s:
        return Result(State.PENDING, error=(error.error_type, message), wait=error.wait)
    if isinstance(error, DeadlinePassed):
        return Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, message))
    if isinstance(error, GuardUnavailable) and left_s <= _CLOSE_S:
        return Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, f"the deadline passed while {message}"))
    return Result(State.ERROR, error=(error.error_type, message), retry_after_s=error.retry_after_s)


def _called_breaker(error: BaseException) -> str | None:
    """Return the breaker of the model call of this run that raised it; None: the graph's own code did."""
    task = current_task.get()
    return next((breaker for raised, breaker in task.call_errors if raised is error), None) if task else None


def wait_for_provider(error: BaseException, deadline_at: float) -> Wait | None:
    """Return what the task waits for that may not call a model now; None: it does not wait.

    It waits if no provider was called, so that nothing was paid for, and if its deadline (monotonic) allows. A 429 does
    not count as called, whether a guarded model or the SDK of an unchanged one raised it.
    """
    if isinstance(error, ProviderRefused | ProviderUnavailableError):
        was_called, retry_after_s = getattr(error, "was_called", False), error.retry_after_s or 0.0
        wait = error.wait
    elif (breaker := _called_breaker(error)) is not None and (failure := read_provider_failure(error)).is_unavailable:
        was_called, retry_after_s = failure.was_called, failure.retry_after_s
        wait = failure.wait_for(breaker)
    else:
        return None
    shortest_s, left_s = max(retry_after_s, _SHORTEST_WAIT_S), deadline_at - time.monotonic()
    if was_called or shortest_s >= left_s:
        return None
    return wait or Wait(PROVIDER, round(shortest_s * 1000))


def usage_of(guard: TaskGuard) -> dict[str, Any]:
    """The usage of the model calls of this run, as metadata of the result."""
    return {
        "model": guard.model,
        "input_tokens": guard.input_tokens,
        "output_tokens": guard.output_tokens,
        "cost_usd": guard.cost_nano_usd / 1e9,
        "usage_estimated": guard.estimated_calls > 0,
        "fallback_used": guard.fallback_used,
    }


def _used_before(claimed: Claimed) -> dict[str, Any]:
    """The usage of earlier attempts, as metadata of a result of which no graph ran in this one."""
    used = claimed.used
    return {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost_usd": used.cost_nano_usd / 1e9,
        "usage_estimated": used.estimated_calls > 0,
    }


def write_result(
    claimed: Claimed,
    task: Task | None,
    result: Result,
    worker: str,
    result_bytes: int,
    started: float,
    *,
    is_question_open: bool = False,
) -> Ended:
    """Write the result document. Instants are the server's clock, advanced by this worker's monotonic one.

    `is_question_open`: the thread shows a question that can be answered.
    """
    run_s = time.monotonic() - started
    ended_at_ms = claimed.claimed_at_ms + round(run_s * 1000)
    output = encode(result.output, "result")
    not_written = result.not_written or output.not_written
    if not_written:
        _log.warning("result.not_written", keys=not_written)
    document = partial(
        TaskResult.encode,
        task_id=task.task_id if task else claimed.id,
        metadata={
            **_used_before(claimed),
            **result.metadata,
            **({"not_written": not_written} if not_written else {}),
            "graph": task.graph if task else "",
            "attempts": claimed.attempts,
            "queued_ms": claimed.started_at_ms - claimed.created_at_ms,
            "run_ms": ended_at_ms - claimed.started_at_ms,
            "worker": worker,
        },
        submitted_at=_iso(claimed.created_at_ms),
        started_at=_iso(claimed.started_at_ms),
        ended_at=_iso(ended_at_ms),
    )
    state, error = result.state, _error(result)
    encoded = document(status=state, result=output.text, error=error)
    if len(encoded) > result_bytes and error and error.pop("last_state", None) is not None:
        encoded = document(status=state, result=output.text, error=error)
    if len(encoded) > result_bytes:
        limit = f"expected a result of at most {result_bytes:,} bytes, got: {len(encoded):,}"
        state, error = State.ERROR, _error(Result(State.ERROR, error=(ErrorType.RESULT_TOO_LARGE, limit)))
        encoded = document(status=state, error=error)
    failure = f"{error['type']}: {error['message']}" if error else ""
    if error and error.get("node"):
        failure += f"\nin node {error['node']}"
    failure = "\n".join([failure, *lines(error or {})])
    spent = task.thread_key if task and task.thread_id is None and not is_question_open else None
    question = Question.NONE
    if is_question_open:
        question = Question.ASKED if state is State.INTERRUPTED else Question.KEPT
    return Ended(state, encoded, failure, run_s, error["type"] if error else None, error, question, spent)


def _error(result: Result) -> dict[str, Any] | None:
    if result.error is None:
        return None
    kind, message = result.error
    known = result.failure.fields() if result.failure else {}
    if result.last_state is not None:
        known["last_state"] = result.last_state
    return {
        "type": kind,
        "message": message.encode(errors="replace")[:ERROR_BYTES].decode(errors="ignore"),
        "retry_after_s": result.retry_after_s,
        **known,
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
