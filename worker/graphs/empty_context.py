"""The context of a task that gives none: `{}`, as LangGraph Server passes it, so that a schema's defaults apply."""

import dataclasses
from typing import Any

from langgraph.pregel import Pregel
from pydantic import BaseModel


def empty_context(graph: Pregel[Any, Any, Any, Any]) -> Any:
    """Return `{}` for a graph whose `context_schema` needs no value, which LangGraph then makes an object of it.

    None: it has no schema, or one that wants a value; its nodes find no context then, as with LangGraph alone.
    """
    schema = graph.context_schema
    if schema is None:
        return None
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        is_taken = not any(field.is_required() for field in schema.model_fields.values())
    elif dataclasses.is_dataclass(schema):
        is_taken = all(_has_default(field) for field in dataclasses.fields(schema) if field.init)
    else:  # a typed dict is not checked
        is_taken = True
    return {} if is_taken else None


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
