"""JSON from outside: refuse what is too deep, too long, not finite or not Unicode."""

import json
import math
from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from langgraph_rq.shared.errors import Violation

LARGEST_INT = 2**63 - 1
_SHOWN = 60


def read_json(text: str | bytes) -> Any:
    """Parse strict JSON: no NaN, no Infinity, no nesting that would exhaust the stack.

    Raises:
        ValueError: saying where the text stops being JSON.
    """
    return from_json(text, allow_inf_nan=False, cache_strings="keys")


def unsafe_parts(value: Any, path: str, depth: int, size_bytes: int) -> Iterator[Violation]:
    """Name everything in `value` that JSON cannot carry safely, and its depth or size when over the limit."""
    problem = _first_unsafe(value, path, depth)
    if problem:
        yield problem
        return
    try:
        length = len(to_json(value))
    except (PydanticSerializationError, ValueError) as error:
        if "surrogates not allowed" in str(error):
            yield Violation(path, "Unicode text", "half of a pair of surrogates")
        else:
            yield Violation(path, "JSON", str(error))
        return
    if length > size_bytes:
        yield Violation(path, f"at most {size_bytes:,} bytes", f"{length:,}")


def _first_unsafe(value: Any, path: str, depth: int) -> Violation | None:
    open_parts: list[tuple[Any, str, int]] = [(value, path, 0)]
    while open_parts:
        part, where, level = open_parts.pop()
        if level > depth:
            return Violation(path, f"at most {depth} levels of nesting", f"more at {where[:_SHOWN]}")
        if isinstance(part, dict):
            wrong = [name for name in part if not isinstance(name, str)]
            if wrong:  # JSON would make a text of it, and the graph get another key
                return Violation(where, "text as keys of an object", kind(wrong[0]))
            open_parts += [(item, f"{where}.{name}", level + 1) for name, item in part.items()]
        elif isinstance(part, list | tuple):
            open_parts += [(item, f"{where}[{i}]", level + 1) for i, item in enumerate(part)]
        elif isinstance(part, float) and not math.isfinite(part):
            return Violation(where, "a finite number", str(part))
        elif isinstance(part, int) and abs(part) > LARGEST_INT:
            return Violation(where, "an integer below 2^63", f"one of {part.bit_length()} bits")
    return None


def kind(value: Any) -> str:
    """Show a value in an error message: short values as JSON, others by type and size."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"a string of {len(value)} characters"
    try:
        return json.dumps(value)[: _SHOWN + 2]
    except (TypeError, ValueError):
        return type(value).__name__
