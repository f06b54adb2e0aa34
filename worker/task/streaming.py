"""Run a graph and add the events that its task asked for. The output is that of `graph.ainvoke`."""

from collections.abc import Collection, Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel
from langgraph.types import StreamMode as LanggraphMode

from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.run_fields import StreamMode
from langgraph_rq.worker.task.events import TaskEvents

_INTERRUPT = "__interrupt__"
_NEEDED: tuple[LanggraphMode, ...] = ("updates", "values", "tasks")
"""Modes from which the output and the events of nodes are read, also where the task did not ask for them."""


async def stream_graph(
    graph: Pregel[Any, Any, Any, Any],
    start: Any,
    config: RunnableConfig,
    options: Mapping[str, Any],
    modes: Collection[StreamMode],
    events: TaskEvents,
) -> Any:
    """Run `graph` to its end, adding to `events`; returns its output, interrupts included, as `ainvoke` does."""
    output: Any = None
    interrupts: list[Any] = []
    chosen: list[LanggraphMode] = [mode.value for mode in modes if mode.value not in _NEEDED]
    part: Any
    all_modes = [*_NEEDED, *chosen]
    async for mode, part in graph.astream(start, config, stream_mode=all_modes, **options):
        if mode == "tasks":
            await _add_node(events, part)
        if mode == "messages":
            await _add_message(events, *part)
        elif mode in modes:
            await events.add(EventType(mode), data=part)
        if mode == "values":
            output = part
        elif mode == "updates" and _INTERRUPT in part:
            interrupts.extend(part[_INTERRUPT])
    if interrupts:
        return {**(output if isinstance(output, dict) else {}), _INTERRUPT: interrupts}
    return output


async def _add_node(events: TaskEvents, part: dict[str, Any]) -> None:
    """Add the start or the end of a node; its return value is in the `updates` mode."""
    if "input" in part:
        await events.add(EventType.NODE, node=part["name"], phase="start")
        return
    error = part.get("error")
    why = {"error": f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)}
    await events.add(EventType.NODE, node=part["name"], phase="end", **(why if error else {}))


async def _add_message(events: TaskEvents, message: BaseMessage, metadata: dict[str, Any]) -> None:
    """Add a message or a chunk of one, without its many empty fields."""
    shown = {
        name: value for name, value in message.model_dump(mode="python").items() if value not in (None, "", [], {})
    }
    await events.add(EventType.MESSAGES, node=metadata.get("langgraph_node"), message=shown)
