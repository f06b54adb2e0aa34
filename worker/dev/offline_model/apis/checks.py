"""Checks that OpenAI's APIs have in common, with their error messages and codes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_rq.worker.dev.offline_model.chat_request import Tool
from langgraph_rq.worker.dev.offline_model.errors import ApiError, Json

_NAME_LIMIT = 64
_TOOL_LIMIT = 128
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

_TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "decimal", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Range:
    """The bounds of a number; `is_whole`: only integers."""

    low: float
    high: float | None = None
    is_whole: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuse a value of another type or out of bounds."""
        kind = "integer" if self.is_whole else "decimal"
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            raise wrong_type(name, f"{'an' if self.is_whole else 'a'} {kind}", value)
        if value < self.low:
            expected, which, code = f">= {self.low}", "below minimum", "below_min"
        elif self.high is not None and value > self.high:
            expected, which, code = f"<= {self.high}", "above maximum", "above_max"
        else:
            return
        message = f"Invalid '{name}': {kind} {which} value. Expected a value {expected}, but got {value} instead."
        raise ApiError(message, name, f"{kind}_{code}_value")


def check_ranges(body: Json, ranges: Mapping[str, Range]) -> None:
    """Refuse numbers of another type or out of bounds; null is none."""
    for name, value in body.items():
        if name in ranges and value is not None:
            ranges[name].check(name, value)


def check_fields(body: Json, known: frozenset[str]) -> None:
    """Refuse unknown fields."""
    if not known.issuperset(body):
        name = min(body.keys() - known)
        raise ApiError(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def model_of(body: Json) -> str:
    """Read the model's name."""
    model = body.get("model")
    if model is None or model == "":
        raise ApiError("you must provide a model parameter")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    return model


def wrong_type(name: str, expected: str, value: Any) -> ApiError:
    """Return the error for a value of another type."""
    found = _TYPE_NAMES.get(type(value))
    got = "null" if found is None else f"{'an' if found[0] in 'aio' else 'a'} {found}"
    return ApiError(f"Invalid type for '{name}': expected {expected}, but got {got} instead.", name, "invalid_type")


def unknown_value(name: str, value: Any, supported: Collection[str]) -> ApiError:
    """Return the error for a value that is none of those supported."""
    *others, last = (f"'{one}'" for one in supported)
    listed = f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}" if others else last
    return ApiError(f"Invalid value: '{value}'. Supported values are: {listed}.", name, "invalid_value")


def missing(name: str) -> ApiError:
    """Return the error for a required field that is absent."""
    return ApiError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def empty_array(name: str) -> ApiError:
    """Return the error for an array that must not be empty."""
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return ApiError(message, name, "empty_array")


def too_long(name: str, kind: str, limit: int, length: int) -> ApiError:
    """Return the error for a string or an array (`kind`) of more than `limit`."""
    article = "an" if kind == "array" else "a"
    message = (
        f"Invalid '{name}': {kind} too long. Expected {article} {kind} with maximum length {limit}, "
        f"but got {article} {kind} with length {length} instead."
    )
    return ApiError(message, name, f"{kind}_above_max_length")


def array_of(body: Json, name: str, limit: int | None = None) -> list[Any]:
    """Read an array that may be absent, but not empty."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type(name, "an array of objects", value)
    if not value:
        raise empty_array(name)
    if limit is not None and len(value) > limit:
        raise too_long(name, "array", limit, len(value))
    return value


def tools_of(body: Json) -> list[Any]:
    """Read the tools as they came."""
    return array_of(body, "tools", _TOOL_LIMIT)


def check_name(name: str, value: Any) -> str:
    """Refuse a function's name that the API does not take."""
    if value is None:
        raise missing(name)
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    if len(value) > _NAME_LIMIT:
        raise too_long(name, "string", _NAME_LIMIT, len(value))
    if not value or not NAME_CHARACTERS.issuperset(value):
        pattern = "^[a-zA-Z0-9_-]+$"
        message = (
            f"Invalid '{name}': string does not match pattern. Expected a string that matches the pattern '{pattern}'."
        )
        raise ApiError(message, name, "invalid_value")
    return value


def check_choice(names: Collection[str], tools: Sequence[Tool]) -> frozenset[str]:
    """Refuse a choice of tools that are not there."""
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise ApiError(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
    return frozenset(names)
