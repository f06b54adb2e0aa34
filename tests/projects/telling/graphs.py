"""A graph that says what it does, step by step."""

import asyncio
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

STEPS = 30
PAUSE_S = 0.04


class Told(TypedDict):
    steps: int


async def first(_state: Told) -> dict[str, int]:
    """Tell quickly."""
    return await _tell("first", 0.0)


async def second(_state: Told) -> dict[str, int]:
    """Tell slowly."""
    return await _tell("second", PAUSE_S)


async def _tell(node: str, pause_s: float) -> dict[str, int]:
    write = get_stream_writer()
    for step in range(STEPS):
        write({"node": node, "step": step})
        await asyncio.sleep(pause_s)
    return {"steps": STEPS}


graph = (
    StateGraph(Told)
    .add_node(first)
    .add_node(second)
    .add_edge(START, "first")
    .add_edge("first", "second")
    .add_edge("second", END)
    .compile()
)
