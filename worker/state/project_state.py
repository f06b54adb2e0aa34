"""The checkpointer and the store that langgraph.json names, `checkpointer.path` and `store.path`.

Each is what a graph's entry may be: the thing itself, or a function, sync or async, or a context manager that makes it,
called once in the worker's event loop and left when the worker ends.
"""

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from langgraph_rq.worker.graphs.brought_state import IN_MEMORY
from langgraph_rq.worker.graphs.factories import enter
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph, load_attribute, one_line
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson
from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer, adopted, refusal


@dataclass(frozen=True, slots=True)
class ProjectState:
    """What langgraph.json names and the worker uses; None: nothing."""

    checkpointer: ProjectCheckpointer | None
    store: BaseStore | None
    warnings: tuple[str, ...]
    """What it names and the worker cannot use."""


def unencrypted(brought: ProjectState, graphs: Iterable[LoadedGraph | GraphPerRun]) -> list[str]:
    """Warn that a state key, which is set, is not for what the project keeps itself."""
    own = [brought.checkpointer, brought.store, *(getattr(one, "own_checkpointer", None) for one in graphs)]
    names = sorted({type(one).__name__ for one in own if one is not None})
    return [f"LGRQ_STATE_KEY does not encrypt what {', '.join(names)} of the project keeps"] if names else []


async def open_project_state(
    config: LanggraphJson, stack: AsyncExitStack, is_fenced: Callable[[], bool], *, keeps_checkpoints: bool
) -> ProjectState:
    """Open both, where they are named.

    Args:
        config: The langgraph.json.
        stack: Leaves them.
        is_fenced: Whether this worker has lost its lease; then no checkpoint is written.
        keeps_checkpoints: Whether graphs have checkpoints at all.

    Raises:
        GraphLoadError: one does not load, or the checkpointer cannot be read.
    """
    warnings, store, checkpointer = list[str](), None, None
    if config.store_path:
        where = f"{config.path}: store.path ({config.store_path})"
        found: Any = await _open(config, config.store_path, where, BaseStore, stack)
        if isinstance(found, InMemoryStore):
            warnings.append(_replaced(where, found, IN_MEMORY))
        else:
            store = found
    if config.checkpointer_path and keeps_checkpoints:
        where = f"{config.path}: checkpointer.path ({config.checkpointer_path})"
        found = await _open(config, config.checkpointer_path, where, BaseCheckpointSaver, stack)
        try:
            made = await adopt(is_fenced, found)
        except Exception as error:
            raise GraphLoadError(f"{where}: cannot be read: {one_line(error)}") from error
        if isinstance(made, str):
            warnings.append(_replaced(where, found, made))
        else:
            checkpointer = made
    return ProjectState(checkpointer, store, tuple(warnings))


async def adopt(is_fenced: Callable[[], bool], saver: BaseCheckpointSaver[Any]) -> ProjectCheckpointer | str:
    """Prepare a checkpointer of the project for the worker, or return why it cannot be used."""
    return await refusal(saver) or adopted(saver, is_fenced)


async def _open(config: LanggraphJson, spec: str, where: str, kind: type, stack: AsyncExitStack) -> Any:
    config.apply()
    attribute = load_attribute(config, spec, where)
    try:
        made = await enter(attribute() if callable(attribute) else attribute, stack)
    except Exception as error:
        raise GraphLoadError(f"{where}: could not be opened: {one_line(error)}") from error
    if not isinstance(made, kind):
        raise GraphLoadError(f"{where}: expected a {kind.__name__}, got: {type(made).__name__}")
    return made


def _replaced(where: str, own: object, why: str) -> str:
    return f"{where}: the worker's own replaces {type(own).__name__} ({why})"
