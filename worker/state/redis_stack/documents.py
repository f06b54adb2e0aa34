"""Values in JSON documents: the texts of `StateSerializer`, as two fields."""

import base64
from typing import Any

import orjson

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
