"""What a worker says of its graphs, for those who draw them and make forms for their input, as LangGraph's API does."""

import time
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import TypeAdapter, create_model
from redis import Redis

from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS, KEPT_S, GraphDescription
from langgraph_rq.worker.graphs.state_types import AnyGraph

_DEPTH = 5
"""Levels of subgraphs that are drawn."""


def describe(graph: AnyGraph) -> GraphDescription:
    """Draw a graph and write its schemas and those of its subgraphs; what it cannot say of itself is left out."""
    subgraphs = {name: _schemas(one) for name, one in graph.get_subgraphs(recurse=True) if isinstance(one, Pregel)}
    return GraphDescription(_drawings(graph), _schemas(graph), subgraphs)


def publish(redis: Redis, descriptions: Mapping[str, GraphDescription], *, anew: bool) -> None:
    """Write what is said of each graph, if Redis has lost it, or `anew` if it differs; it lives for another day.

    Raises:
        RedisError: Redis cannot be reached, or the key has another type.
    """
    if not descriptions or (redis.expire(GRAPH_DESCRIPTIONS, KEPT_S) and not anew):
        return
    names = list(descriptions)
    now_s = time.time()
    written: dict[Any, Any] = {}
    before: list[Any] = redis.hmget(GRAPH_DESCRIPTIONS, names)
    for position, known in enumerate(before):
        name = names[position]
        record = descriptions[name].record(now_s + position * 1e-5, before=known)  # in their order, the last is newest
        if record != known:
            written[name] = record
    if written:
        redis.hset(GRAPH_DESCRIPTIONS, mapping=written)
        redis.expire(GRAPH_DESCRIPTIONS, KEPT_S)


def _drawings(graph: AnyGraph) -> list[dict[str, Any]]:
    """Draw the graph with its subgraphs closed, then with one more level of them open, until all are."""
    found: list[dict[str, Any]] = []
    for depth in range(_DEPTH + 1):
        try:
            drawing = graph.get_graph(xray=depth or False).to_json()
        except Exception:  # a graph of an unusual class, or with edges to nowhere, still runs
            break
        for node in drawing["nodes"]:
            data = node.get("data")
            if isinstance(data, dict):
                data.pop("id", None)  # the Python module
        if found and drawing == found[-1]:
            break
        found.append(drawing)
    return found


def _schemas(graph: AnyGraph) -> dict[str, Any]:
    context = _or_none(graph.get_context_jsonschema)
    builder = graph.builder if isinstance(graph, CompiledStateGraph) else None
    return {
        "input_schema": _or_by_key(graph.get_input_jsonschema, builder and builder.input_schema),
        "output_schema": _or_by_key(graph.get_output_jsonschema, builder and builder.output_schema),
        "state_schema": _by_key(graph.get_name("State"), _channel_types(graph)),
        "config_schema": context or {},
        "context_schema": context,
    }


def _or_none(make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    try:
        return make()
    except Exception:
        return None


def _or_by_key(make: Callable[[], dict[str, Any]], schema: Any) -> dict[str, Any]:
    """Make a schema; where pydantic refuses the whole, such as a typing.TypedDict, of its keys one by one."""
    made = _or_none(make)
    if made is not None:
        return made
    try:
        hints = get_type_hints(schema, include_extras=True)
    except Exception:  # it names what does not exist, or is no class
        hints = {}
    return _by_key(getattr(schema, "__name__", "State"), hints)


def _channel_types(graph: AnyGraph) -> dict[str, Any]:
    types = {}
    for key in graph.stream_channels_list:
        try:
            types[key] = getattr(graph.channels[key], "UpdateType", Any)
        except Exception:  # a channel of the user's own may have none
            types[key] = Any
    return types


def _by_key(title: str, types: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {key: (hint if _has_schema(hint) else Any, None) for key, hint in types.items()}
    try:
        return dict(create_model(title, **fields).model_json_schema())
    except Exception:  # such as keys that no field may have
        return {"title": title, "type": "object", "properties": {key: {} for key in types}}


def _has_schema(hint: Any) -> bool:
    try:
        TypeAdapter(hint).json_schema()
    except Exception:
        return False
    return True
