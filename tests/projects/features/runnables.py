"""Runnables with a config of their own, and sync nodes."""

import time

from chains import State, chain
from control_flow import square
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph


async def shout(state: State) -> State:
    return {"seen": [state["text"].upper()]}


runnables = (
    StateGraph(State)
    .add_node("shout", RunnableLambda(shout).with_config(tags=["loud"]))
    .add_edge(START, "shout")
    .compile()
    .with_config(recursion_limit=7, tags=["all"])
)


def sleep(state: State) -> State:
    time.sleep(0.05)
    return {"seen": ["slept"]}


sync_nodes = chain(sleep, square, state=State)
