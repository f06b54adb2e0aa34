"""What a graph takes as input, read from its channels and the types of its first nodes."""

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from langgraph.channels import LastValue
from langgraph.graph import START
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from langgraph_rq.shared.graphs.input import GraphInput

_ROOT = "__root__"
"""LangGraph's channel of a state that is no object with keys."""

_LAX = ("string", "number", "boolean")
_TAKEN = {str: ("string",), int: _LAX, float: _LAX, bool: _LAX, NoneType: ("null",)}
"""Annotation -> JSON types that pydantic may convert to it."""


def graph_input(graph: Pregel[Any, Any, Any, Any]) -> GraphInput:
    """Say what LangGraph takes as the input of `graph`, as far as that is certain."""
    if isinstance(graph, CompiledStateGraph):
        builder = graph.builder
        managed = builder.managed
        keys = tuple(key for key in builder.schemas[builder.input_schema] if key not in managed)
        return GraphInput() if keys == (_ROOT,) else GraphInput(keys, dict(_types(graph, keys)))
    if isinstance(graph.input_channels, str):  # of the functional API: the function judges its argument
        return GraphInput()
    return GraphInput(tuple(graph.input_channels), needs_key=True)


def _types(
    graph: CompiledStateGraph[Any, Any, Any, Any], keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name the types of plain fields of pydantic models that nodes which always run first take.

    LangGraph makes such a model of the state before the node begins; it checks neither a TypedDict nor a dataclass.
    """
    for start, node in graph.builder.edges:
        first = graph.builder.nodes.get(node)
        if start == START and first and not first.defer:
            for key, types in _plain_fields(first.input_schema).items():
                if key in keys and type(graph.channels[key]) is LastValue:  # others change the value
                    yield key, types


def _plain_fields(model: Any) -> Mapping[str, tuple[str, ...]]:
    """Return the fields whose value pydantic judges by its type alone; none of a model with code of its own."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
        return {}
    decorators = model.__pydantic_decorators__
    has_code = (
        decorators.field_validators
        or decorators.model_validators
        or decorators.validators
        or decorators.root_validators
        or model.__init__ is not BaseModel.__init__
        or model.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]
        or model.model_config.get("coerce_numbers_to_str")
    )
    if has_code:
        return {}
    return {name: types for name, info in model.model_fields.items() if (types := _types_of(info))}


def _types_of(info: FieldInfo) -> tuple[str, ...]:
    if info.alias or info.validation_alias or info.metadata:
        return ()
    is_union = get_origin(info.annotation) in {Union, UnionType}
    parts = get_args(info.annotation) if is_union else (info.annotation,)
    if not all(isinstance(part, type) and part in _TAKEN for part in parts):
        return ()
    return tuple(sorted({one for part in parts for one in _TAKEN[part]}))
