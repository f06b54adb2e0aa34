"""JSON schema of a graph's input, with which producers reject invalid input before it is queued."""

from collections.abc import Mapping
from typing import Any, NotRequired, Required, get_type_hints, is_typeddict

from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import PydanticUserError, TypeAdapter
from typing_extensions import TypedDict


def input_schema(graph: Pregel[Any, Any, Any, Any]) -> Mapping[str, Any]:
    """Derive the JSON schema of a graph's input.

    Raises:
        Exception: of any type, if the graph's types have no JSON schema.
    """
    try:
        return graph.get_input_jsonschema()
    except PydanticUserError as error:
        # Before Python 3.12 pydantic refuses the standard library's TypedDict, which most graphs use.
        if error.code != "typed-dict-version" or not isinstance(graph, CompiledStateGraph):
            raise
        return TypeAdapter(_backported(graph.builder.input_schema)).json_schema()


def _backported(schema: Any) -> Any:
    """Rebuild a TypedDict, with its nested ones, from typing_extensions."""
    if not is_typeddict(schema):
        return schema
    required: frozenset[str] = getattr(schema, "__required_keys__", frozenset())
    fields = {
        name: (Required if name in required else NotRequired)[_backported(kind)]
        for name, kind in get_type_hints(schema).items()
    }
    return TypedDict(schema.__name__, fields)  # type: ignore[operator]
