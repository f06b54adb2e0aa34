"""Errors of the command line alone."""

from collections.abc import Iterable

from langgraph_rq.shared.errors import LanggraphRqError


class UnknownBreakerError(LanggraphRqError, LookupError):
    """No circuit breaker was used under this name in the last 24 hours.

    Attributes:
        name: The name.
        known: Those that were used.
        suggestion: The one that was probably meant.
    """

    def __init__(self, name: str, known: Iterable[str], suggestion: str | None = None) -> None:
        self.name = name
        self.known = tuple(known)
        self.suggestion = suggestion
        hint = f" (did you mean {suggestion}?)" if suggestion else f"; known: {', '.join(self.known) or 'none'}"
        super().__init__(f"--reset: no breaker {name!r} was used in the last 24 hours{hint}")


class NotEndedError(LanggraphRqError):
    """The task has no result yet.

    Attributes:
        task_id: The task.
        state: Where it is.
    """

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"task {task_id} is {state}: it has no result yet; `wait` waits for it")
        self.task_id = task_id
        self.state = state
