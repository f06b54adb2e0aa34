"""Graphs for isolated tasks: they end their process, block its event loop, or need Redis."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from redis.asyncio import Redis


class Kill(TypedDict, total=False):
    kills: bool
    exit_code: int
    seconds: float
    done: bool
    pid: int


async def prepare(_state: Kill) -> Kill:
    return {}


async def strike(state: Kill) -> Kill:
    if state.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit_code" in state:
        sys.exit(state["exit_code"])
    await asyncio.sleep(state.get("seconds", 0))
    return {"done": True, "pid": os.getpid()}


builder = StateGraph(Kill).add_node("prepare", prepare).add_node("strike", strike)
killer = builder.add_edge(START, "prepare").add_edge("prepare", "strike").add_edge("strike", END)


class Block(TypedDict, total=False):
    seconds: float


async def block(state: Block) -> Block:
    time.sleep(state["seconds"])  # noqa: ASYNC251 - the fault
    return {}


blocker = StateGraph(Block).add_node("block", block).add_edge(START, "block").add_edge("block", END)


class Held(TypedDict, total=False):
    folder: str
    done: bool


async def wait_for_the_test(state: Held) -> Held:
    folder = Path(state["folder"])
    (folder / "started").touch()
    try:
        while not (folder / "goes_on").exists():  # noqa: ASYNC110 - the test is in another process
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        (folder / "cancelled").touch()
        raise
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        await redis.ping()
    return {"done": True}


held = StateGraph(Held).add_node("wait", wait_for_the_test).add_edge(START, "wait").add_edge("wait", END)


class Call(TypedDict, total=False):
    text: str


async def call_two_models(_state: Call) -> Call:
    for name in ("gpt-4o-mini", "gpt-4o"):
        await ChatOpenAI(model=name).ainvoke("hi")
    return {"text": "done"}


caller = StateGraph(Call).add_node("call", call_two_models).add_edge(START, "call").add_edge("call", END)
