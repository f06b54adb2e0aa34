"""A state of a thread as LangGraph's API shows it."""

from collections.abc import Mapping
from typing import Any

from langgraph.types import Interrupt, PregelTask, StateSnapshot

_SHOWN = ("checkpoint_id", "thread_id", "checkpoint_ns", "checkpoint_map")


def thread_state(snapshot: StateSnapshot, thread_id: str) -> dict[str, Any]:
    """Write a state.

    Args:
        snapshot: The state.
        thread_id: The thread as its tenant knows it: metadata and checkpoints name the one in Redis.
    """
    checkpoint = _checkpoint(snapshot.config, thread_id)
    parent = _checkpoint(snapshot.parent_config, thread_id)
    metadata: dict[str, Any] | None = dict(snapshot.metadata) if snapshot.metadata is not None else None
    if metadata is not None:
        metadata["thread_id"] = thread_id
        if isinstance(task_id := metadata.get("task_id"), str):
            metadata["task_id"] = task_id.rpartition("--")[2]
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task(task, thread_id) for task in snapshot.tasks],
        "metadata": metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [interrupt for task in snapshot.tasks for interrupt in _interrupts(task)],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def _task(task: PregelTask, thread_id: str) -> dict[str, Any]:
    nested = task.state if isinstance(task.state, StateSnapshot) else None
    place: Mapping[str, Any] = task.state if isinstance(task.state, dict) else {}
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": task.error if task.error is None or isinstance(task.error, str) else repr(task.error),
        "interrupts": _interrupts(task),
        "checkpoint": _place(place, thread_id) if place else None,
        "state": thread_state(nested, thread_id) if nested else None,
        "result": task.result,
    }


def _interrupts(task: PregelTask) -> list[dict[str, Any]]:
    return [_interrupt(one) for one in task.interrupts]


def _interrupt(asked: Interrupt) -> dict[str, Any]:
    """Write a question, with the schema of its answer if the node gave one."""
    schema = {} if asked.response_schema is None else {"response_schema": asked.response_schema}
    return {"id": asked.id, "value": asked.value, **schema}


def _checkpoint(config: Mapping[str, Any] | None, thread_id: str) -> dict[str, Any] | None:
    """Name a checkpoint; None: there is none, as on a thread without any."""
    place = _place(config or {}, thread_id)
    return place if "checkpoint_id" in place else None


def _place(config: Mapping[str, Any], thread_id: str) -> dict[str, Any]:
    known = config.get("configurable", {})
    return {name: thread_id if name == "thread_id" else known[name] for name in _SHOWN if name in known}
