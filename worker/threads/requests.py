"""Answer requests about the threads of this worker's graphs, in a lane of their own beside the task slots."""

import asyncio
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph.pregel import Pregel
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.background import BackgroundTasks
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.signing import SignatureError
from langgraph_rq.shared.tasks import State, tenant_of
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.shared.threads.requests import (
    ANSWERED_WITHIN_S,
    MOST_THREADS,
    REPLY_KEPT_MS,
    Operation,
    Refusal,
    Request,
    reply_key,
    requests_key,
)
from langgraph_rq.shared.threads.rows import change_call, hold_call
from langgraph_rq.worker.graphs.factories import Run
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.outputs.json_values import encode
from langgraph_rq.worker.records.ledger import ledger_key
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.task.run_context import RunContext
from langgraph_rq.worker.threads.snapshots import thread_state

LANE = 8
"""Requests that are answered at once."""
_BLOCK_S = 5
_OUTAGE_WAIT_S = 0.25
_MOST_STATES = 1_000
_ERROR_CHARS = 2_000
_CHECKPOINT: dict[str, Any] = {
    "checkpoint_id": str | None,
    "checkpoint_ns": str | None,
    "checkpoint_map": dict | None,
    "thread_id": str | None,
}
"""What names a checkpoint."""

_log = get_logger(__name__)

_Graph = Pregel[Any, Any, Any, Any]


class ThreadRequests:
    """Answers the requests of all graphs that the worker serves.

    Args:
        context: The graphs, and what they share.
        blocking: A client with a connection to spare.
        outage: Told when Redis does not answer.
    """

    def __init__(self, context: RunContext, blocking: Redis, outage: Outage) -> None:
        self._context = context
        self._blocking = blocking
        self._outage = outage
        self._free = asyncio.Semaphore(LANE)
        self._answering = BackgroundTasks()

    async def serve(self) -> None:
        """Take requests and answer them, until cancelled."""
        keys = [requests_key(graph) for graph in self._context.graphs]
        while True:
            await self._free.acquire()
            taken = await self._take(keys)
            if taken is None:
                self._free.release()
                continue
            self._answering.start(self._answer(taken)).add_done_callback(lambda _task: self._free.release())

    async def close(self) -> None:
        """Wait until the requests that were taken are answered; those that take too long are cancelled."""
        await self._answering.close(ANSWERED_WITHIN_S)

    async def _take(self, keys: list[str]) -> bytes | None:
        try:
            found: Any = await self._blocking.blpop(keys, _BLOCK_S)
        except (RedisError, OSError) as error:
            log = _log.debug if self._outage.covers("requests", error) else _log.warning
            log("requests.not_read", error=str(error))
            if isinstance(error, ResponseError):
                await self._delete_odd(keys)
            await asyncio.sleep(_OUTAGE_WAIT_S)
            return None
        self._outage.passed("requests")
        return found[1] if found else None

    async def _delete_odd(self, keys: list[str]) -> None:
        """Delete lists of requests that another program has given another type: no request could get in or out."""
        with suppress(RedisError, OSError):
            for key in keys:
                if await self._context.redis.type(key) not in {b"list", b"none"}:
                    await self._context.redis.delete(key)

    async def _answer(self, taken: bytes) -> None:
        asked_ms, _, taken = taken.partition(b" ")
        text, _, signature = taken.rpartition(b" ") if self._context.keys else (taken, b"", b"")
        try:
            request = Request.read(text)
            if self._context.keys:
                self._context.keys.check_request(request.thread, text, signature)
        except (ValueError, SignatureError) as error:
            _log.warning("request.refused", reason=str(error)[:_ERROR_CHARS])
            return
        with suppress(RedisError, OSError):  # the client times out and retries
            if await self._age_s(asked_ms) > ANSWERED_WITHIN_S:
                return  # the client has timed out, and may have retried since
            reply = await self._reply(request)
            async with self._context.redis.pipeline(transaction=True) as pipeline:
                pipeline.xadd(reply_key(request.id), {"type": EventType.END, "data": reply})
                pipeline.pexpire(reply_key(request.id), REPLY_KEPT_MS)
                await pipeline.execute()

    async def _age_s(self, asked_ms: bytes) -> float:
        seconds, microseconds = await self._context.redis.time()
        return float(seconds + microseconds / 1e6 - whole_number(asked_ms) / 1000)

    async def _reply(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                value = await self._value(request)
                if self._context.redaction:
                    value, _, _ = await self._context.redaction.as_json(value, request.operation)
                return b'{"ok":%b}' % encode(value, request.operation).text
        except TimeoutError:
            return _refusal(Refusal.FAILED, f"the worker was not done after {ANSWERED_WITHIN_S:g} s")
        except (_BusyError, CheckpointFencedError) as error:
            return _refusal(Refusal.BUSY, str(error))
        except (ValueError, LookupError, InvalidUpdateError) as error:  # such as the form of a checkpoint
            return _refusal(Refusal.INVALID, f"{type(error).__name__}: {error}")
        except Exception as error:
            _log.warning("request.failed", operation=request.operation, graph=request.graph, error=str(error))
            return _refusal(Refusal.FAILED, f"{type(error).__name__}: {error}")

    async def _value(self, request: Request) -> Any:
        loaded = self._context.graphs.get(request.graph)
        if loaded is None:
            raise ValueError(f"this worker does not serve the graph {request.graph}")
        arguments = dict(request.arguments)
        thread_id = str(arguments.pop("thread_id"))
        config = _config(request.thread, arguments.pop("checkpoint", None))
        if request.operation is Operation.DELETE:
            return await self._delete(loaded, request.thread, by_force=bool(arguments.get("force")))
        async with loaded.open(Run(config)) as opened:
            saver = _saver(opened.graph)
            match request.operation:
                case Operation.STATE:
                    return await _state(opened.graph, config, thread_id, **arguments)
                case Operation.STATES:
                    return await _states(opened.graph, request.thread, **arguments)
                case Operation.HISTORY:
                    return await _history(opened.graph, config, thread_id, **arguments)
                case Operation.UPDATE:
                    return await self._update(opened.graph, saver, request, config, **arguments)

    async def _delete(self, loaded: LoadedGraph | GraphPerRun, thread: str, *, by_force: bool) -> None:
        """Delete what is kept of a thread; its graph is not opened, since a factory may want a run's context."""
        await self._hold(thread, by_force=by_force)
        saver = self._context.of_graph(loaded).checkpointer
        if saver:
            await saver.adelete_thread(thread)
        await self._context.redis.delete(ledger_key(thread))

    async def _hold(self, thread: str, *, by_force: bool = False) -> None:
        """Let what this request writes to a thread carry a fencing token: it has an asyncio task of its own."""
        token = await scripts.run(self._context.redis, hold_call(thread, by_force=by_force))
        if not token:
            raise _BusyError("a task of the thread has not ended")
        current_task.set(TaskGuard(self._context.guards, thread=thread, token=token))

    async def _update(
        self,
        graph: _Graph,
        saver: BaseCheckpointSaver[Any],
        request: Request,
        config: RunnableConfig,
        *,
        values: Any,
        as_node: str | None = None,
    ) -> dict[str, Any]:
        thread, redis = request.thread, self._context.redis
        await self._hold(thread)
        if begin := getattr(saver, "begin", None):
            await begin(thread)
        named: RunnableConfig = {**config, "metadata": {"graph_id": request.graph}}
        written = await graph.aupdate_state(named, values, as_node=as_node)
        state = await graph.aget_state(_config(thread, None))
        after = State.INTERRUPTED if state.next else State.SUCCESS
        await scripts.run(redis, change_call(thread, tenant_of(thread), after))
        place = {**written["configurable"], "thread_id": request.arguments["thread_id"]}
        return {"checkpoint": place, "configurable": place, "checkpoint_id": place.get("checkpoint_id")}


def _saver(graph: _Graph) -> BaseCheckpointSaver[Any]:
    if isinstance(graph.checkpointer, BaseCheckpointSaver):
        return graph.checkpointer
    raise LookupError("there are no checkpoints: set LGRQ_CHECKPOINTS=true for the workers")


class _BusyError(Exception):
    """A task of the thread has not ended."""


async def _state(graph: _Graph, config: RunnableConfig, thread_id: str, *, subgraphs: bool = False) -> dict[str, Any]:
    return thread_state(await graph.aget_state(config, subgraphs=subgraphs), thread_id)


async def _states(graph: _Graph, thread: str, *, threads: dict[str, str]) -> list[dict[str, Any]]:
    """Read the states of threads: the id that a tenant knows -> the thread under which LangGraph keeps checkpoints."""
    if len(threads) > MOST_THREADS or any(tenant_of(one) != tenant_of(thread) for one in threads.values()):
        raise ValueError(f"threads: expected at most {MOST_THREADS}, of one tenant")
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
    odd = [f"{name}={value!r}" for name, value in named.items() if not isinstance(value, _CHECKPOINT.get(name, ()))]
    if odd:
        raise ValueError(f"checkpoint: expected {', '.join(_CHECKPOINT)}, as states name it, got: {', '.join(odd)}")
    known = {name: value for name, value in named.items() if name != "thread_id" and value is not None}
    return {"configurable": {"checkpoint_ns": "", **known, "thread_id": thread}}


def _refusal(kind: Refusal, reason: str) -> bytes:
    return encode({"error": reason[:_ERROR_CHARS], "kind": kind}, "error").text
