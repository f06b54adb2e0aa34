"""What JSON documents hold: values, as texts of `StateSerializer`; names and order of writes."""

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from langgraph.checkpoint.base import CheckpointTuple, writes_sort_key

from langgraph_rq.worker.state.redis_stack.thread_keys import given_config
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer


def write_text(serializer: StateSerializer, value: Any) -> dict[str, str]:
    """Write a value as two fields of a JSON document."""
    kind, data = serializer.dumps_typed(value)
    return {"type": kind, "blob": base64.b64encode(data).decode()}


def read_value(serializer: StateSerializer, document: Any) -> Any:
    """Read a value that `write_text` wrote, of a document that may be anything."""
    try:
        fields = document if isinstance(document, dict) else orjson.loads(document)
        kind, data = fields["type"], base64.b64decode(fields["blob"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedStateError(f"state: expected what a worker wrote, got: another document ({error!r})") from None
    return serializer.loads_typed((str(kind), data))


def order_of(write: Any) -> tuple[Any, ...]:
    """Return what LangGraph orders pending writes by, of a document that may be anything."""
    fields = write if isinstance(write, dict) else {}
    index = fields.get("idx")
    return writes_sort_key(str(fields.get("task_path")), str(fields.get("task_id")), index if type(index) is int else 0)


def names_of(write: Any) -> tuple[str, str]:
    """Return the node's task and the channel of a pending write, of a document that may be anything."""
    return (str(write.get("task_id")), str(write.get("channel"))) if isinstance(write, dict) else ("", "")


def is_asked_for(found: CheckpointTuple, named: Mapping[str, Any], last: str | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of the thread and the namespace, if they are named, before `last`, and as `wanted`."""
    place = found.config["configurable"]
    return (
        named.get("thread_id") in {None, place["thread_id"]}  # the search takes capital letters for small ones
        and named.get("checkpoint_ns") in {None, place["checkpoint_ns"]}
        and (not last or place["checkpoint_id"] < last)
        and all(found.metadata.get(name) == value for name, value in wanted.items())
    )


def read_tuple(serializer: StateSerializer, found: CheckpointTuple) -> CheckpointTuple:
    """Read what the library has left as it is stored."""
    parent = given_config(found.parent_config) if found.parent_config else None
    return found._replace(
        config=given_config(found.config), parent_config=parent, metadata=read_value(serializer, found.metadata)
    )
