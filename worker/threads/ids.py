"""The ids of states and items, which are not masked with the rest: they are what a client asks with next."""

from collections.abc import Mapping
from typing import Any

_OF_STATE = (
    "next", "created_at", "checkpoint", "parent_checkpoint", "checkpoint_id", "parent_checkpoint_id", "configurable",
)  # fmt: skip
_OF_METADATA = ("thread_id", "run_id", "task_id", "graph_id", "assistant_id", "parents")
_OF_TASK = ("id", "name", "path", "checkpoint")
_OF_ITEM = ("namespace", "key", "created_at", "updated_at")


def with_ids(masked: Any, value: Any) -> Any:
    """Put the ids of a reply back into its masked JSON, which is changed.

    Args:
        masked: States, items, namespaces or a checkpoint, of which all strings were masked.
        value: The same as it was. What is in a state's values is not looked at.
    """
    if isinstance(value, list):
        if all(isinstance(one, Mapping) for one in value):
            return [with_ids(*pair) for pair in zip(masked, value, strict=True)]
        return value  # namespaces
    if not isinstance(value, Mapping):
        return masked
    if "namespace" in value:
        return masked | {name: value[name] for name in _OF_ITEM}
    masked |= {name: value[name] for name in _OF_STATE if name in value}
    if value.get("metadata"):
        masked["metadata"] |= {name: value["metadata"][name] for name in _OF_METADATA if name in value["metadata"]}
    _restore_questions(masked, value)
    for hidden, task in zip(masked.get("tasks", ()), value.get("tasks", ()), strict=True):
        hidden |= {name: task[name] for name in _OF_TASK}
        _restore_questions(hidden, task)
        if task["state"]:
            hidden["state"] = with_ids(hidden["state"], task["state"])
    return masked


def _restore_questions(masked: dict[str, Any], value: Mapping[str, Any]) -> None:
    for hidden, question in zip(masked.get("interrupts", ()), value.get("interrupts", ()), strict=True):
        hidden["id"] = question["id"]
