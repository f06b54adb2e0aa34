"""What pydantic found wrong with a document, as violations that name the field, what was expected and what came."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from langgraph_rq.shared.errors import UnknownField, Violation
from langgraph_rq.shared.run_fields import RunConfig, StreamMode
from langgraph_rq.shared.strict_json import kind

_CHOICES = {"command.goto", "command.update", "interrupt_before", "interrupt_after"}
"""Fields that take values of several forms. pydantic has an error for each form; they become equal violations."""

_NODES = 'a list of nodes, or "*"'

EXPECTED = {
    "task_id": "letters, digits, _ and single dashes, at most 128",
    "tenant": "lower-case letters and digits, at most 32",
    "thread_id": "1 to 256 characters, none of them a control character",
    "user_id": "1 to 256 characters",
    "graph": "a name of 1 to 256 characters, none of them a control character",
    "input": "a JSON value",
    "command": "a JSON object with at least one of resume, update and goto",
    "command.goto": "a node, {node, input}, or a list of them",
    "command.update": "a JSON object, or a list of [key, value]",
    "config": f"a JSON object of {', '.join(RunConfig.model_fields)}",
    "context": "a JSON object",
    "interrupt_before": _NODES,
    "interrupt_after": _NODES,
    "checkpoint_id": "the id of a checkpoint of the thread",
    "run_at": "an instant with its offset, such as 2027-01-31T09:00:00Z",
    "metadata": "a JSON object",
    "traceparent": "a W3C traceparent",
    "stream": f"a list of {', '.join(StreamMode)}",
}
"""Field of a task -> what it takes."""


def explain_with(problem: ErrorDetails, model: type[BaseModel], expected: Mapping[str, str]) -> Violation:
    """Translate one error of pydantic.

    Args:
        problem: What was found.
        model: Of the document.
        expected: Field -> what it takes; of others, and of fields below these, pydantic's own words are used.
    """
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location)
    chosen = next((one for one in _CHOICES if field.startswith(f"{one}.")), None)
    if chosen:
        return Violation(chosen, expected[chosen], "another value")
    if problem["type"] == "extra_forbidden":
        names = [info.alias or name for name, info in _model_at(location[:-1], model).model_fields.items()]
        close = get_close_matches(location[-1], names, n=1)
        return UnknownField(field, ", ".join(names), kind(problem["input"]), close[0] if close else None)
    if problem["type"] == "missing":
        return Violation(field, expected.get(field, "a value"), "nothing")
    message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return Violation(field, expected.get(field) or message.replace("Input should ", ""), kind(problem["input"]))


def _model_at(location: list[str], model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of a nested field."""
    for name in location:
        info = model.model_fields.get(name)
        choices = get_args(info.annotation) or (info.annotation,) if info else ()
        model = next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), model)
    return model
