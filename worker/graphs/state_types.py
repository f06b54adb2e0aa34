"""The types of a graph's state, which its checkpoints may name: by its schemas, its channels and its nodes.

Type hints are followed into dataclasses, pydantic models, typed dicts, named tuples, unions and containers. What a hint
does not name (`Any`, a subclass of what it names) is not found; `LGRQ_STATE_TYPES` adds it.
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import Any, get_args, get_origin

from langgraph.func import _TaskFunction
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import BaseModel, SecretBytes, SecretStr
from typing_extensions import is_typeddict

from langgraph_rq.shared.errors import SettingsError

AnyGraph = Pregel[Any, Any, Any, Any]

_ROOTS = (BaseModel, Enum, SecretBytes, SecretStr)
"""Classes that are no type of a value themselves."""

_RESPONSE_FORMATS = "langchain.agents.structured_output"


def state_types(graph: AnyGraph) -> set[type]:
    """Collect the types that the state of a graph and its subgraphs may hold."""
    found: set[type] = set()
    seen: dict[int, Any] = {}
    for one in with_subgraphs(graph):
        for hint in _hints(one):
            _collect(hint, found, seen)
    return found


def with_subgraphs(graph: AnyGraph) -> Iterator[AnyGraph]:
    """Yield a graph and the graphs that are its nodes, at any depth."""
    yield graph
    for _, subgraph in graph.get_subgraphs(recurse=True):
        if isinstance(subgraph, Pregel):  # not one that runs elsewhere
            yield subgraph


def named_types(specs: str) -> list[type]:
    """Import the types of LGRQ_STATE_TYPES, "module:Class,module:Outer.Inner".

    Raises:
        SettingsError: there is no such class.
    """
    return [_named(spec) for spec in specs.replace(",", " ").split()]


def _named(spec: str) -> type:
    module, _, name = spec.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise SettingsError(
            f"LGRQ_STATE_TYPES: expected module:Class, got: {spec} ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(found, type) or not _is_named_by_data(found):
        raise SettingsError(
            f"LGRQ_STATE_TYPES: expected a dataclass, a pydantic model, an enum or a named tuple, got: {spec}"
        )
    return found


def _hints(graph: AnyGraph) -> Iterator[Any]:
    for channel in graph.channels.values():
        for kind in ("ValueType", "UpdateType"):
            with suppress(Exception):  # a channel of the user's own may have none
                yield getattr(channel, kind)
    if isinstance(graph, CompiledStateGraph):
        builder = graph.builder
        yield from (builder.state_schema, builder.input_schema, builder.output_schema, *builder.schemas)
        yield from (node.input_schema for node in builder.nodes.values())
    for node in graph.nodes.values():
        for function in (getattr(node.bound, "func", None), getattr(node.bound, "afunc", None)):
            if inspect.isfunction(function):
                yield from _hints_of_node(function)


def _hints_of_node(function: Any) -> Iterator[Any]:
    """Yield what a node takes and returns, what its tasks return, and an agent's `response_format`."""
    hints = _safe_hints(function)
    yield hints.get(next(iter(inspect.signature(function).parameters), ""))
    yield hints.get("return")
    held: list[Any] = []
    with suppress(ValueError):  # a name that the function uses has no value yet
        names = inspect.getclosurevars(function)
        held = [*names.nonlocals.values(), *names.globals.values()]
    for value in held:
        if isinstance(value, _TaskFunction):
            yield _safe_hints(value.func).get("return")
        elif type(value).__module__ == _RESPONSE_FORMATS:
            yield getattr(value, "schema", None)


def _collect(hint: Any, found: set[type], seen: dict[int, Any]) -> None:
    if id(hint) in seen:
        return
    seen[id(hint)] = hint  # kept, so that no other one gets its id
    if isinstance(hint, Enum):  # of a Literal
        hint = type(hint)
    for inner in _inner(hint):
        _collect(inner, found, seen)
    if isinstance(hint, type) and not get_args(hint) and _is_named_by_data(hint):
        found.add(hint)


def _inner(hint: Any) -> Iterable[Any]:
    """Return the hints that a hint is made of."""
    if isinstance(hint, type) and (
        is_typeddict(hint) or dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel) or _is_named_tuple(hint)
    ):
        return _hints_of_fields(hint)
    alias = None
    with suppress(Exception):  # an alias is evaluated here, and may name what does not exist
        alias = getattr(hint, "__value__", None) or getattr(hint, "__supertype__", None)
    return [*get_args(hint), get_origin(hint), alias]


@lru_cache(512)
def _hints_of_fields(of: type) -> list[Any]:
    """Return the hints of a class's fields. Kept, as a factory may make a graph of the same classes for each run."""
    fields = getattr(of, "model_fields", {}) if issubclass(of, BaseModel) else {}
    return [*_safe_hints(of).values(), *(field.annotation for field in fields.values())]


def _safe_hints(of: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(of, include_extras=True)
    except Exception:
        return {}


def _is_named_by_data(of: type) -> bool:
    if of in _ROOTS or of.__module__ in {"builtins", "typing", "enum"}:
        return False
    is_model = issubclass(of, BaseModel) or (hasattr(of, "__fields__") and hasattr(of, "construct"))
    return is_model or issubclass(of, Enum) or dataclasses.is_dataclass(of) or _is_named_tuple(of)


def _is_named_tuple(of: type) -> bool:
    return issubclass(of, tuple) and hasattr(of, "_fields")
