"""Fields bound to a context: task_id, graph, node and the like, which are in each of its lines."""

from collections.abc import Mapping, Sized
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

_bound: ContextVar[Mapping[str, Any]] = ContextVar("log_fields")
"""One variable for all fields, so that an event need not search its whole context for them, as structlog's must."""

_NOTHING: Mapping[str, Any] = {}
_structlogs: Sized = getattr(structlog.contextvars, "_CONTEXT_VARS", "unknown")
"""structlog's register of the names that were ever bound with `structlog.contextvars`; mostly empty."""


def bind(**fields: Any) -> None:
    """Put fields into every line of this context, and of the tasks and threads that begin in it; None takes one out."""
    merged = {**_bound.get(_NOTHING), **fields}
    _bound.set({name: value for name, value in merged.items() if value is not None})


def bound() -> Mapping[str, Any]:
    """Return the fields bound in this context."""
    return _bound.get(_NOTHING)


def merge_bound(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Add what is bound, here and with structlog; a processor. The event's own fields win."""
    event = {**event, **_bound.get(_NOTHING), **event}
    return structlog.contextvars.merge_contextvars(logger, method, event) if _structlogs else event
