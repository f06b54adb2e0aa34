"""Paths into an object, such as `values.messages[0].content` and `metadata.title`."""

import re
from collections.abc import Mapping
from typing import Any

_STEP = re.compile(r"([^.\[\]]+)|\[(-?\d{1,9})\]")


def select_paths(value: Any, paths: Mapping[str, str]) -> dict[str, Any]:
    """Return what stands at each path, by alias; None where there is nothing."""
    return {alias: _at(value, path) for alias, path in paths.items()}


def _at(value: Any, path: str) -> Any:
    steps = _STEP.findall(path)
    if not steps:
        return None
    for name, index in steps:
        try:
            value = value[int(index)] if index else value[name]
        except (LookupError, TypeError):
            return None
    return value
