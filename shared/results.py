"""The result document: what a worker writes when a task has ended, and any language can read."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State

SCHEMA = 1
"""The version of the document."""


class ErrorFrame(BaseModel):
    """A call that led to an exception."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    line: int
    function: str
    user: bool
    """Whether it is the user's own code, and not Python's, an installed package's or this one's."""


class ErrorCause(BaseModel):
    """An exception from which the failure was raised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exception: str
    message: str
    frames: tuple[ErrorFrame, ...] = ()


class TaskError(BaseModel):
    """Why a task did not succeed: `type` is one of `langgraph_rq.shared.errors.ErrorType`, `message` is for people.

    What else is known of an exception depends on `LGRQ_ERROR_DETAIL`. No frame holds source code or values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ErrorType
    message: str
    retry_after_s: float | None = None
    node: str | None = None
    """The node that failed, or that was to run when the deadline passed; outer|inner in a subgraph."""
    exception: str | None = None
    """The exception's class, with its module unless that is Python's own."""
    frames: tuple[ErrorFrame, ...] = ()
    """In the order of the calls, the last of which raised."""
    causes: tuple[ErrorCause, ...] = ()
    """What the exception was raised from, the nearest first."""
    last_state: Any = None
    """The state after the last step that ended, if the task has checkpoints."""


class ResultMetadata(BaseModel):
    """What the task cost and how it was done. Durations in milliseconds, money in US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    graph: str
    model: str | None = None
    complexity: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    usage_estimated: bool = False
    """A provider did not report what a call used (it was cancelled, timed out or broke off); it was estimated."""
    attempts: int
    fallback_used: bool = False
    downgraded: bool = False
    """A cheaper model was chosen because the budget is nearly spent."""
    dropped_question_of: str | None = None
    """The task whose question this one dropped: it was sent to the thread, and ran, instead of an answer."""
    question_dropped_by: str | None = None
    """The task that dropped this one's question."""
    not_written: list[str] | None = None
    """What of the result has no JSON form and is null there, by its key: `result.answer.connection: socket`."""
    next: list[str] | None = None
    """Of a task that stopped at a breakpoint: the nodes that run when it is resumed."""
    continues: str | None = None
    """The task that this one continued from its last checkpoint."""
    cancel_reason: str | None = None
    """Of a task that was cancelled: who wanted it, if that was said."""
    queued_ms: int
    run_ms: int
    worker: str


Instant = datetime | str
"""A time in a document; a string is in ISO 8601."""


class TaskResult(BaseModel):
    """The result document at `agent:result:<task id>`: any language can GET it.

    `result` is the graph's output. It may be set beside an error too: then it is what can be shown to the user.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    task_id: str
    status: State
    result: Any = None
    error: TaskError | None = None
    metadata: ResultMetadata
    submitted_at: datetime
    started_at: datetime | None
    """None: it ended before any worker had it."""
    ended_at: datetime

    @staticmethod
    def encode(
        *,
        task_id: str,
        status: State,
        result: bytes = b"null",
        error: TaskError | Mapping[str, Any] | None = None,
        metadata: ResultMetadata | Mapping[str, Any],
        submitted_at: Instant,
        started_at: Instant | None,
        ended_at: Instant,
    ) -> bytes:
        """Write a result document; `result` is the JSON of the graph's output.

        Nothing is validated: a mapping has the fields of the model beside it.
        """
        before = to_json({"schema": SCHEMA, "task_id": task_id, "status": status})
        after = to_json(
            {
                "error": error,
                "metadata": metadata,
                "submitted_at": submitted_at,
                "started_at": started_at,
                "ended_at": ended_at,
            }
        )
        return b'%b,"result":%b,%b' % (before[:-1], result, after[1:])
