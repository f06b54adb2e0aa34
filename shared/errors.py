"""The values of `error.type` in a result, and the exceptions that a caller of this library can act on.

Each exception carries its facts as attributes and builds its message from them, in one grammar:
`NAME: expected WHAT, got: VALUE`, or what happened and what to do.
"""

import copyreg
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class ErrorType(StrEnum):
    """Why a task did not succeed; the finer reason behind its state."""

    BUDGET_EXCEEDED = "budget_exceeded"
    """A token or money limit was reached."""
    GRAPH_ERROR = "graph_error"
    """A node raised; the message is its own."""
    GUARD_UNAVAILABLE = "guard_unavailable"
    """Redis could not be asked whether a model call may start."""
    INVALID_INPUT = "invalid_input"
    """The graph refused its input, before any node ran."""
    POISONED = "poisoned"
    """The task ended its process again and again."""
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    """No model could answer."""
    REJECTED = "rejected"
    """What was found on the queue is not a task of ours."""
    RESULT_NOT_JSON = "result_not_json"
    """Of older workers: the graph's output holds something that JSON cannot. Now it is null there, and named."""
    RESULT_REFUSED = "result_refused"
    """The graph's output holds what looks like personal data or secrets, and such results are not delivered."""
    RESULT_TOO_LARGE = "result_too_large"
    """The graph's output is longer than the limit."""
    STATE_REFUSED = "state_refused"
    """The state holds a type that is not allowed, or what is stored of it cannot be read."""
    TIMEOUT = "timeout"
    """The deadline passed."""
    TOOL_ERROR = "tool_error"
    """A tool or another service that the graph calls failed."""
    UNKNOWN_GRAPH = "unknown_graph"
    """No worker has the graph."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks a contract."""

    field: str
    """Its path, such as `input.ticket.id`."""
    expected: str
    got: str
    """The value as an error message shows it; long ones by type and size."""
    suggestion: str | None = None
    """The name that was probably meant."""

    def __str__(self) -> str:
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return f"{self.field}: expected {self.expected}, got: {self.got}{hint}"


@dataclass(frozen=True, slots=True)
class UnknownField(Violation):
    """A field that the contract does not have; `expected` lists those that it has."""

    def __str__(self) -> str:
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else f", known: {self.expected}"
        return f"{self.field}: unknown field{hint}"


class LanggraphRqError(Exception):
    """The root of the errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and the attributes; `__init__`, which takes other arguments, is not run again."""
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined]


class InvalidInputError(LanggraphRqError, ValueError):
    """A value that was given cannot be used.

    Attributes:
        violations: Every field that is wrong.
        line: The line of a file that holds it, from 1.
        position: Which of several tasks holds it, from 0.
    """

    def __init__(self, *violations: Violation, line: int | None = None, position: int | None = None) -> None:
        place = f"line {line}: " if line is not None else ""
        super().__init__(place + "; ".join(map(str, violations)))
        self.violations = violations
        self.line = line
        self.position = position


class InvalidTaskError(InvalidInputError):
    """A task breaks the contract, or its graph would refuse its input. `violations` names each field."""


class TaskConflictError(LanggraphRqError):
    """Another task, with another body, is known under this id.

    Attributes:
        task_id: The id.
        state: The other task's state.
    """

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(
            f"task_id {task_id}: another task with this id is {state}; choose another id, "
            "or send the same task to get its answer"
        )
        self.task_id = task_id
        self.state = state


class AlreadyAnsweredError(TaskConflictError):
    """Another answer to the same question was given before; this one is not delivered.

    Attributes:
        task_id: The task that asked.
        answered_by: The task that delivers, or has delivered, the other answer.
        answered_at: When that one was submitted; None: not known.
        state: Of that one.
    """

    def __init__(self, task_id: str, answered_by: str, answered_at: datetime | None, state: str) -> None:
        at = f" at {answered_at.isoformat(timespec='seconds')}" if answered_at else ""
        LanggraphRqError.__init__(
            self, f"task {task_id}: already answered{at} by task {answered_by}, which is {state}; look at that one"
        )
        self.task_id = task_id
        self.answered_by = answered_by
        self.answered_at = answered_at
        self.state = state


class UnknownGraphError(LanggraphRqError):
    """No live worker serves this graph.

    Attributes:
        graph: Its name.
        known: The graphs that live workers serve, as a comma-separated list.
    """

    def __init__(self, graph: str, known: str) -> None:
        super().__init__(f"graph: no live worker serves {graph!r}, known: {known}")
        self.graph = graph
        self.known = known


class QueueFullError(LanggraphRqError):
    """Redis is nearly full, so that no further task is accepted.

    Attributes:
        used_percent: How full it is.
        retry_after_s: When to try again.
    """

    def __init__(self, used_percent: int, retry_after_s: float = 30) -> None:
        super().__init__(f"Redis is {used_percent} % full: try again when tasks have ended")
        self.used_percent = used_percent
        self.retry_after_s = retry_after_s


class TenantFullError(LanggraphRqError):
    """A tenant has as much as it may have, so that no further task of it is accepted.

    Attributes:
        tenant: The tenant.
        held: What it has, for people.
        retry_after_s: When to try again.
    """

    def __init__(self, tenant: str, held: str, retry_after_s: float = 5) -> None:
        super().__init__(f"tenant {tenant} has {held}: try again when tasks of it have ended")
        self.tenant = tenant
        self.held = held
        self.retry_after_s = retry_after_s


class RedisUnavailableError(LanggraphRqError, ConnectionError):
    """Redis cannot be reached.

    Attributes:
        url: Of Redis, without credentials.
        reason: The connection's own error.
        retry_after_s: When to try again.
    """

    def __init__(self, url: str, reason: object, retry_after_s: float = 1) -> None:
        super().__init__(f"cannot reach Redis at {url}: {reason}")
        self.url = url
        self.reason = str(reason)
        self.retry_after_s = retry_after_s


class ScriptsMissingError(RedisUnavailableError):
    """Redis lacks the scripts of this version, and its user may not load them; a worker loads them when it starts.

    Attributes:
        url, reason, retry_after_s: As in `RedisUnavailableError`.
    """

    def __init__(self, url: str, reason: object, retry_after_s: float = 5) -> None:
        super().__init__(url, reason, retry_after_s)
        self.args = (f"Redis at {url} {reason}",)


class UnknownTaskError(LanggraphRqError, LookupError):
    """No task is known under this id, or its result is no longer kept.

    Attributes:
        task_id: The id.
        state: How the task ended, where only its result is gone.
    """

    def __init__(self, task_id: str, state: str | None = None) -> None:
        super().__init__(
            f"task {task_id!r} ended as {state}; its result was kept for its time to live only"
            if state
            else f"no task {task_id!r}: ids are kept for the idempotency window after the end"
        )
        self.task_id = task_id
        self.state = state


class ForgedResultError(LanggraphRqError):
    """What stands in Redis for a task was not signed with a key of its tenant; nothing of it is returned.

    Attributes:
        task_id: The task.
        reason: Which signature was expected, and what was found.
    """

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"task {task_id}: {reason}")
        self.task_id = task_id
        self.reason = reason


class UnreadableTaskError(UnknownTaskError):
    """Another program has written to the task's keys in Redis, so that its state or its result cannot be read.

    Attributes:
        task_id: The task.
        part: What cannot be read.
        found: What stands there, shortened.
    """

    def __init__(self, task_id: str, part: str, found: str) -> None:
        LanggraphRqError.__init__(
            self, f"task {task_id!r}: its {part} in Redis cannot be read, got: {found[:60]!r}; another program wrote it"
        )
        self.task_id = task_id
        self.state = None
        self.part = part
        self.found = found[:60]


class NotInterruptedError(LanggraphRqError):
    """The task waits for no answer, so that it cannot be resumed.

    Attributes:
        task_id: The task.
        state: Where it is, or how it ended.
    """

    def __init__(self, task_id: str, state: str) -> None:
        verb = "is" if state in {"pending", "running"} else "ended as"
        super().__init__(f"task {task_id} {verb} {state}: only an interrupted one is resumed")
        self.task_id = task_id
        self.state = state


class NotContinuableError(LanggraphRqError):
    """The task has not failed, so that there is nothing to continue.

    Attributes:
        task_id: The task.
        state: Where it is, or how it ended.
    """

    def __init__(self, task_id: str, state: str) -> None:
        hint = "; resume it" if state == "interrupted" else ""
        super().__init__(
            f"task {task_id} is {state}: only one that failed, timed out or was cancelled is continued{hint}"
        )
        self.task_id = task_id
        self.state = state


class ThreadBusyError(LanggraphRqError):
    """A task of the thread has not ended, and this one was to run only if there is none.

    Attributes:
        thread_id: The thread.
    """

    def __init__(self, thread_id: str | None) -> None:
        super().__init__(f"thread_id: a task of the thread {thread_id} has not ended")
        self.thread_id = thread_id


class ThreadRequestError(LanggraphRqError):
    """A request about a thread or the store failed: no worker replied in time, or the graph failed. Retry it.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request was not answered: {reason}")
        self.reason = reason


class WaitTimeoutError(LanggraphRqError, TimeoutError):
    """The task did not end within the time that its caller could wait; it goes on.

    Attributes:
        task_id: The task, or the first of them.
        count: How many tasks that were waited for have not ended.
    """

    def __init__(self, task_id: str, count: int = 1) -> None:
        super().__init__(f"task {task_id} has not ended in time ({count} not ended); it goes on")
        self.task_id = task_id
        self.count = count


class SettingsError(LanggraphRqError):
    """A setting is unknown or has a value that cannot be used."""


class MissingExtraError(SettingsError):
    """A command needs libraries that an extra of the package installs."""

    def __init__(self, command: str, extra: str, module: str | None) -> None:
        super().__init__(
            f"{command}: expected the extra `{extra}`, got: no module {module}; pip install 'langgraph-rq[{extra}]'"
        )
