"""Sync nodes run in threads: many at once, and without blocking async ones."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json

SYNC = """
import threading
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    n: int
    thread: str

barrier = threading.Barrier(50)

def wait_for_all(state):
    barrier.wait(timeout=20)
    return {"thread": threading.current_thread().name}

graph = StateGraph(State).add_node("wait", wait_for_all).add_edge(START, "wait").add_edge("wait", END)
"""


async def test_fifty_blocking_sync_nodes_run_at_once_in_the_default_executor(project):
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=SYNC)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(50, thread_name_prefix="node"))
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        graph = graphs.by_name["g"].graph
        # The barrier opens only when all 50 are in it at the same time.
        results = await asyncio.gather(*(graph.ainvoke({"n": n}) for n in range(50)))
    assert len({result["thread"] for result in results}) == 50
    assert all(result["thread"].startswith("node") for result in results)


async def test_blocking_sync_node_does_not_hold_up_async_ones(project):
    code = """
import threading
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
class State(TypedDict, total=False):
    n: int
gate = threading.Event()
def block(state): assert gate.wait(20); return {"n": 1}
async def step(state): return {"n": 2}
blocking = StateGraph(State).add_node("a", block).add_edge(START, "a")
stepping = StateGraph(State).add_node("a", step).add_edge(START, "a")
"""
    path = project({"graphs": {"blocking": "./agent.py:blocking", "stepping": "./agent.py:stepping"}}, agent=code)
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        blocked = asyncio.create_task(graphs.by_name["blocking"].graph.ainvoke({"n": 0}))
        assert await graphs.by_name["stepping"].graph.ainvoke({"n": 0}) == {"n": 2}
        assert not blocked.done()
        module = sys.modules[graphs.by_name["blocking"].graph.builder.state_schema.__module__]
        module.gate.set()
        assert await blocked == {"n": 1}
