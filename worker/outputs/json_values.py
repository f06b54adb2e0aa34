"""Write any value of a graph as JSON, as LangGraph Server does: nothing that was computed is lost by its encoding.

    bytes, bytearray, memoryview        base64
    NaN, infinity                       null
    numpy arrays and numbers            lists and numbers
    pydantic models, messages           all of their fields, also empty ones
    dataclasses, named tuples           objects; of dataclasses without fields that begin with an underscore
    sets, deques, ranges                lists
    enums                               their values
    Decimals                            integers where they have no decimals, else floating-point numbers
    exceptions                          {error: class, message}
    dates, UUIDs, paths, IP addresses   text; a timedelta is its seconds, a pattern its text
    lone surrogates in text             ?
    keys of other types                 text

Further than LangGraph Server, which ends the run: integers of any size stay numbers, and a key of any type is written.
What has no JSON form at all (a function, a socket, what refers to itself) becomes null, as there, and is named.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta, tzinfo
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from typing import Any

import orjson
from langgraph.types import Send

from langgraph_rq.shared.strict_json import read_json

DEEPEST = 150
"""Levels of nesting that are written; pydantic, which our client reads with, takes 200 of a document."""
NAMED = 20
"""So many keys that were not written are named, and how many there are besides."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_LEAST, _MOST = -(2**63), 2**64 - 1
"""The integers that orjson writes."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXT = 1_000
"""Longest text of a value that has no JSON form."""
_SHOWN = 60
"""Longest key in a name."""

_DUMPS = ("model_dump", "dict", "_asdict")
"""Methods by which values give their fields: pydantic's, its first version's, named tuples'."""

EditBytes = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as JSON; `not_written` names what became null: `result.answer.connection: socket`."""

    text: bytes
    not_written: tuple[str, ...] = ()


def encode(value: Any, name: str, edit_bytes: EditBytes | None = None, *, has_texts: bool = False) -> Encoded:
    """Write a value as JSON. Never fails for what it holds.

    Args:
        value: What a graph made.
        name: Begins the names of keys that are not written.
        edit_bytes: Applied to bytes before they are encoded.
        has_texts: Write the text of a value that has no JSON form, instead of null: for what is only to be looked at.
    """
    try:
        text = orjson.dumps(value, _expansion(edit_bytes), _OPTIONS)
        if _is_readable(text):
            return Encoded(text)
    except TypeError:  # orjson's errors are of this type
        pass
    walk = _Walk(name, edit_bytes, has_texts=has_texts)
    return Encoded(orjson.dumps(walk.plain(value), option=_OPTIONS), walk.names())


def as_json(value: Any) -> Any:
    """Return a value as it is read back from its JSON."""
    return read_json(encode(value, "").text)


def _is_readable(text: bytes) -> bool:
    """Whether it is nested so little that any reader takes it, also inside a document."""
    if text.count(b"[") + text.count(b"{") <= DEEPEST:
        return True
    try:
        read_json(b"[[[[%b]]]]" % text)
    except ValueError:
        return False
    return True


class _Walk:
    """Makes what orjson writes of a value that it refuses, and notes what cannot be written."""

    def __init__(self, name: str, edit_bytes: EditBytes | None, *, has_texts: bool) -> None:
        self._expand = _expansion(edit_bytes)
        self._has_texts = has_texts
        self._place = [name]
        self._open: set[int] = set()
        self._not_written: list[str] = []
        self._count = 0

    def names(self) -> tuple[str, ...]:
        """Name what became null."""
        more = self._count - len(self._not_written)
        return (*self._not_written, f"{more:,} more") if more else tuple(self._not_written)

    def plain(self, value: Any) -> Any:
        """Return an equal value that orjson writes."""
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, str):
            return _SURROGATE.sub("?", value)
        try:
            if isinstance(value, int) and not _LEAST <= value <= _MOST:
                return orjson.Fragment(str(int(value)))
            if id(value) in self._open:
                return self._miss("a reference to what holds it")
            if len(self._open) >= DEEPEST:
                return self._miss(f"nested deeper than {DEEPEST} levels")
            with self._opened(value):
                return self._inside(value)
        except Exception:  # a property or a method of the value's own may raise anything
            text = _text(value) if self._has_texts else None
            if text is None:
                self._miss(type(value).__name__)
            return text

    def _inside(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {_key(key): self._at(f".{key!s:.{_SHOWN}}", item) for key, item in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            return [self._at(f"[{i}]", item) for i, item in enumerate(value)]
        if is_dataclass(value) and not isinstance(value, type):
            names = [one.name for one in fields(value) if not one.name.startswith("_")]
            return {name: self._at(f".{name}", getattr(value, name)) for name in names}
        try:
            return orjson.Fragment(orjson.dumps(value, option=_OPTIONS))
        except TypeError:
            return self.plain(self._expand(value))

    def _at(self, step: str, value: Any) -> Any:
        self._place.append(step)
        try:
            return self.plain(value)
        finally:
            self._place.pop()

    @contextmanager
    def _opened(self, value: Any) -> Iterator[None]:
        self._open.add(id(value))
        try:
            yield
        finally:
            self._open.discard(id(value))

    def _miss(self, what: str) -> None:
        self._count += 1
        if len(self._not_written) < NAMED:
            self._not_written.append(_SURROGATE.sub("?", f"{''.join(self._place)}: {what}"))


def _text(value: Any) -> str | None:
    try:
        return _SURROGATE.sub("?", str(value))[:_TEXT]
    except Exception:  # its own method, too
        return None


def _key(key: Any) -> str:
    """Write a key as orjson does, or else as text."""
    if isinstance(key, str):
        return _SURROGATE.sub("?", key)
    try:
        (text,) = orjson.loads(orjson.dumps({key: None}, option=_OPTIONS))
    except TypeError:
        text = b64encode(key).decode() if isinstance(key, bytes) else _SURROGATE.sub("?", str(key))
    return str(text)


def _expansion(edit_bytes: EditBytes | None) -> Callable[[Any], Any]:
    """Return what makes a simpler value of one that orjson does not know; it raises TypeError if there is none."""

    def expand(value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            raw = bytes(value)
            return b64encode(edit_bytes(raw) if edit_bytes else raw).decode()
        return _expand(value)

    return expand


def _expand(value: Any) -> Any:
    if isinstance(value, type):
        raise TypeError
    for name in _DUMPS:
        dump = getattr(value, name, None)
        if callable(dump):
            return dump()
    for kinds, write in _WRITERS:
        if isinstance(value, kinds):
            return write(value)
    if callable(getattr(value, "tolist", None)):  # numpy's and its kin's, where orjson does not write them itself
        return value.tolist()
    raise TypeError


def _decimal(value: Decimal) -> int | float:
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)


_WRITERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (BaseException, lambda value: {"error": type(value).__name__, "message": str(value)}),
    (Mapping, dict),
    ((AbstractSet, Sequence, ValuesView), list),
    (tzinfo, lambda value: value.tzname(None)),
    (timedelta, timedelta.total_seconds),
    (Decimal, _decimal),
    ((PurePath, IPv4Address, IPv4Network, IPv6Address, IPv6Network, complex), str),
    (re.Pattern, lambda value: value.pattern),
    (Send, lambda value: {"node": value.node, "arg": value.arg}),
)
