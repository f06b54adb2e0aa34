"""Output of log events: a JSON object per line, or text on a terminal (log_terminal.py).

The message of an exception is left out unless it is an operational one, and personal data and secrets are masked. A
line cannot be forged: control characters are escaped.
"""

import logging
import sys
import traceback
from collections.abc import Sequence
from copy import copy
from logging.handlers import QueueHandler
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TextIO

import structlog
from redis.exceptions import RedisError
from structlog.typing import EventDict, Processor, WrappedLogger

from langgraph_rq.shared.control_characters import visible
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_masking import OURS, Masked
from langgraph_rq.shared.telemetry.log_terminal import TerminalRenderer

_OPERATIONAL = (OSError, RedisError, LanggraphRqError)
"""Exceptions whose messages name hosts and limits; the message of any other one may quote a prompt."""

_FRAMES = 20
MOST_QUEUED = 10_000
"""Events, about 20 MB: whatever reads the log may be stuck, and a line that cannot be written must hold up no task."""


class Event(dict[str, Any]):
    """The message of a log record: an event's name, as `event`, and its fields."""

    def __str__(self) -> str:
        """Write it as text, for a program that has its own logging."""
        values = [f"{name}={value}" for name, value in self.items() if name not in ABOUT and value is not None]
        return visible(" ".join([str(self["event"]), *values]))


ABOUT = frozenset({"event", "level", "logger", "timestamp"})
"""Fields that each event has."""


def to_record(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[Event], dict[str, Any]]:
    """Pass an event on to the standard library's logger: the arguments of its method. The last of the processors."""
    return (Event(event),), {"exc_info": None}


def without_content(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and its frames."""
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else sys.exc_info()[1] if info is True else info
    if isinstance(error, BaseException):
        event["exception"] = _describe(error, info[2] if isinstance(info, tuple) else error.__traceback__)
    return event


def _describe(error: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    frames = traceback.extract_tb(trace, limit=-_FRAMES)
    described: dict[str, Any] = {
        "type": type(error).__qualname__,
        "frames": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames],
    }
    if isinstance(error, _OPERATIONAL):
        described["message"] = str(error)
    return described


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep the first line of asyncio's messages; the others quote the exception and the arguments of a task."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


COMMON: tuple[Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    without_content,
)
"""Processors of every event; they and `merge_contextvars` run when it is emitted, in its context."""

_FOREIGN: Sequence[Processor] = (structlog.contextvars.merge_contextvars, *COMMON, _first_line)


def as_event(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record whose message is an event: the record itself, or a copy of one that another library logged."""
    if isinstance(record.msg, Event):
        return record
    event: Any = {"event": record.getMessage(), "exc_info": record.exc_info, "_record": record}
    for processor in _FOREIGN:
        event = processor(None, record.levelname.lower(), event)
    del event["_record"]
    record = copy(record)
    record.msg, record.args, record.exc_info, record.exc_text = Event(event), (), None, None
    return record


class _Lossy(logging.Handler):
    """A task must not fail because of its log: a record that cannot be handled is dropped."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the record; the standard library would write its arguments to stderr."""


class QueuedEvents(_Lossy, QueueHandler):
    """Puts events on a queue, from which a thread takes them; waits for nothing if the queue's `put` does not.

    So it does not use its lock either: one thread would hold it and read a record's arguments, which may wait for
    another thread, in which a finalizer logs something.
    """

    queue: SimpleQueue[logging.LogRecord]

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue a record that passes the filters."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue an event; drop it while the thread is too far behind."""
        if self.queue.qsize() < MOST_QUEUED:
            super().enqueue(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Read the record's arguments and context now: they may change before the thread does."""
        return as_event(record)


class Lines(_Lossy, logging.StreamHandler[TextIO]):
    """Writes events as lines to a stream, each with one call: a pipe takes 4,096 bytes as a whole.

    Args:
        stream: Receives the lines; a terminal gets readable text.
        redactor: Masks personal data and secrets.
    """

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        super().__init__(stream)
        self._render = TerminalRenderer() if stream.isatty() else _render_json
        self._mask = Masked(redactor)

    def format(self, record: logging.LogRecord) -> str:
        """Render an event; of one with a value that cannot be read only what is ours."""
        event: Any = as_event(record).msg
        try:
            return self._line(dict(event))
        except Exception as error:  # of the value's own str()
            kept = {name: event[name] for name in (OURS | {"event"}) & event.keys()}
            return self._line({**kept, "broken": type(error).__name__})

    def _line(self, event: EventDict) -> str:
        return str(self._render(None, "", self._mask(None, "", event)))


# Anything but ASCII is escaped, so no reader takes a character for the end of a line.
_render_json = structlog.processors.JSONRenderer(default=str, separators=(",", ":"))
