"""Write log lines: a JSON object each, or readable on a terminal; masked, without content, at once or many at a time.

Exceptions lose their message unless it is an operational one, and whatever looks like personal data or a secret is
masked. A line cannot be forged: control characters are escaped.
"""

import json
import logging
import re
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

from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.redaction import Redactor

OURS = frozenset({"attempt", "level", "logger", "span_id", "task_id", "timestamp", "trace_id", "worker"})
"""Ids and words that we made ourselves: not searched for what has to be masked."""

_OPERATIONAL = (OSError, RedisError, LanggraphRqError)
"""Their messages name hosts and limits; those of a graph's own exceptions may quote a prompt."""

_FRAMES = 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_JOINED_S = 0.1
_HELD = 1_000
_ATOMIC = 4_096
"""PIPE_BUF: what is not longer is written to a pipe whole, or not yet."""

_Told = tuple[EventDict, float, bool]
"""An event, when it was told (s since the epoch), and whether it becomes a line."""

Listener = Callable[[Mapping[str, Any]], None]


class LineWriter:
    """Turns events into lines of a stream. A stream itself for whoever brings lines, which then come in their turn.

    A line that cannot be written is lost: nobody is left who could be told, and no task must fail for it.

    Args:
        stream: Where lines go.
        redactor: What masks.
        listeners: Who else hears of events, by their name, before they become lines.
    """

    def __init__(self, stream: TextIO, redactor: Redactor, listeners: Mapping[str, Sequence[Listener]]) -> None:
        self._stream = stream
        self._listeners = listeners
        write = _one_line(structlog.dev.ConsoleRenderer()) if stream.isatty() else _write_json
        self.first: list[Processor] = [_stamp, _without_content]
        """What must be done to an event at once."""
        self.last: list[Processor] = [_Masked(redactor), write]
        """What makes a line of it."""
        self.begin_again()

    def begin_again(self) -> None:
        """Forget what is held, in a process that was forked from the one that holds it; write at once."""
        self._held: deque[_Told] = deque()
        self._writing = RLock()  # a value that is written may tell something itself
        self._is_joining = False

    def tell(self, event: EventDict, *, is_line: bool, is_urgent: bool) -> None:
        """Write an event, or only let listeners have it: soon, or at once if urgent, with what was told before."""
        if "exc_info" in event:
            _without_content(None, "", event)
        self._held.append((event, time.time(), is_line))
        if is_urgent or not self._is_joining or len(self._held) >= _HELD:
            self.write("")

    def write(self, text: str) -> None:
        """Write what is held, then `text`."""
        with self._writing:
            lines: list[str] = []
            try:
                for _ in range(len(self._held)):
                    lines.append(self._hand_out(*self._held.popleft()))  # noqa: PERF401 - those before one that fails
            finally:
                self._put([*lines, text])

    def _put(self, lines: Iterable[str]) -> None:
        """Write a few lines at a time: longer texts of processes that share a pipe may be mixed."""
        group = ""
        for line in lines:
            if group and len(group) + len(line) > _ATOMIC:
                self._put_group(group)
                group = ""
            group += line
        if group:
            self._put_group(group)

    def _put_group(self, group: str) -> None:
        with suppress(Exception):  # whatever the stream says
            self._stream.write(group)
            self._stream.flush()

    def flush(self) -> None:
        """Hand out what is held."""
        self.write("")

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Let a thread write lines many at a time while the block runs."""
        ending = Event()

        def write() -> None:
            while not ending.wait(_JOINED_S):
                with suppress(Exception):  # whatever it is, the thread must live
                    self.flush()

        thread = Thread(target=write, name="log lines", daemon=True)
        self._is_joining = True
        thread.start()
        try:
            yield
        finally:
            self._is_joining = False
            ending.set()
            thread.join()
            self.flush()

    def _hand_out(self, event: EventDict, at_s: float, is_line: bool) -> str:
        try:
            event["timestamp"] = datetime.fromtimestamp(at_s, UTC)
            for listener in self._listeners.get(event["event"], ()):
                listener(event)
            return self._line_of(event) if is_line else ""
        except Exception as error:  # of a value's own str(): neither whoever told it nor other lines can help it
            kept = {name: event[name] for name in OURS & event.keys()}
            try:
                return self._line_of({**kept, "event": event["event"], "broken": type(error).__name__})
            except Exception:  # the stack is too deep here; it is not where others write
                self._held.appendleft((event, at_s, is_line))
                raise

    def _line_of(self, event: EventDict) -> str:
        line: Any = event
        for processor in self.last:
            line = processor(None, "", line)
        return f"{line}\n"


class LineHandler(logging.StreamHandler[LineWriter]):
    """The standard library's way to a writer, without a lock of its own.

    Who waits for the writer's lock with another one in hand would wait for ever if the one who writes, or a finalizer
    that runs meanwhile, wants that other one to log something.
    """

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Have none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record that passes the filters."""
        passed = self.filter(record)
        if passed:
            self.emit(record)
        return bool(passed)

    def flush(self) -> None:
        """Do nothing: what is written is flushed."""


class PlainLogger:
    """structlog's way to a writer, without a lock of its own."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        """Write a line."""
        self._writer.write(f"{message}\n")

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = err = msg


_PLAIN = {int, float, bool}


def _listed(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, set | frozenset) else value


class _Masked:
    """Masks strings wherever they stand, except in fields that are ours; leaves out what is None."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        redact, are_some_none = self._redactor.redact, False
        for name, value in event.items():
            kind = type(value)
            if kind is str:
                if name not in OURS:
                    event[name] = redact(value)
            elif value is None:
                are_some_none = True
            elif isinstance(value, str):
                event[name] = redact(value)
            elif kind not in _PLAIN and name not in OURS:
                known = isinstance(value, Mapping | list | tuple | set | frozenset)
                event[name] = self._redactor.redact_json(_listed(value) if known else str(value))[0]
        return {name: value for name, value in event.items() if value is not None} if are_some_none else event


def _without_content(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and where it came from."""
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
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    return value if isinstance(value, int | float | None) else escape(str(value))
