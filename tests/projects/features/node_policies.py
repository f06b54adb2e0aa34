"""Policies of nodes: caches, timeouts, retries, error handlers, and nodes that wait for all others."""

import asyncio
import os
import uuid
from typing import Literal

from chains import State, after
from langgraph.cache.memory import InMemoryCache
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, RetryPolicy, TimeoutPolicy


async def _remember(state: State) -> State:
    return {"seen": [uuid.uuid4().hex, os.getpid()]}


cached = (
    StateGraph(State)
    .add_node("remember", _remember, cache_policy=CachePolicy(key_func=lambda state: state["text"], ttl=60))
    .add_edge(START, "remember")
    .add_edge("remember", END)
    .compile(cache=InMemoryCache())
)


async def too_slow(state: State) -> State:
    await asyncio.sleep(30)
    return {}


def recover(state: State, error: NodeError) -> Command[Literal["after"]]:
    return Command(update={"seen": [error.node, type(error.error).__name__]}, goto="after")


node_timeout = (
    StateGraph(State)
    .add_node(too_slow, timeout=TimeoutPolicy(run_timeout=0.05), error_handler=recover)
    .add_node(after)
    .add_edge(START, "too_slow")
    .compile()
)

timed_out = StateGraph(State).add_node(too_slow, timeout=0.05).add_edge(START, "too_slow").compile()


async def beats(state: State, runtime: Runtime) -> State:
    for _ in range(10):
        await asyncio.sleep(0.1)
        runtime.heartbeat()
    return {"seen": ["done"]}


idle_timeout = (
    StateGraph(State)
    .add_node(beats, timeout=TimeoutPolicy(idle_timeout=0.9, refresh_on="heartbeat"))
    .add_edge(START, "beats")
    .compile()
)


def flaky(state: State, runtime: Runtime) -> State:
    assert runtime.execution_info
    if runtime.execution_info.node_attempt < 3:
        raise ConnectionError("not yet")
    return {"seen": [runtime.execution_info.node_attempt]}


_SOON = RetryPolicy(initial_interval=0.01, jitter=False, max_attempts=3)

retry_policy = StateGraph(State).add_node(flaky, retry_policy=_SOON).add_edge(START, "flaky").compile()

node_defaults = (
    StateGraph(State).set_node_defaults(retry_policy=_SOON).add_node(flaky).add_edge(START, "flaky").compile()
)


def fails(state: State) -> State:
    raise LookupError("nothing there")


error_handler = (
    StateGraph(State).add_node(fails, error_handler=recover).add_node(after).add_edge(START, "fails").compile()
)


def short(state: State) -> State:
    return {"seen": ["short"]}


def long_one(state: State) -> State:
    return {"seen": ["long one"]}


def long_two(state: State) -> State:
    return {"seen": ["long two"]}


def joined(state: State) -> State:
    return {"seen": [f"joined after {len(state['seen'])}"]}


deferred = (
    StateGraph(State)
    .add_node(short)
    .add_node(long_one)
    .add_node(long_two)
    .add_node(joined, defer=True)
    .add_edge(START, "short")
    .add_edge(START, "long_one")
    .add_edge("long_one", "long_two")
    .add_edge("short", "joined")
    .add_edge("long_two", "joined")
    .compile()
)
