"""Structured logs: events with values, bound to their context; the stdlib's loggers included.

Our events are `noun.past_participle` with values as keywords; docs/observability.md lists them all. What is bound with
`bind` (task_id, thread_id, user_id, graph, node, attempt, worker, trace_id, span_id) is in every line.

No line holds a prompt, an answer or an argument: events carry ids, numbers and sizes, and log_writing.py sees to
exceptions, personal data and secrets.

Metrics and traces listen to the same events, whatever the level, so that a count and a line cannot disagree. A program
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
from langgraph_rq.shared.telemetry.log_writing import LineHandler, LineWriter, Listener, PlainLogger, escape

QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "redisvl", "langgraph", "asyncio", "urllib3")
"""Libraries that log each request at info; a task's own log lines say what matters."""

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - replaced, never changed
_listeners: dict[str, list[Listener]] = {}
_later: dict[str, list[Listener]] = {}
"""Who hears of an event when its line is written, many at a time, and not in between all that a task does."""
_logs: dict[str, "EventLog"] = {}


class EventLog:
    """The logger of one module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stdlib = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Tell what helps to find an error."""
        self._tell(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Tell what happened."""
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Tell what somebody should know about."""
        self._tell(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Tell what somebody should act on."""
        self._tell(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Tell what somebody should act on, with where the exception at hand came from."""
        self._tell(logging.ERROR, event, {**fields, "exc_info": True})

    def is_heard(self, event: str, level: int) -> bool:
        """Say whether anybody would see or count an event, for whoever has to go to some length to find it out."""
        written = level >= _output.threshold if _output else self._stdlib.isEnabledFor(level)
        return written or bool(_listeners.get(event) or _later.get(event))

    def _tell(self, level: int, event: str, fields: dict[str, Any]) -> None:
        for listener in _listeners.get(event, ()):
            listener(fields)
        is_line = level >= _output.threshold if _output else self._stdlib.isEnabledFor(level)
        if not is_line and event not in _later:
            return
        told = {"event": event, "level": _LEVELS[level], "logger": self._name, **_bound.get(), **fields}
        if _output:
            _output.writer.tell(told, is_line=is_line, is_urgent=level > logging.INFO)
            return
        for listener in _later.get(event, ()):
            listener(told)
        if is_line:
            self._stdlib.log(level, "%s", _plain(event, fields))


_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class _Output(NamedTuple):
    """Where lines go, and from which level on."""

    writer: LineWriter
    threshold: int


_output: _Output | None = None


def bind(**fields: Any) -> None:
    """Put fields into every line of this context, and of the tasks and threads that begin in it; None takes one out."""
    bound = {**_bound.get(), **fields}
    if None in fields.values():
        bound = {name: value for name, value in bound.items() if value is not None}
    _bound.set(bound)


def bound() -> Mapping[str, Any]:
    """What is bound here."""
    return _bound.get()


def get_logger(name: str) -> EventLog:
    """Get a logger; events are `noun.past_participle`, with values as keywords."""
    return _logs.setdefault(name, EventLog(name))


def listen(event: str, listener: Listener) -> None:
    """Let `listener` have the fields of each `event`, in the thread and the context in which it is told."""
    _listeners.setdefault(event, []).append(listener)


@contextmanager
def listening(listeners: Mapping[str, Listener]) -> Iterator[None]:
    """Let each listener have its event with all its fields, those that are bound included, when its line is written."""
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
    """Write the lines that wait for others."""
    if _output:
        _output.writer.flush()


def configure(level: str = "info", *, redactor: Redactor | None = None, stream: TextIO | None = None) -> None:
    """Set up our logs and the standard library's, once per process.

    Args:
        level: The least that is written; listeners get everything.
        redactor: What masks; None for one with the default patterns.
        stream: Where lines go; None for stderr.
    """
    global _output  # noqa: PLW0603 - logging is set up per process, as the standard library's
    writer = LineWriter(stream or sys.stderr, redactor or Redactor(), _later)
    context: list[Processor] = [structlog.contextvars.merge_contextvars, _add_bound]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *context, *writer.first, *writer.last],
        logger_factory=lambda *_args: PlainLogger(writer),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    added: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _first_line]
    handler = LineHandler(writer)
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
def joined() -> Iterator[None]:
    """Write lines many at a time while the block runs: one by one they cost a busy process twice as much.

    Those at warning and above are written at once, with all that were told before; at level debug all are.
    """
    if _output is None or _output.threshold < logging.INFO:
        yield
        return
    with _output.writer.joined():
        yield


def reset() -> None:
    """Undo `configure`, as far as our own events go."""
    global _output  # noqa: PLW0603 - see above
    _output = None


def _add_bound(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_bound.get(), **event}


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep what asyncio says first; behind it follow the exception and the arguments of a task."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _forget_held() -> None:
    if _output:
        _output.writer.begin_again()


os.register_at_fork(after_in_child=_forget_held)


def _plain(event: str, fields: Mapping[str, Any]) -> str:
    """Write an event as one line of text, for a program that has its own logging."""
    told = " ".join(f"{name}={value}" for name, value in fields.items() if name != "exc_info")
    return str(escape(f"{event} {told}" if told else event))
