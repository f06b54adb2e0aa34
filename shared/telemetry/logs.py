"""Structured logs: events with values, bound to their context; the stdlib's loggers included.

Our events are `noun.past_participle` with values as keywords; docs/observability.md lists them all. What is bound with
`bind` (task_id, thread_id, user_id, graph, node, attempt, worker, trace_id, span_id) is in every line.

No line holds a prompt, an answer or an argument: events carry ids, numbers and sizes, and log_output.py
cuts exceptions and masks personal data and secrets.

Metrics and traces listen to the same events at every level, so that a count and a line cannot disagree. A program
that never calls `configure` (a service that only submits) sees our events in its own standard logging.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_output import Listener, LogWriter, StdlibHandler, StructlogLogger, escape

QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "redisvl", "langgraph", "asyncio", "urllib3")
"""Libraries that log each request at info; a task's own log lines say what matters."""

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - replaced, never changed
_listeners: dict[str, list[Listener]] = {}
_later: dict[str, list[Listener]] = {}
"""Listeners that are called when the line is written, so that they do not delay the task that logs."""
_logs: dict[str, "EventLog"] = {}


class EventLog:
    """The logger of one module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stdlib = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Log a detail that helps to find an error."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that operators should know about."""
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log an event that operators should act on."""
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the type and frames of the exception that is being handled."""
        self._emit(logging.ERROR, event, {**fields, "exc_info": True})

    def is_observed(self, event: str, level: int) -> bool:
        """Return whether an event would be written or has a listener; saves preparing one in vain."""
        written = level >= _output.threshold if _output else self._stdlib.isEnabledFor(level)
        return written or bool(_listeners.get(event) or _later.get(event))

    def _emit(self, level: int, event: str, fields: dict[str, Any]) -> None:
        for listener in _listeners.get(event, ()):
            listener(fields)
        is_line = level >= _output.threshold if _output else self._stdlib.isEnabledFor(level)
        if not is_line and event not in _later:
            return
        full = {"event": event, "level": _LEVELS[level], "logger": self._name, **_bound.get(), **fields}
        if _output:
            _output.writer.emit(full, is_line=is_line, is_urgent=level > logging.INFO)
            return
        for listener in _later.get(event, ()):
            listener(full)
        if is_line:
            self._stdlib.log(level, "%s", _plain(event, fields))


_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class _Output(NamedTuple):
    """The writer of lines, and the lowest level that it writes."""

    writer: LogWriter
    threshold: int


_output: _Output | None = None


def bind(**fields: Any) -> None:
    """Put fields into every line of this context, and of the tasks and threads that begin in it; None takes one out."""
    bound = {**_bound.get(), **fields}
    if None in fields.values():
        bound = {name: value for name, value in bound.items() if value is not None}
    _bound.set(bound)


def bound() -> Mapping[str, Any]:
    """Return the fields bound in this context."""
    return _bound.get()


def get_logger(name: str) -> EventLog:
    """Get a logger; events are `noun.past_participle`, with values as keywords."""
    return _logs.setdefault(name, EventLog(name))


def listen(event: str, listener: Listener) -> None:
    """Call `listener` with the fields of each `event`, in the thread and context that logs it."""
    _listeners.setdefault(event, []).append(listener)


@contextmanager
def listening(listeners: Mapping[str, Listener]) -> Iterator[None]:
    """Call each listener with its event, bound fields included, when the line is written."""
    for event, listener in listeners.items():
        _later.setdefault(event, []).append(listener)
    try:
        yield
    finally:
        flush()
        for event, listener in listeners.items():
            _later[event].remove(listener)
            if not _later[event]:
                del _later[event]


def flush() -> None:
    """Write the pending lines."""
    if _output:
        _output.writer.flush()


def configure(level: str = "info", *, redactor: Redactor | None = None, stream: TextIO | None = None) -> None:
    """Set up our logs and the standard library's, once per process.

    Args:
        level: The lowest that is written; listeners get all levels.
        redactor: Masks personal data and secrets; None: the default patterns.
        stream: Receives the lines; None: stderr.
    """
    global _output  # noqa: PLW0603 - logging is set up per process, as the standard library's
    writer = LogWriter(stream or sys.stderr, redactor or Redactor(), _later)
    context: list[Processor] = [structlog.contextvars.merge_contextvars, _add_bound]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *context, *writer.first, *writer.last],
        logger_factory=lambda *_args: StructlogLogger(writer),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    added: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _first_line]
    handler = StdlibHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*added, *context, *writer.first],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *writer.last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("rq", "rq.worker", "uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    _output = _Output(writer, logging.getLevelNamesMapping()[level.upper()])


@contextmanager
def batched() -> Iterator[None]:
    """Write lines in batches while the block runs, which halves their cost in a busy process.

    A line at warning or above is written at once, after all before it; at level debug every line is.
    """
    if _output is None or _output.threshold < logging.INFO:
        yield
        return
    with _output.writer.batched():
        yield


def reset() -> None:
    """Undo `configure`, as far as our own events go."""
    global _output  # noqa: PLW0603 - see above
    _output = None


def _add_bound(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_bound.get(), **event}


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep the first line of asyncio's messages; the others quote the exception and the arguments of a task."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _reset_after_fork() -> None:
    if _output:
        _output.writer.reset_after_fork()


os.register_at_fork(after_in_child=_reset_after_fork)


def _plain(event: str, fields: Mapping[str, Any]) -> str:
    """Write an event as one line of text, for a program that has its own logging."""
    values = " ".join(f"{name}={value}" for name, value in fields.items() if name != "exc_info")
    return str(escape(f"{event} {values}" if values else event))
