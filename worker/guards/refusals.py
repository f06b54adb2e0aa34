"""Why a call was not allowed to start.

What ends a run whatever the graph does derives from BaseException: a node's `except Exception` must not swallow a
spent budget or a lost task and go on. A provider that is down is the graph's own business: it may catch that, and
LangChain's `with_fallbacks` does.
"""

from langgraph_rq.shared.errors import ErrorType


class Refusal(BaseException):
    """The run is over: its task ends with `error_type` and this message.

    Args:
        message: For people.
        retry_after_s: When trying again may help; None where it will not.
    """

    error_type = ErrorType.GUARD_UNAVAILABLE

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetExceeded(Refusal):
    """A limit on tokens or money would be passed."""

    error_type = ErrorType.BUDGET_EXCEEDED


class GuardUnavailable(Refusal):
    """Redis could not be asked before the deadline; no paid call was started."""


class TaskCancelled(Refusal):
    """Somebody cancelled the task."""


class TaskGone(Refusal):
    """Another worker owns the task now; nothing of this run may be written."""


class ProviderRefused(Refusal):
    """`ProviderUnavailableError` on its way through a sync call, where LangChain swallows a handler's Exception."""

    error_type = ErrorType.PROVIDER_UNAVAILABLE


class ProviderUnavailableError(Exception):
    """No model could be called, or all that were called failed.

    Args:
        message: For people.
        retry_after_s: When a model may be called again; 0 where nobody knows.
        was_called: Whether a provider was called at all. If not, the task can wait for one.
        timed_out: Whether the last call took all the time that it was given.
    """

    def __init__(
        self, message: str, *, retry_after_s: float = 0.0, was_called: bool = False, timed_out: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.was_called = was_called
        self.timed_out = timed_out


class ToolError(Exception):
    """A tool or another service failed, or is not called at the moment because it keeps failing.

    Args:
        message: For people.
        retry_after_s: When the service may be called again; None where nobody knows.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
