"""The types that state may hold: how a value of each is written to msgpack, and how it is built again.

What is written is LangGraph's format (`langgraph.checkpoint.serde.jsonplus`): an extension with the type's module and
name and the value's parts. Reading differs. A name from Redis is only looked up in a dict of classes that this process
had loaded before, so that no data can name a module to import or a function to call; a name that is not there is
refused. LangGraph's own reader imports what it reads unless told not to, and where told, it gives back parts in place
of a value.
"""

import dataclasses
import ipaddress
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from importlib import import_module
from operator import attrgetter
from pathlib import Path, PosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item, SearchItem
from langgraph.types import Send
from pydantic import BaseModel, SecretBytes, SecretStr

from langgraph_rq.worker.state.refused_state import RefusedStateError, type_refused, without_form

ONE, MANY, NAMED = 0, 1, 2
"""Codes of LangGraph's extensions, by how a value is built of its parts: from one, from a list, or from a dict."""
PYDANTIC_V1, PYDANTIC, ARRAY, DELTA = 4, 5, 6, 7

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written and built.

    Attributes:
        code: Of the extension.
        name: Module and qualified name; None: the extension has no name.
        parts: What is written of a value; may hold further values with forms.
        build: Makes the value of its parts, which may be anything that a client put into Redis. What it raises is the
            error of the task.
    """

    code: int
    name: Name | None
    parts: Callable[[Any], Any]
    build: Callable[[Any], Any]

    def pack(self, value: Any) -> Any:
        """Return what the extension of `value` holds."""
        return self.parts(value) if self.name is None else [*self.name, self.parts(value)]


class AllowedTypes:
    """The types that one worker reads and writes: some of LangGraph and LangChain, and those of its graphs."""

    def __init__(self) -> None:
        self._by_type = dict(_LIBRARY_TYPES)
        self._by_name = dict(_LIBRARY_NAMES)

    def allow(self, types: Iterable[type]) -> None:
        """Allow further types; a name that is taken keeps its type.

        A class that a function makes, such as a graph's factory at each run, is a new one each time: the first stands
        for all of its name.

        Raises:
            RefusedStateError: there is no way to write this type.
        """
        for one in types:
            if _is_local(one) and (one.__module__, one.__qualname__) in self._by_name:
                continue
            form = _form(one)
            if form is None:
                raise RefusedStateError(
                    f"{one.__module__}:{one.__qualname__}: "
                    "expected a dataclass, a pydantic model, an enum or a named tuple, got another class"
                )
            self._by_type.setdefault(one, form)
            self._by_name.setdefault((one.__module__, one.__qualname__), form)

    def of(self, value: Any) -> Form:
        """Return the form of a value's type; no subclass counts as its parent, whose form would lose what it adds."""
        of = type(value)
        form = self._by_type.get(of) or _array_form(value)
        if form is not None:
            return form
        form = _form(of)
        if form is None:
            raise without_form(of)
        if not _is_local(of) or form.name not in self._by_name:
            raise type_refused(of.__module__, of.__qualname__)
        return form

    def build(self, code: int, content: Any) -> Any:
        """Build the value of an extension, which may be anything that a client put into Redis.

        Raises:
            RefusedStateError: its type is not allowed.
            Exception: of any type, when the content does not fit its type.
        """
        if code == DELTA:
            return _DeltaSnapshot(content)
        if code == ARRAY:
            return _build_array(content)
        module, name, parts = content[:3]
        form = self._by_name.get((module, name))
        if form is None:
            raise type_refused(str(module), str(name))
        return form.build(parts)


def _is_local(of: type) -> bool:
    """Whether a function has made this class."""
    return "<locals>" in of.__qualname__


def _form(of: type) -> Form | None:
    name = (of.__module__, of.__qualname__)
    if issubclass(of, Enum):
        return Form(ONE, name, attrgetter("value"), of)
    if issubclass(of, BaseModel):
        return _model_form(of, name)
    if issubclass(of, SecretStr | SecretBytes):
        return Form(ONE, name, of.get_secret_value, of)
    if issubclass(of, tuple) and hasattr(of, "_fields"):
        return Form(NAMED, name, lambda value: value._asdict(), lambda parts: of(**parts))
    if dataclasses.is_dataclass(of):
        return _dataclass_form(of, name)
    if hasattr(of, "__fields__") and hasattr(of, "construct"):
        return Form(PYDANTIC_V1, name, lambda value: dict(value.__dict__), lambda parts: _build_model(of, parts))
    return None


def _model_form(of: type[BaseModel], name: Name) -> Form:
    """A pydantic model by its fields as they are; `model_dump` would also turn the values in them into dicts."""
    fields = [field for field, info in of.model_fields.items() if not info.exclude]

    def parts(value: BaseModel) -> dict[str, Any]:
        stored, extra = value.__dict__, value.__pydantic_extra__
        found = {field: stored[field] for field in fields if field in stored}
        return {**found, **extra} if extra else found

    return Form(PYDANTIC, name, parts, lambda parts: _build_model(of, parts))


def _build_model(of: Any, parts: dict[str, Any]) -> Any:
    try:
        return of(**parts)
    except Exception:
        # A field with an alias, or a value that a node assigned and no validator saw. As in LangGraph.
        construct = of.model_construct if issubclass(of, BaseModel) else of.construct
        return construct(**parts)


def _dataclass_form(of: Any, name: Name) -> Form:
    fields = {field.name: field.init for field in dataclasses.fields(of)}

    def parts(value: Any) -> dict[str, Any]:
        return {field: getattr(value, field) for field in fields if hasattr(value, field)}

    def build(parts: dict[str, Any]) -> Any:
        # A field that a newer version of the graph has dropped is dropped here too.
        value = of(**{field: part for field, part in parts.items() if fields.get(field)})
        for field, part in parts.items():
            if fields.get(field) is False:
                object.__setattr__(value, field, part)
        return value

    return Form(NAMED, name, parts, build)


def _datetime_parts(value: datetime) -> list[Any]:
    clock = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
    return [*clock, _zone(value), *([value.fold] if value.fold else [])]


def _build_datetime(parts: Any) -> datetime:
    if isinstance(parts, str):
        return datetime.fromisoformat(parts)
    value = datetime(*parts[:8])  # noqa: DTZ001 - the eighth is its time zone
    return value.replace(fold=parts[8]) if len(parts) > 8 else value


def _time_parts(value: time) -> dict[str, Any]:
    parts = {part: getattr(value, part) for part in ("hour", "minute", "second", "microsecond", "fold")}
    return {**parts, "tzinfo": _zone(value)}


def _zone(value: datetime | time) -> tzinfo | None:
    """Return a time zone that can be written; another library's becomes the offset that it has at this time."""
    offset = value.utcoffset()
    is_known = value.tzinfo is None or type(value.tzinfo) in {timezone, ZoneInfo}
    return value.tzinfo if is_known or offset is None else timezone(offset)


def _send_parts(value: Send) -> list[Any]:
    timeout = getattr(value, "timeout", None)
    return [value.node, value.arg, *([timeout] if timeout is not None else [])]


def _build_send(parts: Any) -> Send:
    return Send(parts[0], parts[1], timeout=parts[2]) if len(parts) > 2 else Send(*parts)


def _item_form(of: type[Item]) -> Form:
    names = [*Item.__slots__, *(of.__slots__ if of is not Item else ())]
    return Form(
        NAMED,
        (of.__module__, of.__qualname__),
        lambda value: {name: getattr(value, name) for name in names},
        lambda parts: of(**parts),
    )


def _array_form(value: Any) -> Form | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or value.dtype.hasobject:
        return None
    return Form(ARRAY, None, _array_parts, _build_array)


def _array_parts(value: Any) -> list[Any]:
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return [value.dtype.str, list(value.shape), order, value.tobytes(order)]


def _build_array(content: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise type_refused("numpy", "ndarray")
    dtype, shape, order, data = content
    return numpy.frombuffer(data, dtype=numpy.dtype(str(dtype))).reshape(shape, order=order)


def _one(of: type, parts: Callable[[Any], Any], build: Callable[[Any], Any] | None = None) -> tuple[type, Form]:
    return of, Form(ONE, (of.__module__, of.__qualname__), parts, build or of)


def _standard_types() -> dict[type, Form]:
    path = Form(MANY, ("pathlib", "Path"), lambda value: list(value.parts), lambda parts: Path(*parts))
    return {
        # msgpack has no tuple and no integer of more than 64 bits.
        **dict([_one(tuple, list), _one(int, str)]),
        **dict(_one(of, list) for of in (set, frozenset, deque)),
        **dict([_one(UUID, attrgetter("hex")), _one(Decimal, str), _one(ZoneInfo, attrgetter("key"))]),
        **dict(_one(of, str) for of in (ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network)),
        **dict(_one(of, str) for of in (ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network)),
        datetime: Form(MANY, ("datetime", "datetime"), _datetime_parts, _build_datetime),
        date: Form(
            MANY,
            ("datetime", "date"),
            lambda value: [value.year, value.month, value.day],
            lambda parts: date(*parts),
        ),
        time: Form(NAMED, ("datetime", "time"), _time_parts, lambda parts: time(**parts)),
        timedelta: Form(
            MANY,
            ("datetime", "timedelta"),
            lambda value: [value.days, value.seconds, value.microseconds],
            lambda parts: timedelta(*parts),
        ),
        timezone: Form(
            MANY,
            ("datetime", "timezone"),
            lambda value: [*value.__getinitargs__()],
            lambda parts: timezone(*parts),
        ),
        re.Pattern: Form(
            MANY,
            ("re", "compile"),
            lambda value: [value.pattern, value.flags],
            lambda parts: re.compile(*parts),
        ),
        Path: path,
        PosixPath: path,
        Send: Form(MANY, (Send.__module__, Send.__qualname__), _send_parts, _build_send),
        Item: _item_form(Item),
        SearchItem: _item_form(SearchItem),
        _DeltaSnapshot: Form(DELTA, None, attrgetter("value"), _DeltaSnapshot),
    }


def _library_types() -> dict[type, Form]:
    """Add the messages and LangGraph's own types, as LangGraph lists them."""
    found = _standard_types()
    names = {form.name for form in found.values()}
    libraries = [
        getattr(import_module(module), name)
        for module, name in sorted(SAFE_MSGPACK_TYPES - names)
        if module.startswith(("langchain_core.", "langgraph."))
    ]
    for of in (*libraries, SecretStr, SecretBytes):
        form = _form(of)
        assert form, f"{of} has no form"
        found[of] = form
    return found


_LIBRARY_TYPES = _library_types()
_LIBRARY_NAMES: dict[Name, Form] = {
    **{form.name: form for form in _LIBRARY_TYPES.values() if form.name},
    # Which of them it is depends on the platform and on the version of Python.
    **{
        (module, name): _LIBRARY_TYPES[Path]
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath")
    },
}
