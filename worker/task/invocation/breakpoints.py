"""Static breakpoints: where a run stopped that asks nothing, and whether a later attempt has to stop there too.

LangGraph stops at a breakpoint without saying so in its output, and goes on from it as soon as it is given no input. So
a task whose worker died right after it had stopped is not run again: what its checkpoint shows is its end.
"""

from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import StateSnapshot

from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.worker.graphs.graphs import AnyGraph
from langgraph_rq.worker.task.result import Result

_Nodes = Literal["*"] | Sequence[str] | None

_compiled: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Graph -> whether it, or a graph inside of it, was compiled with breakpoints."""


def has_breakpoints(graph: AnyGraph, task: Task) -> bool:
    """Whether a run of `task` may stop at a breakpoint."""
    if task.interrupt_before or task.interrupt_after:
        return True
    if graph not in _compiled:
        every: list[Any] = [graph, *(inner for _, inner in graph.get_subgraphs(recurse=True))]
        _compiled[graph] = any(one.interrupt_before_nodes or one.interrupt_after_nodes for one in every)
    return _compiled[graph]


async def find_stop(graph: AnyGraph, result: Result, config: RunnableConfig) -> Result:
    """Return the end of a run: `result`, or the same as interrupted if the run stopped at a breakpoint.

    Args:
        graph: It has run to its end, and may have stopped.
        result: Its end.
        config: Of its thread.
    """
    state = await graph.aget_state(config)
    if not state.next:
        return result
    return Result(State.INTERRUPTED, result.output, metadata={**result.metadata, "next": list(state.next)})


async def stopped_before(
    graph: AnyGraph, task: Task, config: RunnableConfig, checkpointer: BaseCheckpointSaver[str]
) -> Result | None:
    """Return the end of a task of which an earlier attempt has stopped at a breakpoint; None: none has."""
    state = await graph.aget_state(config, subgraphs=True)
    before = task.interrupt_before or graph.interrupt_before_nodes
    after = task.interrupt_after or graph.interrupt_after_nodes
    if state.interrupts or not await _is_stopped(graph, task, state, before, after, checkpointer):
        return None
    output = output_of(graph, state)
    if not isinstance(graph.output_channels, str) and not output:
        output = None  # as ainvoke answers where no channel of the output has a value yet
    return Result(State.INTERRUPTED, output, metadata={"next": list(state.next)})


def output_of(graph: AnyGraph, state: StateSnapshot) -> Any:
    """Return what of a state `ainvoke` answers."""
    shown, values = graph.output_channels, state.values
    if isinstance(shown, str):
        return values.get(shown) if isinstance(values, dict) and shown in values else values
    return {name: values[name] for name in shown if name in values}


async def _is_stopped(
    graph: AnyGraph,
    task: Task,
    state: StateSnapshot,
    before: _Nodes,
    after: _Nodes,
    checkpointer: BaseCheckpointSaver[str],
) -> bool:
    """Whether the run that wrote this state stopped there, itself or in a graph inside of it."""
    if not state.next:
        return False
    if state.metadata and state.metadata.get("task_id") == task.key:
        ran = await _ran_last(state, checkpointer) if after else ()
        if any(_is_among(node, before) for node in state.next) or any(_is_among(node, after) for node in ran):
            return True
    inner: dict[str, Any] = dict(graph.get_subgraphs())
    for step in state.tasks:
        below = inner.get(step.name)
        if below and isinstance(step.state, StateSnapshot):
            nodes = below.interrupt_before_nodes, below.interrupt_after_nodes
            if await _is_stopped(below, task, step.state, *nodes, checkpointer):
                return True
    return False


def _is_among(node: str, nodes: _Nodes) -> bool:
    return nodes is not None and (nodes == "*" or node in nodes)


async def _ran_last(state: StateSnapshot, checkpointer: BaseCheckpointSaver[str]) -> list[str]:
    """Return the nodes that ran in the step which ended with this state: those that saw new versions of a channel."""
    saved = await checkpointer.aget_tuple(state.config)
    earlier = await checkpointer.aget_tuple(state.parent_config) if state.parent_config else None
    if saved is None:
        return []
    before = earlier.checkpoint["versions_seen"] if earlier else {}
    seen = saved.checkpoint["versions_seen"]
    return [node for node in seen if node[:2] != "__" and seen[node] != before.get(node)]
