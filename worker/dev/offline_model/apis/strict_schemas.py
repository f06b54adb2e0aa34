"""Which JSON schemas OpenAI accepts where `strict` is set: every object is closed and all its properties are required.

Other limits (nesting, sizes, keywords that are not supported) are not checked.
"""

from collections.abc import Iterator
from typing import Any

from langgraph_rq.worker.dev.offline_model.errors import ApiError, Json


def check_strict(schema: Any, subject: str, param: str, code: str | None) -> None:
    """Refuse a schema; `subject` names it in the error, such as `response_format 'Plan'`."""
    for path, problem in _problems(schema, ()):
        context = f"({', '.join(repr(step) for step in path)}{',' if len(path) == 1 else ''})"
        raise ApiError(f"Invalid schema for {subject}: In context={context}, {problem}.", param, code)


def _problems(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(schema, dict):
        return
    properties: Json = schema.get("properties") or {}
    if schema.get("type") == "object" or properties:
        if schema.get("additionalProperties") is not False:
            yield path, "'additionalProperties' is required to be supplied and to be false"
        absent = [name for name in properties if name not in schema.get("required", ())]
        if absent:
            message = "'required' is required to be supplied and to be an array including every key in properties"
            yield path, f"{message}. Missing '{absent[0]}'"
    for group in ("properties", "$defs", "definitions"):
        for name, part in (schema.get(group) or {}).items():
            yield from _problems(part, (*path, group, name))
    for group in ("anyOf", "prefixItems"):
        for i, part in enumerate(schema.get(group) or ()):
            yield from _problems(part, (*path, group, str(i)))
    yield from _problems(schema.get("items"), (*path, "items"))
