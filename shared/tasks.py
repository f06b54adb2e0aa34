"""The wire contract: what a producer writes, what a worker reads, what a result says.

Both documents are JSON with a schema version. Unknown fields are refused, never ignored, and every violation is named
with the field, what was expected and what came.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Self
from urllib.parse import unquote
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails, to_jsonable_python

from langgraph_rq.shared.control_characters import PRINTABLE
from langgraph_rq.shared.errors import InvalidTaskError, Violation
from langgraph_rq.shared.explaining import EXPECTED, explain_with
from langgraph_rq.shared.run_fields import (
    CheckpointId,
    Continued,
    Durability,
    GraphCommand,
    Nodes,
    RunConfig,
    StreamMode,
    TaskId,
)
from langgraph_rq.shared.schema import ADDED, FIRST_SCHEMA, SCHEMA, with_schema
from langgraph_rq.shared.strict_json import kind, read_json, unsafe_parts

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
    delay_s: float = 30 * 86_400.0
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


Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
GraphName = Annotated[str, StringConstraints(pattern=PRINTABLE, max_length=256)]
ThreadId = Annotated[str, StringConstraints(pattern=PRINTABLE, max_length=256)]
"""Both without control characters: tools of others show them."""
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


def own_thread(key: str) -> str:
    """Name the thread of a task without `thread_id`, by its id in Redis."""
    return f"TASK--{key}"


class Task(BaseModel):
    """A task as it stands in Redis.

    `deadline_s` counts from submission, or from its start: what has not ended by then ends as `timeout`. `max_attempts`
    is about a failing graph only; crashes and outages never count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_version: int = Field(default=FIRST_SCHEMA, alias="schema", ge=1, le=SCHEMA)
    task_id: TaskId = Field(default_factory=lambda: str(uuid4()))
    graph: GraphName = DEFAULT_GRAPH
    input: Any = None
    """Any JSON value. Most graphs take an object; null continues the thread from its last checkpoint."""
    command: GraphCommand | None = None
    context: dict[str, Any] | None = None
    """LangGraph's context of the run. None: `config.configurable`, as in LangGraph Server."""
    config: RunConfig | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    """Nodes before or after which the run stops. None: those that are compiled in."""
    checkpoint_id: CheckpointId | None = None
    """The checkpoint of the thread from which it goes on. None: the newest."""
    durability: Durability | None = None
    """None: sync."""
    tenant: Tenant = DEFAULT_TENANT
    user_id: Name | None = None
    thread_id: ThreadId | None = None
    priority: Priority = Priority.DEFAULT
    deadline_s: float = Field(default=300.0, gt=0)
    max_attempts: int = Field(default=1, ge=1)
    metadata: dict[str, Any] = Field(default_factory=dict)
    stream: tuple[StreamMode, ...] = ()
    stream_subgraphs: bool | None = None
    """Whether the events of `stream` tell of subgraphs too."""
    resume: Resume | None = None
    continues: Continued | None = None
    run_at: datetime | None = None
    delay_s: float | None = Field(default=None, ge=0)
    """It starts then, or so long after it was submitted. Its deadline counts from there. None: at once."""
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
        long = [name for name in ("resume", *ADDED) if document.get(name) is not None]
        violations = [*unsafe_parts(document.get("metadata"), "metadata", limits.depth, limits.metadata_bytes)]
        for name in ("input", *long):
            violations += unsafe_parts(document.get(name), name, limits.depth, limits.input_bytes)
        task: Self | None = None
        if not violations:
            try:
                task = cls.model_validate(with_schema(document))
            except ValidationError as error:
                violations += dict.fromkeys(explain(problem, cls) for problem in error.errors())
        if "input" not in document and not {"resume", "command"} & document.keys():
            violations.append(Violation("input", _EXPECTED["input"], "nothing"))
        elif task:
            violations += _contradictions(task)
        if task:
            violations += _above(task, limits, long)
        if violations or task is None:
            raise InvalidTaskError(*violations)
        return task

    @field_validator("input")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        return value if isinstance(value, dict | list | str | int | float) else to_jsonable_python(value)

    @field_validator("run_at")
    @classmethod
    def _in_utc(cls, run_at: datetime | None) -> datetime | None:
        if run_at and run_at.tzinfo is None:
            raise ValueError("an instant with its offset")
        return run_at and run_at.astimezone(UTC)

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
            return thread_key(self.thread_id, self.tenant)
        return own_thread(task_key(self.origin, self.tenant) if self.origin else self.key)

    @property
    def origin(self) -> str | None:
        """The task that began the conversation without `thread_id` with which this one goes on."""
        return (self.resume and self.resume.origin) or (self.continues and self.continues.origin) or None

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with what its thread did last, instead of giving the thread new input."""
        return self.input is None or any((self.resume, self.command, self.continues))

    @property
    def starts_at(self) -> datetime:
        """When it is to start, by the producer's clock."""
        return self.run_at or self.submitted_at + timedelta(seconds=self.delay_s or 0)

    @property
    def user_key(self) -> str:
        """By whom tasks take turns; all anonymous users of a tenant are one."""
        return f"{self.tenant}--{self.user_id or ''}"

    @property
    def digest(self) -> str:
        """Tell this task from another one under the same id: what was asked for, not when or by which trace."""
        left_out: Any = {"schema_version": True, "submitted_at": True, "traceparent": True, "resume": {"seen"}}
        left_out |= {name: True for name in ADDED if getattr(self, name) is None}
        body = self.model_dump(mode="json", exclude=left_out)
        return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]

    def job_data(self) -> bytes:
        """Encode the task as RQ's JSON serializer encodes a job: function, instance, args, kwargs."""
        return f'["{FUNCTION}",null,[{self.text()}],{{}}]'.encode()

    def text(self) -> str:
        """Encode the task as JSON, without fields that have no value; null is an input."""
        task = self.model_dump_json(by_alias=True, exclude_none=True)
        return '{"input":null,' + task[1:] if self.input is None else task


def task_key(task_id: str, tenant: str = DEFAULT_TENANT) -> str:
    """Namespace a task or thread id by its tenant; the default tenant's ids stand as they are."""
    return task_id if tenant == DEFAULT_TENANT else f"{tenant}--{task_id}"


def thread_key(thread_id: str, tenant: str = DEFAULT_TENANT) -> str:
    """Namespace a thread id by its tenant, which two dashes separate: those of the id are `-%2D`, its `%` are `%25`."""
    return task_key(thread_id.replace("%", "%25").replace("--", "-%2D"), tenant)


def thread_of_key(key: str, tenant: str = DEFAULT_TENANT) -> str | None:
    """Undo `thread_key`; None: the thread of a task without `thread_id`."""
    return None if key.startswith(own_thread("")) else unquote(key.removeprefix(f"{tenant}--"))


def tenant_of(key: str) -> str:
    """Return the tenant of a task by the id under which Redis knows it."""
    tenant, dashes, _ = key.partition("--")
    return tenant if dashes else DEFAULT_TENANT


def _read(text: str | bytes) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise InvalidTaskError(Violation("task", "JSON", str(error))) from None


def _above(task: Task, limits: TaskLimits, long: Sequence[str]) -> Iterator[Violation]:
    """Name what is above the limits; `long` are the fields, besides the input, that make a task long."""
    if task.deadline_s > limits.deadline_s:
        yield Violation("deadline_s", f"at most {limits.deadline_s:,.12g}", f"{task.deadline_s:,.12g}")
    delay_s = max(task.delay_s or 0.0, (task.run_at - task.submitted_at).total_seconds() if task.run_at else 0.0)
    if delay_s > limits.delay_s:
        yield Violation(
            "run_at" if task.run_at else "delay_s", f"at most {limits.delay_s:,.12g} s from now", f"{delay_s:,.12g}"
        )
    if task.max_attempts > limits.attempts:
        yield Violation("max_attempts", f"at most {limits.attempts}", str(task.max_attempts))
    if long and (length := len(task.job_data())) > limits.job_bytes:
        yield Violation(long[0], f"a task of at most {limits.job_bytes:,} bytes", f"{length:,}")


def explain(problem: ErrorDetails, model: type[BaseModel]) -> Violation:
    """Translate an error of pydantic about a task, or about a `model` with fields of a task."""
    return explain_with(problem, model, _EXPECTED)


def _contradictions(task: Task) -> Iterator[Violation]:
    """Name fields that do not go together."""
    if task.run_at and task.delay_s is not None:
        yield Violation("delay_s", "either run_at or delay_s", "both")
    if task.command and task.resume:
        yield Violation("command", "either command or resume", "both")
    elif (task.command or task.resume) and task.input not in (None, {}):
        yield Violation("input", f"null beside {'command' if task.command else 'resume'}", kind(task.input))
    if task.thread_id is None and not (task.resume or task.continues):
        if task.checkpoint_id is not None:
            yield Violation("thread_id", "the thread of the checkpoint", "nothing")
        if task.command and task.command.resume is not None:
            yield Violation("thread_id", "the thread whose question is answered", "nothing")
        if task.input is None and task.command is None:
            yield Violation("input", "a value, or beside null a thread_id to continue", "null")


_EXPECTED = {**EXPECTED, "schema": f"a version up to {SCHEMA}"}
