"""The OpenAPI document: what FastAPI writes of the routes, completed by the rules that it does not see.

Every reason for a 422 stands in it, as a rule of the schema where JSON Schema can say it, else in words: what depends
on live workers, on other fields (an `Idempotency-Key` beside a `task_id`), or on sizes.
"""

from typing import Any

from fastapi import FastAPI

from langgraph_rq.producer.gateway import problems
from langgraph_rq.producer.gateway.admission.access import is_open
from langgraph_rq.producer.gateway.tasks.bodies import UNCLEAN
from langgraph_rq.shared.strict_json import LARGEST_INT
from langgraph_rq.shared.tasks import TaskLimits

_REF = "#/components/schemas/"
_CLEAN = f"^[^{UNCLEAN}]*$"
"""Texts of bodies."""
_BY_FASTAPI = ("HTTPValidationError", "ValidationError")
"""The errors of FastAPI, which no route answers with."""


def document(app: FastAPI, limits: TaskLimits, *, has_keys: bool) -> None:
    """Complete the document that `app` describes itself with."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            schemas = schema["components"]["schemas"]
            problem = problems.Problem.model_json_schema(ref_template=f"{_REF}{{model}}")
            schemas |= {**problem.pop("$defs"), "Problem": problem, "Json": _json(limits)}
            for name in _BY_FASTAPI:
                schemas.pop(name, None)
            for path, item in schema["paths"].items():
                for operation in item.values():
                    for parameter in operation.get("parameters", ()):
                        _drop_null(parameter["schema"])
                    if has_keys and not is_open(path):
                        operation["security"] = [{"key": []}]
            for name in _bodies(schema):
                _restrict(schemas[name], limits)
            if has_keys:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_null(schema: dict[str, Any]) -> None:
    """Make the schema of a parameter that may be left out one of its value: no header or query holds a null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema |= kinds[0]


def _bodies(schema: dict[str, Any]) -> set[str]:
    """Name the schemas of bodies of requests."""
    operations = [operation for item in schema["paths"].values() for operation in item.values()]
    contents = [operation["requestBody"]["content"] for operation in operations if "requestBody" in operation]
    return {content["application/json"]["schema"]["$ref"].removeprefix(_REF) for content in contents}


def _json(limits: TaskLimits) -> dict[str, Any]:
    """Describe any JSON value that a body may hold."""
    itself = {"$ref": f"{_REF}Json"}
    return {
        "title": "Json",
        "description": (
            f"Any JSON value: at most {limits.depth} levels of nesting, and {limits.input_bytes:,} bytes as compact "
            f"JSON ({limits.metadata_bytes:,} as metadata). No text in it holds a control character, no integer is "
            "2^63 or larger."
        ),
        "anyOf": [
            {"type": ["null", "boolean"]},
            {"type": "string", "pattern": _CLEAN},
            {"type": "integer", "minimum": -LARGEST_INT, "maximum": LARGEST_INT},
            {"type": "number", "not": {"type": "integer"}},
            {"type": "array", "items": itself},
            {"type": "object", "propertyNames": {"pattern": _CLEAN}, "additionalProperties": itself},
        ],
    }


def _restrict(body: dict[str, Any], limits: TaskLimits) -> None:
    """Add the rules on all texts and values of a body, and the limits that are settings."""
    most = {"deadline_s": limits.deadline_s, "max_attempts": limits.attempts}
    for name, field in body.get("properties", {}).items():
        if name in most:
            field["maximum"] = most[name]
        for part in field.get("anyOf", [field]):
            _restrict_part(part)


def _restrict_part(part: dict[str, Any]) -> None:
    itself = {"$ref": f"{_REF}Json"}
    if part.get("type") == "object" and part.get("additionalProperties") is True:
        part["propertyNames"] = {**part.get("propertyNames", {}), "pattern": _CLEAN}
        part["additionalProperties"] = itself
    elif part.get("type") == "string":
        part.setdefault("pattern", _CLEAN)
    elif not part.keys() & {"type", "$ref", "anyOf", "const", "enum"}:
        part |= itself
