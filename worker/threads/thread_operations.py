"""What requests do with threads: read their states, write to them, copy, prune and delete them."""

from collections.abc import Collection
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from langgraph.types import StateUpdate

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.run_fields import GraphCommand
from langgraph_rq.shared.tasks import State, tenant_of
from langgraph_rq.shared.threads.requests import MOST_THREADS, Operation, Request
from langgraph_rq.shared.threads.rows import change_call, copy_call, expire_call, hold_call
from langgraph_rq.worker.graphs.factories import Run
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.records.ledger import ledger_key
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.saver.upkeep import ThreadChangedError
from langgraph_rq.worker.task.invocation.start import langgraph_command
from langgraph_rq.worker.task.run_context import RunContext
from langgraph_rq.worker.threads.snapshots import thread_state

_MOST_STATES = 1_000
_NO_CHECKPOINTS = "there are no checkpoints: set LGRQ_CHECKPOINTS=true for the workers"
_CHECKPOINT: dict[str, Any] = {
    "checkpoint_id": str | None,
    "checkpoint_ns": str | None,
    "checkpoint_map": dict | None,
    "thread_id": str | None,
}
"""What names a checkpoint."""

_Graph = Pregel[Any, Any, Any, Any]


class BusyError(Exception):
    """A task of the thread has not ended."""


class ThreadOperations:
    """Runs requests about the threads of the worker's graphs; each has an asyncio task of its own."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    async def run(self, request: Request) -> Any:
        """Run one. Raises BusyError, ValueError, LookupError, and what the graph raises."""
        loaded = self._context.graphs.get(request.graph)
        if loaded is None:
            raise ValueError(f"this worker does not serve the graph {request.graph}")
        arguments = dict(request.arguments)
        thread_id, checkpoint = str(arguments.pop("thread_id")), arguments.pop("checkpoint", None)
        match request.operation:  # the graph is not opened, since a factory may want a run's context
            case Operation.DELETE:
                return await self._delete(loaded, request.thread, **arguments)
            case Operation.COPY:
                return await self._copy(loaded, request.thread, **arguments)
            case Operation.PRUNE:
                return await self._prune(loaded, request.thread, **arguments)
            case Operation.STORAGE:
                return await self._storage(loaded, request.thread, thread_id)
            case Operation.EXPIRE:
                return await scripts.run(self._context.redis, expire_call(request.thread))
        config = _config(request.thread, checkpoint)
        async with loaded.open(Run(config)) as opened:
            return await self._run_on_graph(opened.graph, request, config, thread_id, arguments)

    async def _run_on_graph(
        self, graph: _Graph, request: Request, config: RunnableConfig, thread_id: str, arguments: dict[str, Any]
    ) -> Any:
        saver = _saver(graph)
        match request.operation:
            case Operation.STATE:
                return await _state(graph, config, thread_id, **arguments)
            case Operation.STATES:
                return await _states(graph, request.thread, **arguments)
            case Operation.HISTORY:
                return await _history(graph, config, thread_id, **arguments)
            case Operation.UPDATE:
                return await self._update(graph, saver, request, config, **arguments)
            case _:
                raise ValueError(f"operation: expected one on threads, got: {request.operation}")

    async def _delete(self, loaded: LoadedGraph | GraphPerRun, thread: str, *, force: bool = False) -> None:
        """Delete what is kept of a thread."""
        await self._hold(thread, by_force=force)
        saver = self._context.of_graph(loaded).checkpointer
        if saver:
            await saver.adelete_thread(thread)
        await self._context.redis.delete(ledger_key(thread))

    async def _copy(self, loaded: LoadedGraph | GraphPerRun, source: str, *, target: str) -> None:
        """Copy the checkpoints of a thread, and list the copy. Nothing is left of it if a task of the thread begins."""
        _check_tenant(source, [target])
        saver = self._saver_of(loaded, "acopy_thread")
        reading = await self._hold(source)
        await saver.begin(source)
        writing = await self._hold(target)
        await saver.acopy_thread(source, target)
        current_task.set(reading)
        try:
            await saver.begin(source)  # refused if a task has begun meanwhile
        except CheckpointFencedError:
            current_task.set(writing)
            await saver.adelete_thread(target)
            raise
        await scripts.run(self._context.redis, copy_call(source, target, tenant_of(source)))
        for thread in (source, target):
            await scripts.run(self._context.redis, expire_call(thread))

    async def _prune(
        self, loaded: LoadedGraph | GraphPerRun, thread: str, *, threads: dict[str, str], strategy: str
    ) -> list[str]:
        """Prune threads one after the other, all but those in use; returns the ids of those that were."""
        _check_tenant(thread, threads.values())
        saver, pruned = self._saver_of(loaded, "aprune"), []
        for id_, one in threads.items():
            try:
                await self._hold(one)
                await saver.aprune([one], strategy=strategy)
                if strategy == "delete":
                    await self._context.redis.delete(ledger_key(one))
            except (BusyError, CheckpointFencedError, ThreadChangedError):
                continue
            pruned.append(id_)
        return pruned

    async def _storage(self, loaded: LoadedGraph | GraphPerRun, thread: str, thread_id: str) -> dict[str, Any]:
        saver = self._context.of_graph(loaded).checkpointer
        if isinstance(saver, ThreadSaver):
            return {"thread_id": thread_id, **await saver.measure(thread)}
        raise LookupError(f"expected LGRQ_STATE=redis with checkpoints, got: {type(saver).__name__}")

    def _saver_of(self, loaded: LoadedGraph | GraphPerRun, method: str) -> Checkpointer:
        saver = self._context.of_graph(loaded).checkpointer
        if saver is None:
            raise LookupError(_NO_CHECKPOINTS)
        if getattr(type(saver), method) is getattr(BaseCheckpointSaver, method):
            raise LookupError(f"the checkpointer {type(saver).__name__} has no {method}")
        return saver

    async def _hold(self, thread: str, *, by_force: bool = False) -> TaskGuard:
        """Let what this request writes to a thread carry a fencing token: it has an asyncio task of its own."""
        token = await scripts.run(self._context.redis, hold_call(thread, by_force=by_force))
        if not token:
            raise BusyError("a task of the thread has not ended")
        guard = TaskGuard(self._context.guards, thread=thread, token=token)
        current_task.set(guard)
        return guard

    async def _update(
        self,
        graph: _Graph,
        saver: BaseCheckpointSaver[Any],
        request: Request,
        config: RunnableConfig,
        *,
        supersteps: list[list[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Apply updates, each superstep in a checkpoint of its own; answers the last one."""
        updates = [[_update(**one) for one in step] for step in supersteps]
        thread, redis = request.thread, self._context.redis
        forked = config["configurable"].get("checkpoint_id")
        if forked and await saver.aget_tuple(config) is None:
            raise ValueError(f"checkpoint_id: expected that of a checkpoint of the thread, got: {forked[:60]!r}")
        await self._hold(thread)
        if begin := getattr(saver, "begin", None):
            await begin(thread)
        named: RunnableConfig = {**config, "metadata": {"graph_id": request.graph}}
        try:
            written = await graph.abulk_update_state(named, updates)
        except (TypeError, AttributeError) as error:  # of a reducer, which could not read the values
            await scripts.run(redis, expire_call(thread))
            raise ValueError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            await scripts.run(redis, expire_call(thread))  # which `begin` has prolonged
            raise
        state = await graph.aget_state(_config(thread, None))
        after = State.INTERRUPTED if state.next else State.SUCCESS
        await scripts.run(redis, change_call(thread, tenant_of(thread), after, request.graph))
        place = {**written["configurable"], "thread_id": request.arguments["thread_id"]}
        return {"checkpoint": place, "configurable": place, "checkpoint_id": place.get("checkpoint_id")}


def _update(values: Any = None, as_node: str | None = None, command: dict[str, Any] | None = None) -> StateUpdate:
    """Read what a node would have returned: values, or a command."""
    given: Any = langgraph_command(GraphCommand(**command), command.get("resume")) if command else values
    return StateUpdate(given, as_node)


def _check_tenant(thread: str, others: Collection[str]) -> None:
    if len(others) > MOST_THREADS or any(tenant_of(one) != tenant_of(thread) for one in others):
        raise ValueError(f"threads: expected at most {MOST_THREADS}, of one tenant")


def _saver(graph: _Graph) -> BaseCheckpointSaver[Any]:
    if isinstance(graph.checkpointer, BaseCheckpointSaver):
        return graph.checkpointer
    raise LookupError(_NO_CHECKPOINTS)


async def _state(graph: _Graph, config: RunnableConfig, thread_id: str, *, subgraphs: bool = False) -> dict[str, Any]:
    return thread_state(await graph.aget_state(config, subgraphs=subgraphs), thread_id)


async def _states(graph: _Graph, thread: str, *, threads: dict[str, str]) -> list[dict[str, Any]]:
    """Read the states of threads: the id that a tenant knows -> the thread under which LangGraph keeps checkpoints."""
    _check_tenant(thread, threads.values())
    return [thread_state(await graph.aget_state(_config(one, None)), id_) for id_, one in threads.items()]


async def _history(
    graph: _Graph,
    config: RunnableConfig,
    thread_id: str,
    *,
    limit: int = 10,
    before: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    older_than: Any = _config(config["configurable"]["thread_id"], before) if before else None
    states = graph.aget_state_history(
        config, filter=metadata or None, before=older_than, limit=min(limit, _MOST_STATES)
    )
    return [thread_state(state, thread_id) async for state in states]


def _config(thread: str, checkpoint: dict[str, Any] | None) -> RunnableConfig:
    named = checkpoint or {}
    odd = [repr(named)[:60]]
    if isinstance(named, dict):
        odd = [f"{name}={value!r}" for name, value in named.items() if not isinstance(value, _CHECKPOINT.get(name, ()))]
    if odd:
        raise ValueError(f"checkpoint: expected {', '.join(_CHECKPOINT)}, as states name it, got: {', '.join(odd)}")
    known = {name: value for name, value in named.items() if name != "thread_id" and value is not None}
    return {"configurable": {"checkpoint_ns": "", **known, "thread_id": thread}}
