"""Structured logs to stderr: a JSON object per line, or readable lines on a terminal; the stdlib's loggers included.

Our events are `noun.past_participle` with values as keywords; docs/observability.md lists them all. What is bound with
`bind` (task_id, thread_id, user_id, graph, node, attempt, worker, trace_id, span_id) is in every line.

No line holds a prompt, an answer or an argument: events carry ids, numbers and sizes, exceptions lose their message
unless it is an operational one, and whatever looks like personal data or a secret is masked. A line cannot be forged:
control characters are escaped.

Metrics and traces listen to the same events, whatever the level, so that a count and a line cannot disagree. A program
that never calls `configure` (a service that only submits) sees our events in its own standard logging.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import structlog
from pydantic_core import to_json
from redis.exceptions import RedisError
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.errors import LanggraphRqError
from shared.redaction import Redactor

QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "redisvl", "langgraph", "asyncio", "urllib3")
"""Libraries that log each request at info; a task's own log lines say what matters."""

OURS = frozenset({"attempt", "level", "logger", "span_id", "task_id", "timestamp", "trace_id", "worker"})
"""Ids and words that we made ourselves: not searched for what has to be masked."""

_OPERATIONAL = (OSError, RedisError, LanggraphRqError)
"""Their messages name hosts and limits; those of a graph's own exceptions may quote a prompt."""

_FRAMES = 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Listener = Callable[[Mapping[str, Any]], None]

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - replaced, never changed
_listeners: dict[str, list[Listener]] = {}
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
        return written or bool(_listeners.get(event))

    def _tell(self, level: int, event: str, fields: dict[str, Any]) -> None:
        for listener in _listeners.get(event, ()):
            listener(fields)
        if _output is None:
            if self._stdlib.isEnabledFor(level):
                self._stdlib.log(level, "%s", _plain(event, fields))
        elif level >= _output.threshold:
            level_name = _LEVELS[level]
            _output.write({"event": event, "level": level_name, "logger": self._name, **_bound.get(), **fields})


_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


@dataclass(frozen=True, slots=True)
class _Output:
    """Where lines go, from which level on, and what is done to them on the way."""

    stream: TextIO
    threshold: int
    processors: Sequence[Processor]

    def write(self, event: EventDict) -> None:
        # Not through structlog's own loggers, whose bookkeeping takes twice as long as the line itself.
        line: Any = event
        for processor in self.processors:
            line = processor(None, "", line)
        self.stream.write(line + "\n")
        self.stream.flush()


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


def unlisten(event: str, listener: Listener) -> None:
    """Undo `listen`."""
    _listeners[event].remove(listener)


def configure(level: str = "info", *, redactor: Redactor | None = None, stream: TextIO | None = None) -> None:
    """Set up our logs and the standard library's, once per process.

    Args:
        level: The least that is written; listeners get everything.
        redactor: What masks; None for one with the default patterns.
        stream: Where lines go; None for stderr.
    """
    global _output  # noqa: PLW0603 - logging is set up per process, as the standard library's
    out = stream or sys.stderr
    masked = _Masked(redactor or Redactor())
    if out.isatty():
        clock: Processor = structlog.processors.TimeStamper(fmt="iso", utc=True)
        last: Processor = _one_line(structlog.dev.ConsoleRenderer())
    else:
        clock, last = _stamp, _write_json
    stamp: list[Processor] = [clock, _without_content, masked]
    context: list[Processor] = [structlog.contextvars.merge_contextvars, _add_bound]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *context, *stamp, last],
        logger_factory=structlog.WriteLoggerFactory(out),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    added: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _first_line]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*added, *context, *stamp],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
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
    _output = _Output(out, logging.getLevelNamesMapping()[level.upper()], [*stamp, last])


def reset() -> None:
    """Undo `configure`, as far as our own events go."""
    global _output  # noqa: PLW0603 - see above
    _output = None


def _add_bound(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_bound.get(), **event}


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


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep what asyncio says first; behind it follow the exception and the arguments of a task."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC)  # `to_json` writes it as ISO 8601, in half of structlog's time
    return event


def _words(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


_encode = json.JSONEncoder(default=_words).encode


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
        escaped = {name: _escape(value) for name, value in event.items()}
        return renderer(logger, method, escaped)

    return render


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    return value if isinstance(value, int | float | None) else _escape(str(value))


def _plain(event: str, fields: Mapping[str, Any]) -> str:
    """Write an event as one line of text, for a program that has its own logging."""
    told = " ".join(f"{name}={value}" for name, value in fields.items() if name != "exc_info")
    return str(_escape(f"{event} {told}" if told else event))
