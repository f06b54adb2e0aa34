"""Ids of checkpoints that are later than those that were read, whatever the clocks of the workers say.

The newest checkpoint of a thread is the one with the greatest id, and LangGraph makes an id of its process's clock. A
worker whose clock is behind would write checkpoints below those of the turn before, and the thread would lose a turn.
So a process that reads an id makes later ones from then on, as a logical clock does.
"""

from uuid import UUID

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.base import id as ids

_TICKS_END = 1 << 59
"""The first tick (100 ns since 1582) that is not followed: of the year 3409. An id that anybody planted may hold more
than there is room for."""


def follow(checkpoint_id: str) -> None:
    """Let the ids that this process makes be later than `checkpoint_id`, which may be anything."""
    try:
        found = UUID(checkpoint_id)
    except (AttributeError, TypeError, ValueError):
        return
    ticks = found.int >> 80 << 12 | found.int >> 64 & 0xFFF
    if found.version == 6 and (ids._last_v6_timestamp or 0) < ticks < _TICKS_END:  # noqa: SLF001 - there is no other way
        ids._last_v6_timestamp = ticks  # type: ignore[assignment] # noqa: SLF001


def followed(found: CheckpointTuple | None) -> CheckpointTuple | None:
    """Follow the id of a checkpoint that was read, and return the checkpoint."""
    if found:
        follow(found.checkpoint["id"])
    return found
