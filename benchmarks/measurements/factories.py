"""The cost of a factory that makes a graph for each run: CPU of its own code, and what the worker adds.

The calls alternate in one loop, on one thread, and no graph runs.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from statistics import median
from typing import Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore

from benchmarks.measured import Cell, Goal, Measured, Measurement
from benchmarks.rig import Rig
from langgraph_rq.worker.graphs.factories import Factory, Run
from langgraph_rq.worker.graphs.state_types import state_types

LIMIT_MS = 2.0
_WARM_UP = 20
_NOTE = """\
Its own code: the function alone. Through the worker: called with the run's config, the graph given the worker's
checkpointer and store, the types of its state allowed, left after the run. A factory that takes nothing runs once."""


class _State(TypedDict, total=False):
    text: str


def _tool(city: str) -> str:
    """Look up the weather of a city."""
    return city


def _three_nodes(config: Any) -> Any:
    del config
    builder = StateGraph(_State)
    for name in ("one", "two", "three"):
        builder.add_node(name, lambda state: state)
    builder.add_edge(START, "one").add_edge("one", "two").add_edge("two", "three").add_edge("three", END)
    return builder.compile()


def _agent(config: Any) -> Any:
    del config
    return create_agent(_Model(responses=["done"]), tools=[_tool])


class _Model(FakeListChatModel):
    def bind_tools(self, *_args: Any, **_options: Any) -> "_Model":
        return self


def measure(rig: Rig) -> Measured:
    """Make graphs, alternating with and without the worker's part."""
    turns = rig.count(500, 100)
    rows, added = list[dict[str, Cell]](), dict[str, float]()
    for name, function in {"3 nodes": _three_nodes, "agent with a tool": _agent}.items():
        alone_ms, through_ms = asyncio.run(_measure(function, turns))
        added[name] = median(through - alone for alone, through in zip(alone_ms, through_ms, strict=True))
        rows.append(
            {
                "factory of": name,
                "its_own_code_ms": median(alone_ms),
                "through_the_worker_ms": median(through_ms),
                "added_ms": added[name],
            }
        )
    goals = [Goal("CPU that the worker adds to a factory's call", max(added.values()), LIMIT_MS, "ms")]
    return Measured("A graph made for each run", rows, goals, _NOTE)


async def _measure(function: Callable[[Any], Any], turns: int) -> tuple[list[float], list[float]]:
    factory = Factory.of(function)
    assert factory
    make = partial(factory.make, Run({"configurable": {"thread_id": "t"}}), InMemoryStore())
    alone, through = list[float](), list[float]()
    for turn in range(turns + _WARM_UP):
        before_s = time.process_time()
        function(None)
        between_s = time.process_time()
        await _open(make)
        after_s = time.process_time()
        if turn >= _WARM_UP:
            alone.append((between_s - before_s) * 1000)
            through.append((after_s - between_s) * 1000)
    return alone, through


async def _open(make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    async with make() as graph:
        state_types(graph.copy({"checkpointer": None}))


MEASUREMENT = Measurement("factories", "what a graph that is made for each run costs", measure)
