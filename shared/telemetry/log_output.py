"""Output of log events: a JSON object per line, or readable text on a terminal; written at once or in batches.

The message of an exception is left out unless it is an operational one, and personal data and secrets are masked. A
line cannot be forged: control characters are escaped.
"""

import json
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, RLock, Thread
from types import TracebackType
from typing import Any, TextIO

import structlog
from pydantic_core import to_json
from redis.exceptions import RedisError
from structlog.typing import EventDict, Processor, WrappedLogger

from langgraph_rq.shared.control_characters import visible
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_masking import OURS, Masked

_OPERATIONAL = (OSError, RedisError, LanggraphRqError)
"""Exceptions whose messages name hosts and limits; the message of any other one may quote a prompt."""

_FRAMES = 20
_BATCH_S = 0.1
_LONGEST_BATCH = 1_000
_ATOMIC = 4_096
"""PIPE_BUF in bytes: the longest text that a pipe takes as a whole."""

_Pending = tuple[EventDict, float, bool]
"""An event, when it was emitted (s since the epoch), and whether it becomes a line."""

Listener = Callable[[Mapping[str, Any]], None]


class LogWriter:
    """Render events as lines and write them to a stream, in the order in which they were emitted.

    It is itself the stream of the standard library's handler, whose lines keep their place in that order. A line that
    cannot be written is dropped: a task must not fail because of its log.

    Args:
        stream: Receives the lines.
        redactor: Masks personal data and secrets.
        listeners: By event name; called with the event just before it is rendered.
    """

    def __init__(self, stream: TextIO, redactor: Redactor, listeners: Mapping[str, Sequence[Listener]]) -> None:
        self._stream = stream
        self._listeners = listeners
        write = _one_line(structlog.dev.ConsoleRenderer()) if stream.isatty() else _write_json
        self.first: list[Processor] = [_stamp, _without_content]
        """Processors that must run when the event is emitted."""
        self.last: list[Processor] = [Masked(redactor), write]
        """Processors that render it, possibly later."""
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Drop pending events, which belong to the parent process, and write each further one at once."""
        self._pending: deque[_Pending] = deque()
        self._writing = RLock()  # rendering a value may log something itself
        self._is_batching = False

    def emit(self, event: EventDict, *, is_line: bool, is_urgent: bool) -> None:
        """Add an event, for the listeners only unless `is_line`. If urgent, write it and all before it at once."""
        if "exc_info" in event:
            _without_content(None, "", event)
        self._pending.append((event, time.time(), is_line))
        if is_urgent or not self._is_batching or len(self._pending) >= _LONGEST_BATCH:
            self.write("")

    def write(self, text: str) -> None:
        """Write the pending events, then `text`."""
        with self._writing:
            lines: list[str] = []
            try:
                for _ in range(len(self._pending)):
                    lines.append(self._render(*self._pending.popleft()))  # noqa: PERF401 - those before one that fails
            finally:
                self._put([*lines, text])

    def _put(self, lines: Iterable[str]) -> None:
        """Write groups of lines that a pipe takes as a whole, so that processes sharing it do not mix their lines."""
        group = ""
        for line in lines:
            if group and len(group) + len(line) > _ATOMIC:
                self._put_group(group)
                group = ""
            group += line
        if group:
            self._put_group(group)

    def _put_group(self, group: str) -> None:
        with suppress(Exception):  # of any kind: see the class
            self._stream.write(group)
            self._stream.flush()

    def flush(self) -> None:
        """Write the pending events."""
        self.write("")

    @contextmanager
    def batched(self) -> Iterator[None]:
        """Write lines in batches, in a thread, while the block runs."""
        ending = Event()

        def write() -> None:
            while not ending.wait(_BATCH_S):
                with suppress(Exception):  # the thread must survive any of them
                    self.flush()

        thread = Thread(target=write, name="log lines", daemon=True)
        self._is_batching = True
        thread.start()
        try:
            yield
        finally:
            self._is_batching = False
            ending.set()
            thread.join()
            self.flush()

    def _render(self, event: EventDict, at_s: float, is_line: bool) -> str:
        try:
            event["timestamp"] = datetime.fromtimestamp(at_s, UTC)
            for listener in self._listeners.get(event["event"], ()):
                listener(event)
            return self._line_of(event) if is_line else ""
        except Exception as error:  # of a value's own str(): neither the caller nor other lines must suffer
            kept = {name: event[name] for name in OURS & event.keys()}
            try:
                return self._line_of({**kept, "event": event["event"], "broken": type(error).__name__})
            except Exception:  # the stack is too deep here, but not for the next caller
                self._pending.appendleft((event, at_s, is_line))
                raise

    def _line_of(self, event: EventDict) -> str:
        line: Any = event
        for processor in self.last:
            line = processor(None, "", line)
        return f"{line}\n"


class StdlibHandler(logging.StreamHandler[LogWriter]):
    """Handler of the standard library's loggers, without the lock that handlers usually have.

    A second lock could deadlock: one thread would hold the handler's lock and wait for the writer's, while the thread
    that writes, or a finalizer running in it, logs something and waits for the handler's.
    """

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Create no lock."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters."""
        passed = self.filter(record)
        if passed:
            self.emit(record)
        return bool(passed)

    def flush(self) -> None:
        """Do nothing: the writer flushes after each write."""


class StructlogLogger:
    """Logger that structlog writes to; without a lock, as `StdlibHandler`."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        """Write a line."""
        self._writer.write(f"{message}\n")

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = err = msg


def _without_content(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
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


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC)  # `to_json` writes it as ISO 8601, in half of structlog's time
    return event


def _shown(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


_encode = json.JSONEncoder(default=lambda value: str(_shown(value))).encode


def _write_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # Pydantic writes it four times as fast, but refuses half of a surrogate pair, and leaves characters as they are
    # that some readers take for the end of a line.
    try:
        line = to_json(event, fallback=str, inf_nan_mode="constants")
    except ValueError:
        return _encode(event)
    return line.decode() if line.isascii() else _encode(event)


def _one_line(renderer: Callable[[WrappedLogger, str, EventDict], str]) -> Processor:
    """Escape what could begin a new line or colour a terminal, before people see it."""

    def render(logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> str:
        escaped = {name: escape(_shown(value)) for name, value in event.items()}
        return renderer(logger, method, escaped)

    return render


def escape(value: Any) -> Any:
    """Escape control characters in what would be shown to people."""
    if isinstance(value, str):
        return visible(value)
    return value if isinstance(value, int | float | None) else escape(str(value))
