"""Exceptions of calls that were refused or failed.

A `Refusal` ends the task and derives from BaseException, so that a node's `except Exception` cannot swallow a spent
budget or a lost task. An unavailable provider or tool is an Exception: the graph may handle it, and LangChain's
`with_fallbacks` does.
"""

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.waits import Wait


class Refusal(BaseException):
    """Ends the run: its task fails with `error_type` and this message.

    Args:
        message: The reason, for people.
        retry_after_s: When a retry may help; None: it will not.
        wait: What its task can wait for.
    """

    error_type = ErrorType.GUARD_UNAVAILABLE

    def __init__(self, message: str, retry_after_s: float | None = None, wait: Wait | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.wait = wait


class BudgetExceeded(Refusal):
    """The call would exceed a limit on tokens or money."""

    error_type = ErrorType.BUDGET_EXCEEDED


class BudgetBusy(BudgetExceeded):
    """Running calls hold the budget that the call needs, and it may not wait for them any longer: its task does."""


class GuardUnavailable(Refusal):
    """It could not be decided whether a call may start, so none was: no answer before the deadline, or an error."""


class DeadlinePassed(Refusal):
    """The task's deadline has passed, so no call starts."""

    error_type = ErrorType.TIMEOUT


class TaskCancelled(Refusal):
    """The task was cancelled."""


class TaskGone(Refusal):
    """Another worker owns the task now; this run must write nothing more."""


class ProviderRefused(Refusal):
    """A `ProviderUnavailableError` of a sync call's callback handler, where LangChain swallows an Exception."""

    error_type = ErrorType.PROVIDER_UNAVAILABLE


class ProviderUnavailableError(Exception):
    """No model could be called, or all that were called failed.

    Args:
        message: The reason, for people.
        retry_after_s: When a model may be called again; 0: unknown.
        was_called: Whether a provider was called at all; if not, the task can wait for one.
        timed_out: Whether the last call ran into its timeout.
        is_rate_limited: Whether the provider is healthy and only asked for a pause. It does not count as called.
        is_half_open: Whether a probe of the breaker decides, so that `retry_after_s` is only when to ask again.
        wait: What the task can wait for if no model was called; None: for some time.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 0.0,
        was_called: bool = False,
        timed_out: bool = False,
        is_rate_limited: bool = False,
        is_half_open: bool = False,
        wait: Wait | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.was_called = was_called
        self.timed_out = timed_out
        self.is_rate_limited = is_rate_limited
        self.is_half_open = is_half_open
        self.wait = wait


class ToolError(Exception):
    """A tool or another service failed, or its breaker refused the call because it keeps failing.

    Args:
        message: The reason, for people.
        retry_after_s: When the service may be called again; None: unknown.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(ToolError):  # noqa: N818 - it is not known whether it is an error
    """A call that is made once (`guarded(name, once=True)`) may have been made or not; it is not made again.

    Args:
        message: The reason, for people.
        key: Of the call, the same whenever its node runs again.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key
