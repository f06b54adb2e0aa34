"""Say what input a graph takes, as JSON schema, so that a producer can refuse a wrong one at the door."""

from collections.abc import Mapping
from typing import Any, NotRequired, Required, get_type_hints, is_typeddict

from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import PydanticUserError, TypeAdapter
from typing_extensions import TypedDict


def input_schema(graph: Pregel[Any, Any, Any, Any]) -> Mapping[str, Any]:
    """Make the JSON schema of a graph's input.

    Raises:
        Exception: of any kind, where the graph's types have none.
    """
    try:
        return graph.get_input_jsonschema()
    except PydanticUserError as error:
        # Before Python 3.12 pydantic refuses the standard library's TypedDict, which most graphs use.
        if error.code != "typed-dict-version" or not isinstance(graph, CompiledStateGraph):
            raise
        return TypeAdapter(_readable(graph.builder.input_schema)).json_schema()


def _readable(schema: Any) -> Any:
    """Make the same TypedDict by the backport, its nested ones included."""
    if not is_typeddict(schema):
        return schema
    required: frozenset[str] = getattr(schema, "__required_keys__", frozenset())
    fields = {
        name: (Required if name in required else NotRequired)[_readable(kind)]
        for name, kind in get_type_hints(schema).items()
    }
    return TypedDict(schema.__name__, fields)  # type: ignore[operator]
