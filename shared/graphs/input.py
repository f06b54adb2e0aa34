"""What LangGraph takes as a graph's input, as workers announce it and as clients judge inputs before they are queued.

Only what LangGraph would surely refuse is refused. Its own JSON schemas do not say that: they require every key of a
TypedDict, though none is needed, and know one form of messages of the many that are taken. A key that the graph does
not take is ignored by LangGraph, so it is named in a warning and not refused. Everything else, such as a value that a
pydantic model refuses, is found by the worker before any node runs.

The announcement is a JSON object: `keys`, the keys that the graph takes; `types`, key -> JSON types of its value, for
some of them; `needs_key`, true if an input without any of the keys is refused. Without `keys` any input is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from langgraph_rq.shared.announcements.announcement import Announcement
from langgraph_rq.shared.errors import UnknownField, Violation
from langgraph_rq.shared.strict_json import kind

_SHOWN = 5
"""Warnings about one input."""

_WORDS = {"string": "a string", "number": "a number", "boolean": "true or false", "null": "null"}


@dataclass(frozen=True, slots=True)
class GraphInput(Announcement):
    """What a graph takes."""

    keys: tuple[str, ...] | None = None
    """The keys of an object; None: any JSON value is taken, and judged by the graph alone."""
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Key -> the JSON types (string, number, boolean, null) of which its value is one."""
    needs_key: bool = False
    """Whether an input is refused that has none of the keys."""

    def refuse(self, value: Any) -> list[Violation]:
        """Name what LangGraph would refuse of an input."""
        if self.keys is None:
            return []
        if not isinstance(value, dict):
            return [Violation("input", "a JSON object", kind(value))]
        if self.needs_key and value.keys().isdisjoint(self.keys):
            unknown = [self._unknown(key, value[key]) for key in value][:_SHOWN]
            return unknown or [Violation("input", f"at least one of {', '.join(self.keys)}", "an empty object")]
        return [
            Violation(f"input.{key}", " or ".join(_WORDS[one] for one in _WORDS if one in types), kind(value[key]))
            for key, types in self.types.items()
            if key in value and _json_type(value[key]) not in types
        ]

    def ignored(self, value: Any) -> list[str]:
        """Describe the keys of an input that the graph does not take: LangGraph ignores them."""
        if self.keys is None or not isinstance(value, dict):
            return []
        keys = [key for key in value if key not in self.keys]
        shown = [f"{self._unknown(key, value[key])}; the graph ignores it" for key in keys[:_SHOWN]]
        return [*shown, f"input: {len(keys) - _SHOWN} more unknown fields"] if keys[_SHOWN:] else shown

    def _unknown(self, key: str, value: Any) -> Violation:
        close = get_close_matches(key, self.keys or (), n=1)
        return UnknownField(f"input.{key[:60]}", ", ".join(self.keys or ()), kind(value), close[0] if close else None)


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "object" if isinstance(value, dict) else "array"
