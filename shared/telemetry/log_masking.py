"""Masking of log events: what may be long is cut, then personal data and secrets are masked.

Graphs log too, and what they log may come from a user, so the work for one line is bounded.
"""

from collections.abc import Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

from langgraph_rq.shared.redaction import Redactor

OURS = frozenset({"attempt", "level", "logger", "span_id", "task_id", "timestamp", "trace_id", "worker"})
"""Fields with ids and words of our own making, which need no masking."""

TEXT_CHARS = 4_096
"""Longest text in a line. Of a longer one the beginning is written, and its length."""
FIELD_CHARS = 16_384
"""Most text of one field that is a list or a mapping, such as the frames of an exception."""
_ITEM_CHARS = 8
"""What an item counts besides its text, so that a long list of numbers or empty texts ends too."""

_PLAIN = {int, float, bool}


class Masked:
    """Processor that masks texts at any depth, except in fields of `OURS`, and drops fields that are None."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Mask an event in place."""
        redact, are_some_none = self._redactor.redact, False
        for name, value in event.items():
            kind = type(value)
            if kind is str:
                if name not in OURS:
                    event[name] = (
                        redact(value) if len(value) <= TEXT_CHARS else _beginning(self._redactor, value, TEXT_CHARS)
                    )
            elif value is None:
                are_some_none = True
            elif kind not in _PLAIN and (name not in OURS or isinstance(value, str)):
                event[name] = _Field(self._redactor).mask(value)
        return {name: value for name, value in event.items() if value is not None} if are_some_none else event


class _Field:
    """One field that is more than a text, and the characters that it may still take."""

    __slots__ = ("_chars", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._chars = FIELD_CHARS

    def mask(self, value: Any) -> Any:
        """Mask a value of any kind, as far as there is room for it."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if value is None or kind in _PLAIN:
            return value
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, set | frozenset):
            value = sorted(value, key=str) if len(value) <= FIELD_CHARS else list(value)
        if not isinstance(value, list | tuple):
            return self._text(str(value))
        items: list[Any] = []
        for item in value:
            if self._chars <= 0:
                return [*items, f"... ({len(value):,} items)"]
            self._chars -= _ITEM_CHARS
            items.append(self.mask(item))
        return items

    def _mapping(self, value: Mapping[Any, Any]) -> dict[Any, Any]:
        items: dict[Any, Any] = {}
        for name, item in value.items():
            if self._chars <= 0:
                return {**items, "...": f"{len(value):,} items"}
            self._chars -= _ITEM_CHARS
            items[self.mask(name)] = self.mask(item)
        return items

    def _text(self, text: str) -> str:
        chars = max(0, min(TEXT_CHARS, self._chars))
        self._chars -= len(text)
        return self._redactor.redact(text) if len(text) <= chars else _beginning(self._redactor, text, chars)


def _beginning(redactor: Redactor, text: str, chars: int) -> str:
    return f"{redactor.redact_beginning(text, chars)}... ({len(text):,} characters)"
