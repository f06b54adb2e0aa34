"""The filter of a search: which values it takes, by equality and by the operators of LangGraph's documentation."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = {"$eq", "$ne", *_ORDERS}


def check_filter(condition: Any) -> None:
    """Check the operators of a filter before anything is read.

    Raises:
        ValueError: it has one that there is not.
    """
    if isinstance(condition, list | tuple):
        for part in condition:
            check_filter(part)
    elif isinstance(condition, Mapping):
        unknown = sorted(name for name in condition if _has_operators(condition) and name not in _OPERATORS)
        if unknown:
            raise ValueError(
                f"filter: expected one of {', '.join(sorted(_OPERATORS))}, got: {', '.join(map(repr, unknown))}"
            )
        for part in condition.values():
            check_filter(part)


def fits(value: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Whether each field of `conditions` holds for `value`; a field that is missing counts as None.

    A dict without operators compares the fields that it names, a list all its members, in order.
    """
    return all(_compare(value.get(field), wanted) for field, wanted in conditions.items())


def _compare(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _has_operators(wanted):
            return all(_apply(found, name, other) for name, other in wanted.items())
        return isinstance(found, Mapping) and fits(found, wanted)
    if isinstance(wanted, list | tuple):
        is_as_long = isinstance(found, list | tuple) and len(found) == len(wanted)
        return is_as_long and all(map(_compare, found, wanted))
    return bool(found == wanted)


def _apply(found: Any, name: str, other: Any) -> bool:
    if name in _ORDERS:
        return _is_ordered(_ORDERS[name], found, other)
    return bool(found == other) == (name == "$eq")


def _is_ordered(order: Callable[[Any, Any], bool], found: Any, other: Any) -> bool:
    """Compare numbers, also in text, as numbers, and other texts as texts; nothing else has an order."""
    try:
        return order(float(found), float(other))
    except (TypeError, ValueError, OverflowError):
        return isinstance(found, str) and isinstance(other, str) and order(found, other)


def _has_operators(condition: Mapping[str, Any]) -> bool:
    return any(isinstance(name, str) and name.startswith("$") for name in condition)
