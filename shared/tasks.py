"""The wire contract: what a producer writes, what a worker reads, what a result says.

Both documents are JSON with a schema version. Unknown fields are refused, never ignored, and every violation is named
with the field, what was expected and what came.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails, to_jsonable_python

from langgraph_rq.shared.errors import InvalidTaskError, UnknownField, Violation
from langgraph_rq.shared.strict_json import kind, read_json, unsafe_parts

SCHEMA = 1
"""The version of both documents. A worker that meets a newer one gives the task back."""

FUNCTION = "langgraph_rq.run_task"
"""The function name of a task on the queue; task data never name code."""

FUNCTIONS = (FUNCTION, "worker.run_task")
"""The names that are accepted from other producers."""

EMPTIED_JOB = f'["{FUNCTION}",null,[],{{}}]'.encode()
"""The job data that RQ's tools see of a task, without its input; all that is kept of one that succeeded."""

_ENVELOPE_BYTES = 64_000
"""What a task's document may hold besides its input, metadata included."""

DEFAULT_GRAPH = "assistant"
DEFAULT_TENANT = "default"


class State(StrEnum):
    """The states of a task, in LangGraph's words."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_terminal(self) -> bool:
        """Whether a result has been written, which then never changes."""
        return self not in {State.PENDING, State.RUNNING}


class Priority(StrEnum):
    """Which of the three queues a task waits in; a worker empties the more urgent first."""

    HIGH = "high"
    DEFAULT = "default"
    LOW = "low"

    def queue(self, base: str) -> str:
        """Name the RQ queue: `base` itself for the default priority."""
        return base if self is Priority.DEFAULT else f"{base}_{self}"


class StreamMode(StrEnum):
    """What a task's events tell besides its states, in LangGraph's words; any of them adds where each node starts."""

    CUSTOM = "custom"
    MESSAGES = "messages"
    UPDATES = "updates"
    VALUES = "values"


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """How large a task and its result may be. Every door derives its own limit from these."""

    input_bytes: int = 4_000_000
    """Of the input, or of the answers of `resume`, as compact JSON in UTF-8."""
    result_bytes: int = 6_000_000
    """Of the result document: 4 MB of bytes are 5.4 MB in base64."""
    metadata_bytes: int = 16_000
    depth: int = 32
    deadline_s: float = 86_400.0
    attempts: int = 10

    @property
    def job_bytes(self) -> int:
        """The longest job data that a worker fetches."""
        return self.input_bytes + _ENVELOPE_BYTES

    @property
    def text_bytes(self) -> int:
        """The longest JSON text that is parsed: a job's data once inflated, the body of a request.

        Other producers escape characters, which makes a text about twice as long as the input that is read from it.
        """
        return 2 * self.input_bytes + _ENVELOPE_BYTES


DEFAULT_LIMITS = TaskLimits()


# A double dash separates the tenant from the id in Redis, so an id cannot hold one.
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*-?$", max_length=128)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
GraphName = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+$"
    ),
]
"""Without the characters of shared/control_characters.py: tools of others show it."""
ThreadId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@+]+(-[A-Za-z0-9_.@+]+)*-?$", max_length=128)]
QuestionId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""LangGraph's id of an interrupt."""
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+$", max_length=32)]


class Resume(BaseModel):
    """Answers to the questions at which an earlier task of the thread was interrupted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    answers: dict[QuestionId, Any] = Field(min_length=1)
    """Interrupt id -> the value that `interrupt()` returns in the node."""
    seen: dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]] | None = None
    """Interrupt id -> `question_digest` of the question that was seen. If another one is pending under the id by now,
    the answer is not delivered."""
    origin: TaskId | None = None
    """The first task of a conversation without `thread_id`: the thread is that task's own."""


class Task(BaseModel):
    """A task as it stands in Redis.

    `deadline_s` counts from submission: what has not ended by then ends as `timeout`. `max_attempts` is about a
    failing graph only; crashes and outages never count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema", ge=1, le=SCHEMA)
    task_id: TaskId = Field(default_factory=lambda: str(uuid4()))
    graph: GraphName = DEFAULT_GRAPH
    input: Any
    """Any JSON value but null. Most graphs take an object."""
    tenant: Tenant = DEFAULT_TENANT
    user_id: Name | None = None
    thread_id: ThreadId | None = None
    priority: Priority = Priority.DEFAULT
    deadline_s: float = Field(default=300.0, gt=0)
    max_attempts: int = Field(default=1, ge=1)
    metadata: dict[str, Any] = Field(default_factory=dict)
    stream: tuple[StreamMode, ...] = ()
    resume: Resume | None = None
    traceparent: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | (
        None
    ) = None
    submitted_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def parse(cls, document: Any, limits: TaskLimits) -> Self:
        """Read a task from a JSON text or an object.

        Raises:
            InvalidTaskError: with every violation, each naming its field.
        """
        if isinstance(document, str | bytes):
            document = _read(document)
        if not isinstance(document, Mapping):
            raise InvalidTaskError(Violation("task", "a JSON object", kind(document)))
        violations = [*unsafe_parts(document.get("input"), "input", limits.depth, limits.input_bytes)]
        violations += unsafe_parts(document.get("metadata"), "metadata", limits.depth, limits.metadata_bytes)
        violations += unsafe_parts(document.get("resume"), "resume", limits.depth, limits.input_bytes)
        task: Self | None = None
        if not violations:
            try:
                task = cls.model_validate(dict(document))
            except ValidationError as error:
                violations += [explain(problem, cls) for problem in error.errors()]
        if task and task.deadline_s > limits.deadline_s:
            violations.append(Violation("deadline_s", f"at most {limits.deadline_s:g}", f"{task.deadline_s:g}"))
        if task and task.max_attempts > limits.attempts:
            violations.append(Violation("max_attempts", f"at most {limits.attempts}", str(task.max_attempts)))
        if task and task.resume and (length := len(task.job_data())) > limits.job_bytes:
            violations.append(Violation("resume", f"a task of at most {limits.job_bytes:,} bytes", f"{length:,}"))
        if violations or task is None:
            raise InvalidTaskError(*violations)
        return task

    @field_validator("input")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null")
        return value if isinstance(value, dict | list | str | int | float) else to_jsonable_python(value)

    @field_validator("stream")
    @classmethod
    def _sort_stream(cls, modes: tuple[StreamMode, ...]) -> tuple[StreamMode, ...]:
        """The same modes in another order are the same task."""
        return tuple(sorted(set(modes)))

    @property
    def key(self) -> str:
        """The id under which Redis knows the task, which is also RQ's job id."""
        return task_key(self.task_id, self.tenant)

    @property
    def thread_key(self) -> str:
        """The thread under which LangGraph keeps checkpoints; a task without `thread_id` has one of its own."""
        if self.thread_id is not None:
            return task_key(self.thread_id, self.tenant)
        origin = self.resume and self.resume.origin
        return f"TASK--{task_key(origin, self.tenant) if origin else self.key}"

    @property
    def user_key(self) -> str:
        """By whom tasks take turns; all anonymous users of a tenant are one."""
        return f"{self.tenant}--{self.user_id or ''}"

    @property
    def digest(self) -> str:
        """Tell this task from another one under the same id: what was asked for, not when or by which trace."""
        left_out: Any = {"schema_version": True, "submitted_at": True, "traceparent": True, "resume": {"seen"}}
        body = self.model_dump(mode="json", exclude=left_out)
        return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]

    def job_data(self) -> bytes:
        """Encode the task as RQ's JSON serializer encodes a job: function, instance, args, kwargs."""
        return f'["{FUNCTION}",null,[{self.model_dump_json(by_alias=True, exclude_none=True)}],{{}}]'.encode()


def question_digest(question: Any) -> str:
    """Tell questions of one interrupt id apart: LangGraph derives the id from the node alone, which may ask anew."""
    return sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def task_key(task_id: str, tenant: str = DEFAULT_TENANT) -> str:
    """Namespace a task or thread id by its tenant; the default tenant's ids stand as they are."""
    return task_id if tenant == DEFAULT_TENANT else f"{tenant}--{task_id}"


def tenant_of(key: str) -> str:
    """Return the tenant of a task by the id under which Redis knows it."""
    tenant, dashes, _ = key.partition("--")
    return tenant if dashes else DEFAULT_TENANT


def _read(text: str | bytes) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise InvalidTaskError(Violation("task", "JSON", str(error))) from None


def explain(problem: ErrorDetails, model: type[BaseModel]) -> Violation:
    """Translate an error of pydantic."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        names = [info.alias or name for name, info in model.model_fields.items()]
        close = get_close_matches(field, names, n=1)
        return UnknownField(field, ", ".join(names), kind(problem["input"]), close[0] if close else None)
    if problem["type"] == "missing":
        return Violation(field, _EXPECTED.get(field, "a value"), "nothing")
    expected = _EXPECTED.get(field) or problem["msg"].removeprefix("Input should be ").replace("Input should ", "")
    return Violation(field, expected, kind(problem["input"]))


_EXPECTED = {
    "task_id": "letters, digits, _ and single dashes, at most 128",
    "tenant": "lower-case letters and digits, at most 32",
    "thread_id": "letters, digits, any of _ . @ + and single dashes, at most 128",
    "user_id": "1 to 256 characters",
    "graph": "a name of 1 to 256 characters, none of them a control character",
    "input": "a JSON value other than null",
    "metadata": "a JSON object",
    "schema": f"a version up to {SCHEMA}",
    "traceparent": "a W3C traceparent",
    "stream": f"a list of {', '.join(StreamMode)}",
}
