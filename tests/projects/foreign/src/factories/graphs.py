"""Graphs that are made when they are needed."""

import contextlib
import operator
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph_sdk.runtime import ServerRuntime


def weather(city: str) -> str:
    """Look up the weather of a city."""
    return f"it rains in {city}"


claude = create_agent("anthropic:claude-sonnet-4-5", tools=[weather], system_prompt="You look up the weather.")


class State(TypedDict, total=False):
    name: str
    told: str


def _tell(*words: Any) -> Any:
    told = " ".join(map(str, words))
    builder = StateGraph(State).add_node("tell", lambda state: {"told": f"{told} {state['name']}"})
    return builder.add_edge(START, "tell").add_edge("tell", END)


def by_config(config: RunnableConfig) -> Any:
    found = config["configurable"]
    return _tell("thread", found.get("thread_id"), "user", found.get("user_id"))


open_servers: set[object] = set()
"""As connections to MCP servers are."""


@contextlib.asynccontextmanager
async def by_runtime(config: RunnableConfig, runtime: ServerRuntime) -> AsyncIterator[Any]:
    if not runtime.execution_runtime:
        yield _tell("nothing").compile()
        return
    server = object()
    open_servers.add(server)
    try:
        graph = _tell(runtime.access_context, runtime.ensure_user().identity, len(open_servers), "open in", os.getpid())
        yield graph.compile()
    finally:
        open_servers.remove(server)


def fails(config: RunnableConfig) -> Any:
    raise LookupError("there is no model for " + config["configurable"]["user_id"])


@contextlib.contextmanager
def not_left(config: RunnableConfig) -> Any:
    yield _tell("done for")
    raise OSError("the server is gone")


class Steps(TypedDict, total=False):
    marker: str
    steps: Annotated[list[int], operator.add]


def _step(state: Steps) -> dict[str, list[int]]:
    return {"steps": [os.getpid()]}


def _die_once(state: Steps) -> dict[str, list[int]]:
    marker = Path(state["marker"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"steps": [os.getpid()]}


@contextlib.asynccontextmanager
async def dies_once(config: RunnableConfig) -> AsyncIterator[Any]:
    steps = StateGraph(Steps).add_node("first", _step).add_node("second", _die_once)
    yield steps.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
