"""One small graph for each feature of LangGraph, with nothing of this library in it."""

import asyncio
import operator
import os
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import before_model
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.channels import DeltaChannel, EphemeralValue, UntrackedValue
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.errors import NodeError
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore
from langgraph.types import (
    CachePolicy,
    Command,
    Overwrite,
    RetryPolicy,
    Send,
    StreamWriter,
    TimeoutPolicy,
    interrupt,
)
from pydantic import BaseModel
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    text: str
    number: int
    seen: Annotated[list[Any], operator.add]


def chain(*nodes: Any, state: Any = State, **compiled: Any) -> Any:
    """Compile nodes that follow each other."""
    builder = StateGraph(state).add_sequence(nodes).add_edge(START, nodes[0].__name__)
    return builder.add_edge(nodes[-1].__name__, END).compile(**compiled)


# What a node can ask for


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


# The functional API


@task
async def double(number: int) -> int:
    return 2 * number


@entrypoint()
async def functional(numbers: list[int], *, previous: list[int] | None) -> Any:
    doubled = list(await asyncio.gather(*(double(number) for number in numbers)))
    return entrypoint.final(value={"doubled": doubled, "previous": previous}, save=doubled)


@task
def sync_double(number: int) -> int:
    return 2 * number


@entrypoint()
def sync_functional(numbers: list[int]) -> list[int]:
    return [future.result() for future in [sync_double(number) for number in numbers]]


# Policies of nodes


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


def after(state: State) -> State:
    return {"seen": ["after"]}


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


# Control of the flow


def square(state: State) -> State:
    return {"seen": [state["number"] ** 2]}


send = (
    StateGraph(State)
    .add_node(square)
    .add_conditional_edges(START, lambda state: [Send("square", {"number": n}) for n in range(state["number"])])
    .compile()
)


def choose(state: State) -> Command[Literal["even", "odd"]]:
    return Command(goto="odd" if state["number"] % 2 else "even", update={"seen": ["chosen"]})


def even(state: State) -> State:
    return {"seen": ["even"]}


def odd(state: State) -> State:
    return {"seen": ["odd"]}


command = StateGraph(State).add_node(choose).add_node(even).add_node(odd).add_edge(START, "choose").compile()

_inner = chain(square, even)


def leave(state: State) -> Command[Any]:
    return Command(graph=Command.PARENT, goto="odd", update={"seen": ["left"]})


def call_inner(state: State) -> State:
    return {"seen": _inner.invoke({"number": 3})["seen"]}


subgraphs = (
    StateGraph(State)
    .add_node("inner", _inner)
    .add_node(call_inner)
    .add_node("leaving", chain(leave), destinations=("odd",))
    .add_node(odd)
    .add_edge(START, "inner")
    .add_edge("inner", "call_inner")
    .add_edge("call_inner", "leaving")
    .compile()
)


class Counted(TypedDict, total=False):
    text: str
    counted: Annotated[int, operator.add]


def count(state: Counted) -> Counted:
    return {"counted": 1}


subgraph_memory = (
    StateGraph(Counted)
    .add_node("counter", chain(count, state=Counted, checkpointer=True))
    .add_edge(START, "counter")
    .compile()
)


def again(state: State) -> State:
    return {"number": state["number"] + 1}


recursion_limit = (
    StateGraph(State)
    .add_node(again)
    .add_edge(START, "again")
    .add_conditional_edges("again", lambda _: "again")
    .compile()
    .with_config(recursion_limit=9)
)


def ask(state: State) -> State:
    return {"seen": [interrupt({"ask": state["text"]})]}


interrupts = chain(ask, after)


# State


class Model(BaseModel):
    text: str = "none"
    tags: set[str] = set()
    seen: Annotated[list[str], operator.add] = []


def look_at_model(state: Model) -> dict[str, Any]:
    return {"seen": [type(state).__name__, *sorted(state.tags)], "tags": {state.text}}


pydantic_state = chain(look_at_model, state=Model)


@dataclass
class Data:
    text: str = "none"
    seen: Annotated[list[str], operator.add] = field(default_factory=list)


def look_at_data(state: Data) -> dict[str, Any]:
    return {"seen": [type(state).__name__, state.text]}


dataclass_state = chain(look_at_data, state=Data)


class Given(TypedDict):
    text: str


class Private(TypedDict):
    secret: str


def hide(state: Given) -> Private:
    return {"secret": state["text"] + "!"}


def show(state: Private) -> State:
    return {"seen": [state["secret"]]}


schemas = (
    StateGraph(State, input_schema=Given, output_schema=State)
    .add_sequence([hide, show])
    .add_edge(START, "hide")
    .compile()
)


def _extend(items: list[str], writes: list[list[str]]) -> list[str]:
    return [*items, *(one for write in writes for one in write)]


class Channels(TypedDict, total=False):
    text: str
    short: Annotated[str, EphemeralValue]
    untracked: Annotated[str, UntrackedValue]
    grown: Annotated[list[str], DeltaChannel(_extend)]
    seen: Annotated[list[Any], operator.add]


def fill(state: Channels) -> dict[str, Any]:
    return {"short": "short", "untracked": "untracked", "grown": [state["text"]], "seen": ["dropped"]}


def look_at_channels(state: Channels) -> dict[str, Any]:
    return {"grown": ["more"], "seen": Overwrite([state.get("short"), state.get("untracked")])}


channels = chain(fill, look_at_channels, state=Channels)


def forget(state: MessagesState) -> dict[str, Any]:
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("anew", id="1")]}


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("first", id="2"), AIMessage("second", id="2")]}


messages = chain(forget, answer, state=MessagesState)


# Agents and tools


def look_up(
    word: str,
    state: Annotated[dict[str, Any], InjectedState],
    store: Annotated[Any, InjectedStore()],
    runtime: ToolRuntime,
) -> str:
    """Look up a word."""
    runtime.stream_writer(f"looking up {word}")
    return f"{word}, {len(state['messages'])} messages, store: {store is not None}, call: {runtime.tool_call_id}"


def call_tool(state: MessagesState) -> dict[str, Any]:
    calls = [{"name": "look_up", "args": {"word": "tide"}, "id": "call-1"}]
    return {"messages": [AIMessage("", tool_calls=calls, id="ai-1")]}


tool_node = (
    StateGraph(MessagesState)
    .add_node(call_tool)
    .add_node("tools", ToolNode([look_up]))
    .add_edge(START, "call_tool")
    .add_edge("call_tool", "tools")
    .compile()
)


class _Fake(GenericFakeChatModel):
    def bind_tools(self, *_args: Any, **_options: Any) -> Any:
        return self


def _answers() -> Any:
    calls = [{"name": "look_up", "args": {"word": "tide"}, "id": "call-1"}]
    while True:
        yield AIMessage("", tool_calls=calls, id="ai-1")
        yield AIMessage("The tide is high.", id="ai-2")


@before_model
def note(state: Any, runtime: Runtime) -> dict[str, Any] | None:
    runtime.stream_writer("before the model")
    return None


agent = create_agent(_Fake(messages=_answers()), tools=[look_up], middleware=[note])


# Runnables


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
