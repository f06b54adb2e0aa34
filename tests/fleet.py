"""A worker inside the test's own event loop, so that a test can inspect it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_rq import Client
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import DEFAULT_LIMITS, Priority, TaskLimits
from langgraph_rq.worker.fleet.forked.isolation import Isolation
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.graphs.graphs import LoadedGraph
from langgraph_rq.worker.graphs.input_keys import graph_input
from langgraph_rq.worker.graphs.state_types import state_types
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.guards.waiting import MOST_KEPT, KeptAttempts
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.task.events import EventWriter
from langgraph_rq.worker.task.run_context import RunContext

PRICING = Pricing()
QUEUES = [priority.queue("agent_tasks") for priority in Priority]


async def ended(client: Client, task_id: str, timeout_s: float = 30) -> TaskResult:
    """Wait for a task's result, while a worker runs in this event loop."""
    return await asyncio.to_thread(client.wait, task_id, timeout_s)


def one_node_graph(node, state: type = dict) -> Any:
    """A graph of one node, compiled without checkpoints."""
    return StateGraph(state).add_node("node", node).add_edge(START, "node").add_edge("node", END).compile()


class Number(TypedDict):
    n: int


async def plus_one(state: Number):
    return {"n": state["n"] + 1}


PLUS_ONE = one_node_graph(plus_one, Number)


@asynccontextmanager
async def worker(
    redis_url: str,
    graphs: Mapping[str, Any],
    *,
    concurrency: int = 10,
    input_bytes: int = 256_000_000,
    drain_s: float = 5.0,
    times: QueueTimes | None = None,
    checkpoints: bool = False,
    checkpointer: Any = None,
    serializer: StateSerializer | None = None,
    burst: bool = False,
    breaker: BreakerLimits | None = None,
    budget: BudgetLimits | None = None,
    paces: Mapping[str, Pace] | None = None,
    kept: int = MOST_KEPT,
    limits: TaskLimits = DEFAULT_LIMITS,
    isolation: Isolation | None = None,
    **context: Any,
) -> AsyncIterator[GraphWorker]:
    """Run a worker with `graphs` while the block runs; it is drained at the end."""
    times = times or QueueTimes(lease_ms=2_000)
    async with open_async(redis_url) as client, open_async(redis_url) as saved:
        if checkpoints:
            checkpointer = ThreadSaver(saved, serializer=serializer, token=token_of, is_beside_tasks=True)
        if checkpointer:
            for graph in graphs.values():
                checkpointer.serde.allow(state_types(graph))
        loaded = {
            name: LoadedGraph(name, graph.copy({"checkpointer": checkpointer}), graph_input(graph))
            for name, graph in graphs.items()
        }
        guards = Guards(
            client,
            redis_url,
            breaker or BreakerLimits(),
            budget or BudgetLimits(),
            PRICING,
            paces=paces,
            kept=KeptAttempts(kept),
        )
        shared = RunContext(
            redis=client,
            events=EventWriter(client),
            graphs=loaded,
            base_queue="agent_tasks",
            times=times,
            limits=limits,
            guards=guards,
            checkpointer=checkpointer,
            serializer=checkpointer.serde if checkpointer else None,
            **context,
        )
        graph_worker = GraphWorker(
            QUEUES,
            redis_url,
            shared,
            concurrency=concurrency,
            input_bytes=input_bytes,
            drain_s=drain_s,
            isolation=isolation,
        )
        running = asyncio.create_task(graph_worker.run(burst=burst))
        try:
            yield graph_worker
        finally:
            graph_worker.stop()
            await running
            await guards.aclose()
