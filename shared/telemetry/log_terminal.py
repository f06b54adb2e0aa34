"""Log lines for a terminal: one per event; the time, what happened, then task, node, model and cost, then the rest.

Ids are short. Left out is what each line of a task repeats, such as its thread, and of an exception all calls but the
last one of the user's own code; the lines of a file or a pipe have all.
"""

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.typing import EventDict, WrappedLogger

from langgraph_rq.shared.control_characters import visible

_REPEATED = frozenset({"logger", "thread_id", "user_id", "trace_id", "span_id"})
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_EVENT_CHARS = 18
_OWN = "> "
"""Marks frames of the user's own code."""
_SMALL_USD = 0.01


class TerminalRenderer:
    """Renders an event as one line of text, coloured unless NO_COLOR is set (https://no-color.org)."""

    def __init__(self) -> None:
        has_colors = not os.environ.get("NO_COLOR")
        styles = ConsoleRenderer.get_default_column_styles(has_colors)

        def text(style: str, width: int = 0) -> KeyValueColumnFormatter:
            return KeyValueColumnFormatter(None, style, styles.reset, str, width)

        levels = {
            name: style
            for name, style in ConsoleRenderer.get_default_level_styles(has_colors).items()
            if name in {"debug", "info", "warning", "error"}
        }
        self._render = ConsoleRenderer(
            sort_keys=False,
            columns=[
                Column("", KeyValueColumnFormatter(styles.kv_key, styles.kv_value, styles.reset, _quoted)),
                Column("timestamp", text(styles.timestamp)),
                Column("level", LogLevelColumnFormatter(levels, styles.reset)),
                Column("event", text(styles.bright, _EVENT_CHARS)),
                Column("task_id", text(styles.kv_key)),
                Column("node", text(styles.bright)),
                Column("model", text(styles.logger_name)),
                Column("cost", text(styles.bright)),
            ],
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Render one event. Control characters are escaped: a value must not begin a line or colour the terminal."""
        return self._render(logger, method, {visible(name): _shown(value) for name, value in _columns(event).items()})


def _columns(event: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in event.items() if name not in _REPEATED}
    shown["timestamp"] = f"{datetime.fromisoformat(event['timestamp']).astimezone():%H:%M:%S}"
    if shown.get("task_id"):
        shown.pop("worker", None)
    if shown.get("attempt") == 1:
        del shown["attempt"]
    if graph := shown.pop("graph", None):
        shown.setdefault("node", graph)
    if "worker" in shown:
        shown["worker"] = str(shown["worker"]).rpartition("-")[2]
    if nano_usd := shown.pop("cost_nano_usd", None):
        usd = nano_usd / 1e9
        shown["cost"] = f"${usd:.2f}" if usd >= _SMALL_USD else f"${usd:.6f}"
    frames = shown.pop("frames", None)
    raised = shown.pop("exception", None)  # structlog would write it in lines of its own
    if isinstance(raised, Mapping):
        shown["error"] = ": ".join(raised[name] for name in ("type", "message") if name in raised)
        frames = raised["frames"]
    elif raised:
        shown["error"] = f"{shown.get('error')}: {raised}"
    if frames:
        own = [frame.removeprefix(_OWN) for frame in frames if frame.startswith(_OWN)]
        shown["in"] = (own or frames)[-1].strip()
    return {name: value for name, value in shown.items() if value is not None}


def _shown(value: Any) -> str:
    text = visible(", ".join(map(str, value)) if isinstance(value, list) else str(value))
    return text[:8] if _UUID.fullmatch(text) else text


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if set(text) & {" ", "=", '"', "'"} or not text else text
