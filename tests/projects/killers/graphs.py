"""Graphs that end their process, and one that does no harm."""

import asyncio
import os
import signal
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class Kill(TypedDict, total=False):
    kills: bool
    seconds: float
    done: bool


async def prepare(_state: Kill) -> Kill:
    return {}


async def strike(state: Kill) -> Kill:
    if state.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(state.get("seconds", 0))
    return {"done": True}


builder = StateGraph(Kill).add_node("prepare", prepare).add_node("strike", strike)
killer = builder.add_edge(START, "prepare").add_edge("prepare", "strike").add_edge("strike", END)
