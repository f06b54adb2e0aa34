"""Tell an input that LangGraph refuses from a graph that fails.

LangGraph checks an input while it runs: a reducer refuses a value, or the pydantic model or dataclass of the state does
not take the values, before the first node begins. Validating the input beforehand would judge differently: on a thread
that has a state, a part of the fields is a valid input. So the run's own error is read.
"""

import re
from collections.abc import Iterator
from traceback import walk_tb
from types import FrameType
from typing import Any

from langgraph.errors import EmptyInputError, InvalidUpdateError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from langgraph_rq.shared.errors import Violation
from langgraph_rq.shared.strict_json import kind

_STATE = "_coerce_state"
"""LangGraph's function that makes a pydantic model or a dataclass of a state, for a node that takes one."""

_WRITE = "apply_writes"
"""LangGraph's function that writes values to the state, through reducers where there are any."""

_READ = "map_input"
"""LangGraph's function that reads the input of a graph which was built without StateGraph."""

_MISSING = re.compile(r"missing \d+ required .*?arguments?: (.*)")


def read_invalid_input(error: BaseException, given: Any) -> str | None:
    """Say why LangGraph refused an input, naming fields; None: something else failed.

    Args:
        error: What ended the run, before any node began.
        given: The input.
    """
    if not isinstance(error, Exception):
        return None
    frames = {frame.f_code.co_name: frame for frame in _langgraph_frames(error)}
    if isinstance(error, ValidationError) and _STATE in frames:
        return explain_values(error, "input")
    if _STATE in frames:
        missing = _MISSING.search(str(error)) if isinstance(error, TypeError) else None
        names = re.findall(r"'(\w+)'", missing[1]) if missing else []
        return "; ".join(f"input.{name}: expected a value, got: nothing" for name in names) or f"input: {_text(error)}"
    if isinstance(error, EmptyInputError):
        return f"input: expected at least one key that the graph takes, got: {kind(given)}"
    if not isinstance(given, dict) and (isinstance(error, InvalidUpdateError) or _READ in frames):
        return f"input: expected a JSON object, got: {kind(given)}"
    if _WRITE in frames:
        channel = frames[_WRITE].f_locals.get("chan")
        return f"input.{channel}: {_text(error)}" if isinstance(channel, str) else f"input: {_text(error)}"
    return None


def _langgraph_frames(error: BaseException) -> Iterator[FrameType]:
    for frame, _ in walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith("langgraph."):
            yield frame


def explain_values(error: ValidationError, where: str) -> str:
    """Translate what a pydantic model of the user refuses; `where` is the field of the task."""
    return "; ".join(str(_violation(problem, where)) for problem in error.errors(include_url=False))


def _violation(problem: ErrorDetails, where: str) -> Violation:
    field = ".".join([where, *map(str, problem["loc"])])
    if problem["type"] == "missing":
        return Violation(field, "a value", "nothing")
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return Violation(field, expected, kind(problem["input"]))


def _text(error: Exception) -> str:
    """Take the first line: LangGraph's others link to its documentation."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
