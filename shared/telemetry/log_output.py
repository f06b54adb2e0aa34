"""Output of log events: a JSON object per line, or text on a terminal (log_terminal.py).

The message of an exception is left out unless it is an operational one, and personal data and secrets are masked. A
line cannot be forged: control characters are escaped.
"""

import json
import logging
import os
import stat
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from copy import copy
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TextIO

from pydantic_core import to_json
from redis.exceptions import RedisError
from structlog.typing import EventDict, WrappedLogger

from langgraph_rq.shared.control_characters import visible
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_context import merge_bound
from langgraph_rq.shared.telemetry.log_masking import OURS, Masked
from langgraph_rq.shared.telemetry.log_terminal import TerminalRenderer

_OPERATIONAL = (OSError, RedisError, LanggraphRqError)
"""Exceptions whose messages name hosts and limits; the message of any other one may quote a prompt."""

_FRAMES = 20
MOST_QUEUED = 10_000
"""Events, about 20 MB: whatever reads the log may be stuck, and a line that cannot be written must hold up no task.

Once so many wait, further ones are dropped until half of them are written: a gap is one, and is recorded once.
"""
GATHER_S = 0.2
"""How late a line below warning may be; those of a process that is killed in this time are lost."""
_PIPE_CHARS = 4_096
"""What a pipe takes as a whole, also when other processes write into it. Lines have only ASCII characters."""
_FILE_CHARS = 65_536
"""What is written to a file by one call: it takes all of it as a whole."""


class Event(dict[str, Any]):
    """The message of a log record: an event's name, as `event`, and its fields."""

    def __str__(self) -> str:
        """Write it as text, for a program that has its own logging."""
        values = [f"{name}={value}" for name, value in self.items() if name != "event" and value is not None]
        return visible(" ".join([str(self["event"]), *values]))


class EventRecord(logging.LogRecord):
    """The record of an event that is for our own lines, which have no names of threads, processes and asyncio's tasks.

    To find these out takes as long as all else that logging an event does.
    """

    def __init__(self, name: str, level: int, event: Event) -> None:
        now = time.time()
        self.__dict__.update(
            _UNKNOWN,
            name=name,
            levelno=level,
            levelname=logging.getLevelName(level),
            msg=event,
            created=now,
            msecs=now % 1 * 1_000,
            thread=threading.get_ident(),
            process=os.getpid(),
        )


_UNKNOWN: dict[str, Any] = {**logging.makeLogRecord({}).__dict__, "threadName": None, "processName": None}
"""What a record has when it is not known where it was logged."""


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


def to_event(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record whose message is an event: the record itself, or a copy of one that another library logged."""
    if isinstance(record.msg, Event):
        return record
    text = record.getMessage()
    if record.name == "asyncio":  # the other lines quote the exception and the arguments of a task
        text = text.partition("\n")[0]
    event = without_content(None, "", merge_bound(None, "", {"event": text, "exc_info": record.exc_info}))
    record = copy(record)
    record.msg, record.args, record.exc_info, record.exc_text = Event(event), (), None, None
    return record


def _complete(record: logging.LogRecord) -> dict[str, Any]:
    """Return all fields of a record's event."""
    second, fraction = divmod(record.created, 1)
    return {
        **to_event(record).msg,  # type: ignore[dict-item]
        "level": record.levelname.lower(),
        "logger": record.name,
        "timestamp": f"{_second(second)}.{int(fraction * 1_000_000):06}Z",
    }


@lru_cache(maxsize=8)
def _second(second: float) -> str:
    """Write a second since the epoch; most lines are of the one before."""
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class _Lossy(logging.Handler):
    """A task must not fail because of its log: a record that cannot be handled, or a line written, is dropped."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the record; the standard library would write its arguments to stderr."""


class QueuedEvents(_Lossy, QueueHandler):
    """Puts events on a queue, from which a thread takes them; waits for nothing if the queue's `put` does not.

    So it does not use its lock either: one thread would hold it and read a record's arguments, which may wait for
    another thread, in which a finalizer logs something.

    Args:
        queue: Takes the events.
        hurry: Ends the listener's pause: something is in it when a warning or an error was queued.
    """

    queue: SimpleQueue[logging.LogRecord]

    def __init__(self, queue: SimpleQueue[logging.LogRecord], hurry: SimpleQueue[None]) -> None:
        super().__init__(queue)
        self._hurry = hurry
        self._dropped = 0
        """Events since the last one that was queued."""
        self._counting = threading.RLock()
        """Held for arithmetic only, so that its owner waits for nothing; a signal handler may log meanwhile."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue a record that passes the filters."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue an event; drop it while the thread is too far behind."""
        if self.queue.qsize() >= (MOST_QUEUED // 2 if self._dropped else MOST_QUEUED):
            with self._counting:
                self._dropped += 1
        else:
            if self._dropped:
                self.report_dropped()
            self.queue.put(record)
        if record.levelno >= logging.WARNING and self._hurry.empty():
            self._hurry.put(None)

    def report_dropped(self) -> None:
        """Queue a warning that says how many events were dropped since the last one, if any were."""
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        if dropped:  # else another thread reports them
            event = Event({"event": "lines.dropped", "lines": dropped})
            self.queue.put(logging.LogRecord(__name__, logging.WARNING, "", 0, event, (), None))

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Read the record's arguments and context now: they may change before the thread does."""
        return to_event(record)


class GatheringListener(QueueListener):
    """Takes events from the queue in a thread, which pauses for `GATHER_S` when it has taken all, unless in a hurry.

    A thread that wakes for each event, and writes each line by itself, costs a busy process more than the lines: each
    time it must wait for the interpreter's lock, and the thread that had it too.
    """

    queue: SimpleQueue[logging.LogRecord]
    handlers: tuple[logging.Handler, ...]

    def __init__(self, queue: SimpleQueue[logging.LogRecord], *handlers: logging.Handler) -> None:
        super().__init__(queue, *handlers, respect_handler_level=True)
        self.hurry: SimpleQueue[None] = SimpleQueue()
        self._has_begun = False

    def dequeue(self, block: bool) -> logging.LogRecord:
        """Return the next event; when there is none, write what was gathered, and let some gather."""
        if self._has_begun and self.queue.empty():
            self._flush()
            with suppress(Empty):
                self.hurry.get(timeout=GATHER_S)
        self._has_begun = True
        return self.queue.get(block)

    def stop(self) -> None:
        """Handle what is left, and end."""
        self.hurry.put(None)
        super().stop()
        self._flush()

    def _flush(self) -> None:
        for handler in self.handlers:
            handler.flush()


class Lines(_Lossy, logging.StreamHandler[TextIO]):
    """Writes events as lines to a stream; several with one call while `gathers` is set, then until `flush`.

    Args:
        stream: Receives the lines; a terminal gets readable text.
        redactor: Masks personal data and secrets.
    """

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        super().__init__(stream)
        self.gathers = False
        self._piece: list[str] = []
        """Lines that are not written yet, at most `_most` characters unless it is only one."""
        self._chars = 0
        self._most = _FILE_CHARS if _is_file(stream) else _PIPE_CHARS
        self._render = TerminalRenderer() if stream.isatty() else _render_json
        self._mask = Masked(redactor)

    def emit(self, record: logging.LogRecord) -> None:
        """Write an event, or gather it."""
        try:
            line = self.format(record) + self.terminator
            if self._chars + len(line) > self._most:
                self.flush()
            self._piece.append(line)
            self._chars += len(line)
            if not self.gathers:
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what was gathered."""
        with self.lock or nullcontext(), suppress(Exception):
            piece, self._piece, self._chars = self._piece, [], 0
            if piece:
                self.stream.write("".join(piece))
                self.stream.flush()

    def forget(self) -> None:
        """Gather no more, and write nothing of what was: in a forked process, whose parent will."""
        self.gathers, self._piece, self._chars = False, [], 0

    def format(self, record: logging.LogRecord) -> str:
        """Render an event; of one with a value that cannot be read only what is ours."""
        try:
            return self._line(_complete(record))
        except Exception as error:  # of the value's own str()
            event = _complete(record)
            kept = {name: event[name] for name in (OURS | {"event"}) & event.keys()}
            return self._line({**kept, "broken": type(error).__name__})

    def _line(self, event: EventDict) -> str:
        return str(self._render(None, "", self._mask(None, "", event)))


def _is_file(stream: TextIO) -> bool:
    with suppress(Exception):  # a program's own stream, which may have no descriptor, or no such method
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    return False


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Write an event as JSON. Anything but ASCII is escaped, so no reader takes a character for the end of a line."""
    with suppress(ValueError):  # half of a surrogate pair
        text = to_json(event, fallback=str)
        if text.isascii():
            return text.decode()
    return json.dumps(event, default=str, separators=(",", ":"))
