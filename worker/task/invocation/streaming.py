"""Run a graph and add the events that its task asked for. The output is that of `graph.ainvoke`."""

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel

from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.run_fields import StreamMode
from langgraph_rq.shared.tasks import Task, own_thread
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.outputs.failures import ErrorDetail
from langgraph_rq.worker.task.events import TaskEvents

AnyGraph = Pregel[Any, Any, Any, Any]

_INTERRUPT = "__interrupt__"
_NEEDED = ("updates", "values", "tasks")
"""Modes from which the output and the events of nodes are read, also where the task did not ask for them."""

_log = get_logger(__name__)


async def stream_graph(
    graph: AnyGraph,
    start: Any,
    config: RunnableConfig,
    options: Mapping[str, Any],
    modes: Collection[StreamMode],
    events: TaskEvents,
    *,
    subgraphs: bool = False,
    detail: ErrorDetail = ErrorDetail.FRAMES,
    task: Task | None = None,
) -> Any:
    """Run a graph to its end, adding to `events`; returns its output, interrupts included, as `ainvoke` does.

    Args:
        graph: The graph.
        start: Its input, or None to continue.
        config: Of the run.
        options: Further arguments of `astream`.
        modes: What the task asked for.
        events: Where to.
        subgraphs: Whether the events of subgraphs are added, too.
        detail: What is told of the exception of a node that failed.
        task: Its ids are shown as its client gave them; None: as they are.
    """
    output = _Output(graph)
    asked = {mode.value for mode in modes}
    chosen = [*_NEEDED, *sorted(asked - {*_NEEDED, EventType.EVENTS.value})]
    is_renamed = task is not None and (task.key != task.task_id or task.thread_id not in {None, task.thread_key})
    options = {**options, "stream_mode": chosen, "subgraphs": subgraphs}
    run: Any = partial(_with_events, graph) if StreamMode.EVENTS in modes else graph.astream
    async with aclosing(run(start, config, **options)) as parts:
        async for one in parts:
            namespace, mode, part = one if subgraphs else ((), *one)
            if not namespace:
                output.take(mode, part)
            if mode not in asked and mode != "tasks":
                continue
            try:
                shown = _as_given(mode, part, task) if task and is_renamed else part
                await _add(events, namespace, mode, shown, asked, detail)
            except Exception as error:  # what is shown of a run must not end it
                _log.warning("events.dropped", error=type(error).__name__)
    return output.value()


class _Output:
    """What `ainvoke` answers, read from the stream, which has the whole state in `values`."""

    def __init__(self, graph: AnyGraph) -> None:
        self._keys = graph.output_channels
        self._is_whole = self._keys == graph.stream_channels_asis
        self._latest: Any = None
        self._interrupts: list[Any] = []

    def take(self, mode: str, part: Any) -> None:
        """Take a part of the graph's own stream."""
        if mode == "values" and (self._is_whole or not isinstance(part, dict)):
            self._latest = part
        elif mode == "values":
            keys = self._keys
            self._latest = part.get(keys) if isinstance(keys, str) else {key: part[key] for key in keys if key in part}
        elif mode == "updates" and isinstance(part, dict) and _INTERRUPT in part:
            self._interrupts.extend(part[_INTERRUPT])

    def value(self) -> Any:
        """Return the output."""
        if not self._interrupts:
            return self._latest
        return {**(self._latest if isinstance(self._latest, dict) else {}), _INTERRUPT: self._interrupts}


async def _with_events(
    graph: AnyGraph, start: Any, config: RunnableConfig, *, subgraphs: bool, **options: Any
) -> AsyncGenerator[tuple[Any, ...], None]:
    """Stream as `astream`, and what LangChain reports of every run. Its chunks of the graph are what the modes give."""
    root = None
    stream: Any = graph.astream_events(start, config, version="v2", subgraphs=subgraphs, **options)
    async with aclosing(stream) as records:
        async for record in records:
            root = root or record["run_id"]
            if record["event"] == "on_chain_stream" and record["run_id"] == root:
                yield record["data"]["chunk"]
            else:
                yield ((), EventType.EVENTS.value, record) if subgraphs else (EventType.EVENTS.value, record)


async def _add(
    events: TaskEvents, namespace: tuple[str, ...], mode: str, part: Any, asked: Collection[str], detail: ErrorDetail
) -> None:
    """Add what is told of a part of the stream."""
    where = {"namespace": namespace} if namespace else {}
    if mode == "tasks":
        await _add_node(events, part, where, detail)
    if mode not in asked:
        return
    if mode == "messages":
        message, metadata = part
        node = metadata.get("langgraph_node")
        await events.add(EventType.MESSAGES, **where, node=node, message=message, metadata=metadata)
    else:
        await events.add(EventType(mode), **where, data=_allowed(part, detail) if mode in {"tasks", "debug"} else part)


async def _add_node(events: TaskEvents, part: dict[str, Any], where: Mapping[str, Any], detail: ErrorDetail) -> None:
    """Add the start or the end of a node; its return value is in the `updates` mode."""
    if "input" in part:
        await events.add(EventType.NODE, **where, node=part["name"], phase="start")
        return
    error = part.get("error")
    why = {"error": _told(error, detail)} if error else {}
    await events.add(EventType.NODE, **where, node=part["name"], phase="end", **why)


def _as_given(mode: str, part: Any, task: Task) -> Any:
    """Show the ids of the thread and the task without their tenant, in LangGraph's configs and metadata."""
    if mode == "messages":
        return part[0], _with_given_ids(part[1], task)
    if mode == "debug":
        return {**part, "payload": _as_given("checkpoints", part["payload"], task)}
    if mode not in {"tasks", "checkpoints", "events"}:
        return part
    configs = {name: _with_given_ids(part[name], task) for name in ("config", "parent_config") if name in part}
    if "metadata" in part:
        configs["metadata"] = _with_given_ids(part["metadata"], task)
    if mode == "checkpoints" and "tasks" in part:
        configs["tasks"] = [{**one, "state": _with_given_ids(one.get("state"), task)} for one in part["tasks"]]
    return {**part, **configs}


def _with_given_ids(config: Any, task: Task) -> Any:
    if not isinstance(config, dict):
        return config
    found = dict(config)
    if "configurable" in found:
        found["configurable"] = _with_given_ids(found["configurable"], task)
    if found.get("thread_id") == task.thread_key:
        found["thread_id"] = task.thread_id or own_thread(task.origin or task.task_id)
    if isinstance(id_ := found.get("task_id"), str):
        found["task_id"] = id_.removeprefix(f"{task.tenant}--")
    return found


def _told(error: Any, detail: ErrorDetail) -> str:
    if not isinstance(error, BaseException):
        return str(error)
    return type(error).__name__ if detail is ErrorDetail.CLASS else f"{type(error).__name__}: {error}"


def _allowed(part: dict[str, Any], detail: ErrorDetail) -> dict[str, Any]:
    """Leave out the message of a node's exception, where it is not told."""
    if detail is not ErrorDetail.CLASS:
        return part
    if "payload" in part:
        return {**part, "payload": _allowed(part["payload"], detail)}
    error = part.get("error")
    return {**part, "error": {"error": type(error).__name__}} if isinstance(error, BaseException) else part
