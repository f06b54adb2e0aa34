"""Which checkpointer and store the graphs of a project get: the worker's, or those that the project brings along.

Those of langgraph.json (`checkpointer.path`, `store.path`) are for all graphs, those that a graph was compiled with for
this graph alone. What cannot be used is replaced by the worker's, and named in one warning.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

Saver = BaseCheckpointSaver[Any]

Adopt = Callable[[Saver], Awaitable[Saver | str]]
"""Prepares a graph's own checkpointer for the worker, or returns why it cannot be used."""

IN_MEMORY = "it is in the memory of one process"
_PER_RUN = "it is made for each run"
_FOR_ALL = "langgraph.json has another one for all graphs"


@dataclass(frozen=True, slots=True)
class GraphState:
    """What graphs get that bring nothing along, and whether they may keep what they bring.

    Args:
        checkpointer: None: no graph has checkpoints.
        store: None: there is none but a graph's own.
        adopt: None: all graphs get `checkpointer`.
        keeps_stores: False: all graphs get `store`.
    """

    checkpointer: Saver | None
    store: BaseStore | None
    adopt: Adopt | None = None
    keeps_stores: bool = True

    async def choose_checkpointer(self, own: Any, *, is_per_run: bool) -> tuple[Saver | None, str | None]:
        """Return a graph's checkpointer, and why it is not the one that the graph was compiled with."""
        if not isinstance(own, BaseCheckpointSaver) or self.checkpointer is None:
            return self.checkpointer, None
        if is_per_run or self.adopt is None:
            return self.checkpointer, _PER_RUN if is_per_run else _FOR_ALL
        found = await self.adopt(own)
        return (self.checkpointer, found) if isinstance(found, str) else (found, None)

    def choose_store(self, own: BaseStore | None) -> tuple[BaseStore | None, str | None]:
        """Return a graph's store, and why it is not the one that the graph was compiled with."""
        if own is None or self.store is None:
            return own or self.store, None
        if not self.keeps_stores:
            return self.store, _FOR_ALL
        return (self.store, IN_MEMORY) if isinstance(own, InMemoryStore) else (own, None)


def replacements(found: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """Name in one warning all that was replaced.

    Args:
        found: (what was replaced, why) -> names of graphs.
    """
    parts = [f"{what} of {', '.join(graphs)} ({why})" for (what, why), graphs in found.items()]
    return [f"the worker's own replaces what graphs were compiled with: {'; '.join(parts)}"] if parts else []
