"""A graph that asks once, and takes a moment before and after it uses the answer."""

import asyncio
from operator import add
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

_WORK_S = 0.3


class State(TypedDict):
    """`said`: the answers that were delivered, one for each time; written by `ask`."""

    said: Annotated[list[str], add]


async def ask(_state: State) -> State:
    """Ask, and work with the answer."""
    answer = interrupt("which?")
    await asyncio.sleep(_WORK_S)
    return {"said": [answer]}


async def work(_state: State) -> None:
    """Work on after the answer was stored."""
    await asyncio.sleep(_WORK_S)


graph = (
    StateGraph(State)
    .add_node("ask", ask)
    .add_node("work", work)
    .add_edge(START, "ask")
    .add_edge("ask", "work")
    .add_edge("work", END)
    .compile()
)
