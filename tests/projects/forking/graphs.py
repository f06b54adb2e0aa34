"""Graphs whose nodes fork."""

import multiprocessing
import os
import signal
from typing import Any, TypedDict

from langgraph.graph import StateGraph

from langgraph_rq import guarded

FORK = multiprocessing.get_context("fork")
"""The default start method on Linux up to Python 3.13."""


class Answer(TypedDict, total=False):
    answer: Any


def square(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, for the worker
    return number * number


@guarded("service")
def call(number: int) -> int:
    return number


def of(node: Any) -> Any:
    return StateGraph(Answer).add_node("node", node).set_entry_point("node").set_finish_point("node")


async def leave_async(_state: Answer) -> Answer:
    child = os.fork()
    return {"answer": child and _exit_code(child)}


def leave_sync(_state: Answer) -> Answer:
    child = os.fork()
    return {"answer": child and _exit_code(child)}


def map_in_a_pool(_state: Answer) -> Answer:
    with FORK.Pool(2) as pool:  # its end sends SIGTERM to the children
        return {"answer": pool.map(square, [1, 2, 3])}


async def map_async(_state: Answer) -> Answer:
    return map_in_a_pool(_state)


def call_in_a_child(_state: Answer) -> Answer:
    with FORK.Pool(1) as pool:
        return {"answer": [call(1), *pool.map(call, [2])]}


def end_process(_state: Answer) -> Answer:
    os._exit(2)


def _exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


asynchronous, synchronous, pool, async_pool = of(leave_async), of(leave_sync), of(map_in_a_pool), of(map_async)
caller, exiting = of(call_in_a_child), of(end_process)
