"""Graphs for tests that need a worker process."""

import asyncio
import operator
import sys
import threading
from contextlib import suppress
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class Chat(TypedDict):
    said: Annotated[list[str], operator.add]


class Nap(TypedDict):
    seconds: float


class Nothing(TypedDict, total=False):
    code: int


def hear(_state: Chat) -> dict[str, list[str]]:
    return {"said": []}


async def sleep(state: Nap) -> Nap:
    await asyncio.sleep(state["seconds"])
    return state


def tell_how_long_a_thread_waits_for_its_turn(_state: Nap) -> Nap:
    return {"seconds": sys.getswitchinterval()}


def end_the_process(state: Nothing) -> Nothing:
    sys.exit(state.get("code", 0))


def block_for_ever(_state: Nothing) -> None:
    sys.stdout.write("a node blocks\n")
    sys.stdout.flush()
    threading.Event().wait()


async def stay_for_ever(_state: Nothing) -> None:
    sys.stdout.write("a node blocks\n")
    sys.stdout.flush()
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


def leave_a_thread(_state: Nothing) -> None:
    threading.Thread(target=threading.Event().wait).start()


def _of_one_node(state, node):
    return StateGraph(state).add_node("node", node).add_edge(START, "node").add_edge("node", END)


block = _of_one_node(Nothing, block_for_ever)
chat = _of_one_node(Chat, hear)
leave = _of_one_node(Nothing, end_the_process)
nap = _of_one_node(Nap, sleep)
stay = _of_one_node(Nothing, stay_for_ever)
thread = _of_one_node(Nothing, leave_a_thread)
turn = _of_one_node(Nap, tell_how_long_a_thread_waits_for_its_turn)
