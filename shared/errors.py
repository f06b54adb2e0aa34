"""The words of `error.type` in a result, and the errors that a caller of this library can act on."""

from enum import StrEnum


class ErrorType(StrEnum):
    """Why a task did not succeed; the finer reason behind its state."""

    BUDGET_EXCEEDED = "budget_exceeded"
    """A token or money limit was reached."""
    GRAPH_ERROR = "graph_error"
    """A node raised; the message is its own."""
    GUARD_UNAVAILABLE = "guard_unavailable"
    """Redis could not be asked whether a model call may start."""
    INVALID_INPUT = "invalid_input"
    """The graph refused its input."""
    POISONED = "poisoned"
    """The task ended its process again and again."""
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    """No model could answer."""
    REJECTED = "rejected"
    """What was found on the queue is not a task of ours."""
    RESULT_NOT_JSON = "result_not_json"
    """The graph's output holds something that JSON cannot."""
    RESULT_REFUSED = "result_refused"
    """The graph's output holds what looks like personal data or secrets, and such results are not delivered."""
    RESULT_TOO_LARGE = "result_too_large"
    """The graph's output is longer than the limit."""
    TIMEOUT = "timeout"
    """The deadline passed."""
    TOOL_ERROR = "tool_error"
    """A tool or another service that the graph calls failed."""
    UNKNOWN_GRAPH = "unknown_graph"
    """No worker has the graph."""


class LanggraphRqError(Exception):
    """The base of what this library raises; the message says what happened and what to do."""


class InvalidTaskError(LanggraphRqError, ValueError):
    """The task breaks the contract: an unknown field, a limit, a wrong type. Every violation is named."""


class TaskConflictError(LanggraphRqError):
    """Another task, with another body, is known under this id."""


class UnknownGraphError(LanggraphRqError):
    """No live worker serves this graph."""


class QueueFullError(LanggraphRqError):
    """Redis is nearly full, so that no further task is taken; try again later."""


class RedisUnavailableError(LanggraphRqError, ConnectionError):
    """Redis cannot be reached; the message has its URL without credentials."""


class UnknownTaskError(LanggraphRqError, LookupError):
    """No task is known under this id (any more)."""


class NotInterruptedError(LanggraphRqError):
    """The task asks for nothing, so that it cannot be resumed."""


class UnknownBreakerError(LanggraphRqError, LookupError):
    """No circuit breaker was used under this name lately."""


class WaitTimeoutError(LanggraphRqError, TimeoutError):
    """The task did not end within the time that the caller was ready to wait."""


class SettingsError(LanggraphRqError):
    """A setting is unknown or has a value that cannot be used."""
