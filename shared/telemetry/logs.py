"""Structured logs: structlog makes events, the standard library carries them to their handlers.

Our events are `noun.past_participle` with values as keywords; docs/observability.md lists them all. What is bound with
`bind` (task_id, thread_id, user_id, graph, node, attempt, worker, trace_id, span_id) is in every line.

No line holds a prompt, an answer or an argument: events carry ids, numbers and sizes, and log_output.py
cuts exceptions and masks personal data and secrets.

Metrics and traces listen to the same events at every level, so that a count and a line cannot disagree. A program
that never calls `configure` (a service that only submits) sees our events in its own standard logging.

Where an event is logged, no more is done than must be: it is completed, masked and written by a thread (`queued`).
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TextIO

import structlog
from structlog.stdlib import BoundLogger

from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_context import bind, bound, merge_bound
from langgraph_rq.shared.telemetry.log_output import (
    Event,
    EventRecord,
    GatheringListener,
    Lines,
    QueuedEvents,
    to_record,
    without_content,
)

__all__ = ["Listener", "bind", "bound", "configure", "get_logger", "listen", "queued", "reset"]

QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "redisvl", "langgraph", "asyncio", "urllib3")
"""Libraries that log each request at info; a task's own log lines say what matters."""

Listener = Callable[[Mapping[str, Any]], None]

_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()} | {"exception": logging.ERROR}
"""Methods of a logger -> the level at which they log."""
_package = logging.getLogger(__name__.partition(".")[0])
_listeners: dict[str, list[Listener]] = {}
_counted: frozenset[str] = frozenset()
"""Events that are queued for listeners at every level."""
_lines: Lines | None = None
"""The handler that writes lines, and the lowest level that it writes."""


_PROCESSORS = (merge_bound, without_content, to_record)
"""They run where an event is logged, in its context."""


class EventLogger(BoundLogger):
    """structlog's logger, but events that nothing asks for cost next to nothing."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *_event_args: str, **event_kw: Any) -> None:
        for listener in _listeners.get(event or "", ()):
            listener(event_kw)
        logger, level = self._logger, _LEVELS[method_name]
        if not logger.isEnabledFor(level) or (_lines and level < _lines.level and event not in _counted):
            return
        (message,), _ = self._process_event(method_name, event, event_kw)
        # Not by the logger's own method, which looks for the place of the call in the stack: it is structlog's.
        if _lines and logging.getLogRecordFactory() is logging.LogRecord:
            logger.handle(EventRecord(logger.name, level, message))
        else:
            logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (), None))


def get_logger(name: str) -> BoundLogger:
    """Get a logger; events are `noun.past_participle`, with values as keywords."""
    # Of our own processors, whatever the program configures: its structlog is not ours.
    logger = structlog.wrap_logger(logging.getLogger(name), processors=_PROCESSORS, wrapper_class=EventLogger)
    return logger.bind()  # type: ignore[no-any-return]


def listen(event: str, listener: Listener) -> None:
    """Call `listener` with the fields of each `event`, in the thread and context that logs it."""
    _listeners.setdefault(event, []).append(listener)


def configure(level: str = "info", *, redactor: Redactor | None = None, stream: TextIO | None = None) -> None:
    """Set up our logs and the standard library's, once per process.

    Args:
        level: The lowest that is written; listeners get all levels.
        redactor: Masks personal data and secrets; None: the default patterns.
        stream: Receives the lines; None: stderr.
    """
    global _lines  # noqa: PLW0603 - logging is set up per process, as the standard library's
    _lines = Lines(stream or sys.stderr, redactor or Redactor())
    _lines.setLevel(level.upper())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_PROCESSORS],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_lines]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("rq", "rq.worker", "uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


@contextmanager
def queued(listeners: Mapping[str, Listener] | None = None) -> Iterator[None]:
    """Let a thread write the lines and call `listeners`, in the order of the events, while the block runs.

    The first after a pause, warnings and errors at once; others within `GATHER_S`, as many by one call as a pipe takes.

    A listener gets all fields of its event, whatever the log level. At level debug each line is written before the
    call that logs it returns, to find out what ends a process.

    An event that a finalizer logs waits for no lock: not for that of a metric, which the interrupted code may hold. The
    thread counts it later. (`SimpleQueue` is reentrant, `Queue` is not.)
    """
    global _counted  # noqa: PLW0603 - see above
    root, level, is_direct = logging.getLogger(), _package.level, _lines is None or _lines.level < logging.INFO
    before = root.handlers
    handlers = ([] if _lines is None or is_direct else [_lines]) + ([_Listening(listeners)] if listeners else [])
    queue: SimpleQueue[Any] = SimpleQueue()
    thread = GatheringListener(queue, *handlers)
    events = QueuedEvents(queue, thread.hurry)
    root.handlers = [*(handler for handler in before if handler not in handlers), events]
    if listeners:
        _counted = frozenset(listeners)
        _package.setLevel(logging.DEBUG)
    if _lines in handlers:
        _lines.gathers = True
    thread.start()
    try:
        yield
    finally:
        root.handlers, _counted = before, frozenset()
        _package.setLevel(level)
        events.report_dropped()
        thread.stop()
        if _lines:
            _lines.gathers = False


def reset() -> None:
    """Undo `configure`, as far as our own events go."""
    global _lines  # noqa: PLW0603 - see above
    _lines = None


class _Listening(logging.Handler):
    """Calls the listener of each event."""

    def __init__(self, listeners: Mapping[str, Listener]) -> None:
        super().__init__()
        self._listeners = listeners

    def emit(self, record: logging.LogRecord) -> None:
        """Call the listener of one event."""
        if isinstance(record.msg, Event) and (listener := self._listeners.get(record.msg["event"])):
            try:
                listener(record.msg)
            except Exception:  # the thread must survive any of them
                _log.exception("event.not_counted", counted=record.msg["event"])


_log = get_logger(__name__)


def _reset_after_fork() -> None:
    """Write each line at once: the thread that takes events from the queue is the parent's."""
    global _counted  # noqa: PLW0603 - see above
    _counted = frozenset()
    if _lines:
        _lines.forget()
        logging.getLogger().handlers = [_lines]


os.register_at_fork(after_in_child=_reset_after_fork)
