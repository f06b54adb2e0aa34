"""What a node can ask for: writer, store, config, runtime and managed values."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any

from chains import State, chain
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore
from langgraph.types import StreamWriter
from typing_extensions import TypedDict


def write_stream(state: State) -> State:
    get_stream_writer()({"wrote": state["text"]})
    return {"seen": ["written"]}


def write_injected(state: State, writer: StreamWriter, runtime: Runtime) -> State:
    writer("injected")
    runtime.stream_writer("of the runtime")
    return {"seen": ["injected"]}


stream_writer = chain(write_stream, write_injected)


async def put(state: State, store: BaseStore) -> State:
    await store.aput(("notes", state["text"]), "one", {"note": state["text"]})
    return {"seen": [type(await store.aget(("notes", state["text"]), "none")).__name__]}


async def read(state: State, runtime: Runtime) -> State:
    assert runtime.store
    item = await get_store().aget(("notes", state["text"]), "one")
    found = await runtime.store.asearch(("notes", state["text"]), filter={"note": state["text"]})
    return {"seen": [item and item.value, [one.key for one in found]]}


store = chain(put, read)


def look_at_config(state: State, config: RunnableConfig) -> State:
    same = get_config()["configurable"]["thread_id"] == config["configurable"]["thread_id"]
    return {"seen": [same, config["metadata"]["langgraph_node"], config["recursion_limit"]]}


config = chain(look_at_config)


@dataclass
class Context:
    word: str = "moin"


def look_at_runtime(state: State, runtime: Runtime[Context]) -> State:
    info = runtime.execution_info
    assert info
    same = get_runtime(Context).context == runtime.context
    return {"seen": [runtime.context.word, same, bool(info.thread_id), info.node_attempt, runtime.server_info]}


runtime = (
    StateGraph(State, Context).add_node(look_at_runtime).add_edge(START, "look_at_runtime").compile(name="runtime")
)


class Managed(TypedDict, total=False):
    text: str
    seen: Annotated[list[Any], operator.add]
    is_last_step: IsLastStep
    remaining_steps: RemainingSteps


def look_at_steps(state: Managed) -> dict[str, Any]:
    return {"seen": [state["is_last_step"], state["remaining_steps"]]}


managed_values = chain(look_at_steps, state=Managed)


def put_and_read(state: State) -> State:
    store = get_store()
    store.put(("sync", state["text"]), "one", {"note": state["text"]})
    item = store.get(("sync", state["text"]), "one")
    return {"seen": [item and item.value]}


sync_store = chain(put_and_read)
