"""Mask personal data and secrets in replies: what graphs and users wrote, and no ids, with which a client asks next."""

from collections.abc import Iterator
from typing import Any

from langgraph_rq.worker.task.redacted import Redaction

_IDS = frozenset({"thread_id", "run_id", "task_id", "graph_id", "assistant_id", "parents", "source", "step"})
"""Of the metadata of a checkpoint."""

Place = tuple[dict[str, Any], str]


async def mask(redaction: Redaction, reply: Any, operation: str) -> Any:
    """Mask a reply in place.

    Args:
        redaction: The patterns.
        reply: States, items, or anything else, which has nothing to mask.
        operation: What was asked; names values that cannot be written.
    """
    places = [place for part in (reply if isinstance(reply, list) else [reply]) for place in _places(part)]
    if places:
        masked, _, _ = await redaction.as_json([owner[name] for owner, name in places], operation)
        for (owner, name), value in zip(places, masked, strict=True):
            owner[name] = value
    return reply


def _places(part: Any) -> Iterator[Place]:
    """Yield where in a state or an item there is something to mask."""
    if not isinstance(part, dict):
        return
    if "namespace" in part:
        yield part, "value"
    if "values" not in part:
        return
    yield part, "values"
    metadata = part["metadata"] or {}
    yield from ((metadata, name) for name in metadata if name not in _IDS)
    yield from ((question, "value") for question in part["interrupts"])
    for task in part["tasks"]:
        yield task, "error"
        yield task, "result"
        yield from ((question, "value") for question in task["interrupts"])
        yield from _places(task["state"])
