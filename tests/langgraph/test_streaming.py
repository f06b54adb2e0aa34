"""What a task streams is what LangGraph streams with `astream`, mode by mode, and its result is that of `ainvoke`."""

import asyncio
import re
from collections import Counter
from contextlib import suppress
from typing import Annotated, Any, TypedDict

import numpy as np
import pytest
from httpx_sse import aconnect_sse
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from pydantic import BaseModel

from langgraph_rq import Client, State
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.tasks import StreamMode
from langgraph_rq.worker.outputs.json_values import as_json
from langgraph_rq.worker.task.invocation.streaming import stream_graph
from langgraph_rq.worker.task.redacted import Redaction
from tests.fleet import one_node_graph, worker
from tests.gateways import gateway
from tests.langgraph.bench import streamed as plain

ALL_MODES = list(StreamMode)
OURS = {"state", "node", "end"}


class Private(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    data: Any
    scratch: Any


class Public(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    data: Any


class Record(BaseModel):
    name: str
    raw: bytes


async def compute(_state: Private) -> Private:
    get_stream_writer()({"bytes": b"\xff", "record": Record(name="a", raw=b"b"), "nan": float("nan")})
    return {"data": {"raw": b"\x00\xff", "set": {1}, "array": np.arange(3)}, "scratch": "not for the output"}


async def answer(state: Private) -> Private:
    model = GenericFakeChatModel(messages=iter([AIMessage("alpha beta", id="ai-1")]))
    return {"messages": [await model.ainvoke(state.get("messages") or "?")]}


async def refine(_state: Private) -> Private:
    get_stream_writer()("refining")
    return {"scratch": b"inner"}


def conversation() -> Any:
    inner = StateGraph(Private).add_node("refine", refine).add_edge(START, "refine").compile()
    graph = StateGraph(Private, output_schema=Public)
    graph.add_node("compute", compute).add_node("answer", answer).add_node("inner", inner)
    return (
        graph.add_edge(START, "compute")
        .add_edge("compute", "answer")
        .add_edge("answer", "inner")
        .add_edge("inner", END)
        .compile()
    )


def asking() -> Any:
    async def ask(state: Private) -> Private:
        return {"data": interrupt({"question": b"why?"})}

    graph = StateGraph(Private).add_node("compute", compute).add_node("ask", ask)
    return graph.add_edge(START, "compute").add_edge("compute", "ask").compile()


def failing() -> Any:
    async def fail(_state: Private) -> Private:
        raise ValueError("no")

    graph = StateGraph(Private).add_node("compute", compute).add_node("fail", fail)
    return graph.add_edge(START, "compute").add_edge("compute", "fail").compile()


GRAPHS = {"conversation": conversation(), "asking": asking(), "failing": failing()}
INPUT = {"messages": [{"role": "user", "content": "hi", "id": "h-1"}]}


def bare_config(task_id: str, graph: str) -> Any:
    """The config of such a task's run."""
    return {
        "configurable": {"thread_id": f"TASK--{task_id}", "task_id": task_id, "user_id": None},
        "metadata": {"task_id": task_id},
        "run_name": graph,
    }


async def bare_stream(name: str, mode: StreamMode, config: Any) -> list[Any]:
    """What LangGraph alone streams."""
    graph = GRAPHS[name].copy({"checkpointer": InMemorySaver()})
    stream: Any = graph.astream(INPUT, config, stream_mode=mode.value, durability="sync")
    if mode is StreamMode.EVENTS:
        stream = graph.astream_events(INPUT, config, version="v2", stream_mode=[])
    found = []
    with suppress(ValueError):  # of the failing graph
        async for part in stream:
            found.append(part)  # noqa: PERF401 - what came before the error counts
    return found


@pytest.fixture
async def served(redis_url):
    async with worker(redis_url, GRAPHS, checkpoints=True) as running:
        yield running


async def run(client: Client, graph: str, stream: Any = (), input_: Any = None, **fields: Any):
    """Run a task; answer its result and its events as (type, data)."""
    task = client.submit(input_ or INPUT, graph=graph, stream=stream, **fields)
    result = await asyncio.to_thread(client.wait, task.task_id, 60)
    events = await asyncio.to_thread(lambda: list(client.events(task.task_id)))
    return result, [(event.type, event.data) for event in events]


def streamed(mode: str, events: Any) -> list[Any]:
    """What LangGraph streamed of a mode, out of a task's events."""
    if mode == "messages":
        return [[data["message"], data["metadata"]] for kind, data in events if kind == mode]
    return [data["data"] for kind, data in events if kind == mode]


@pytest.mark.parametrize("name", GRAPHS)
async def test_each_mode_streams_what_langgraph_does(client, served, name):
    for mode in ALL_MODES:
        task_id = f"{name}-{mode}"
        expected = await bare_stream(name, mode, bare_config(task_id, name))
        _, events = await run(client, name, [mode], task_id=task_id)
        assert plain(streamed(mode, events)) == plain(expected), mode
        assert {kind for kind, _ in events} <= {mode, *OURS}


@pytest.mark.parametrize("name", GRAPHS)
async def test_result_is_the_same_with_and_without_streams(client, served, name):
    expected, _ = await run(client, name)
    bare = GRAPHS[name].copy({"checkpointer": InMemorySaver()})
    if name != "failing":
        assert plain(expected.result) == plain(await bare.ainvoke(INPUT, bare_config("t", name)))
    for modes in [[mode] for mode in ALL_MODES] + [ALL_MODES]:
        result, _ = await run(client, name, modes)
        assert (result.status, plain(result.result)) == (expected.status, plain(expected.result)), modes
        assert (result.error and result.error.message) == (expected.error and expected.error.message)


async def test_ids_are_shown_as_they_were_given_without_the_tenant(client, served):
    _, events = await run(client.for_tenant("acme"), "conversation", ALL_MODES, task_id="t-1", thread_id="th-1")
    assert "acme" not in str(events)
    assert set(re.findall(r"'thread_id': '([^']*)'", str(events))) == {"th-1"}
    assert set(re.findall(r"'task_id': '([^']*)'", str(events))) == {"t-1"}


class Recorded:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def add(self, kind: str, **data: Any) -> None:
        self.events.append((str(kind), data))


@pytest.mark.parametrize("mode", [mode for mode in ALL_MODES if mode is not StreamMode.EVENTS])
async def test_events_of_subgraphs_say_their_namespace_as_langgraph_does(mode):
    graph, config = conversation().copy({"checkpointer": InMemorySaver()}), bare_config("t", "g")
    options = {"durability": "sync"}
    expected = [part async for part in graph.astream(INPUT, config, stream_mode=mode.value, subgraphs=True, **options)]
    graph = graph.copy({"checkpointer": InMemorySaver()})
    recorded = Recorded()
    output = await stream_graph(graph, INPUT, config, options, [mode], recorded, subgraphs=True)
    found = [
        [data.get("namespace", []), [data["message"], data["metadata"]] if mode == "messages" else data["data"]]
        for kind, data in recorded.events
        if kind == mode
    ]
    assert plain(found) == plain(expected)
    assert plain(output) == plain(await graph.copy({"checkpointer": InMemorySaver()}).ainvoke(INPUT, config))
    inner = [data["namespace"] for kind, data in recorded.events if kind == "node" and data["node"] == "refine"]
    assert len(inner) == 2
    assert inner[0][0].startswith("inner:")


async def test_subgraphs_are_streamed_beside_langchains_events_too():
    graph, config = conversation().copy({"checkpointer": InMemorySaver()}), bare_config("t", "g")
    recorded = Recorded()
    await stream_graph(graph, INPUT, config, {}, [StreamMode.EVENTS, StreamMode.CUSTOM], recorded, subgraphs=True)
    customs = [(data.get("namespace"), data["data"]) for kind, data in recorded.events if kind == "custom"]
    assert customs[-1][1] == "refining"
    assert customs[-1][0][0].startswith("inner:")
    assert {data["data"]["event"] for kind, data in recorded.events if kind == "events"} >= {
        "on_chain_start",
        "on_chat_model_stream",
        "on_chat_model_end",
        "on_chain_end",
    }


class Large(TypedDict, total=False):
    blob: bytes
    text: str


def large_graph() -> Any:
    async def grow(_state: Large) -> Large:
        get_stream_writer()({"progress": b"\xff" * 200_000})
        return {"blob": b"\x00\xff" * 500_000, "text": "ü" * 1_000_000}

    async def look(state: Large) -> Large:
        return {"text": state["text"] + "!"}

    graph = StateGraph(Large).add_node("grow", grow).add_node("look", look)
    return graph.add_edge(START, "grow").add_edge("grow", "look").compile()


async def test_state_of_3_mb_with_bytes_is_streamed_whole_in_all_modes(redis_url, client):
    graph = large_graph()
    async with worker(redis_url, {"large": graph}, checkpoints=True), gateway(redis_url) as http:
        result, events = await run(client, "large", ALL_MODES, {"text": "x"}, task_id="large")
        assert result.status is State.SUCCESS
        assert len(result.result["blob"]) == 1_333_336
        bare = graph.copy({"checkpointer": InMemorySaver()})
        assert result.result == as_json(await bare.ainvoke({"text": "x"}, bare_config("t", "large")))
        assert result.result == streamed("values", events)[-1]
        counts = Counter(kind for kind, _ in events)
        assert counts["values"] == 3
        assert counts["updates"] == 2
        assert counts["tasks"] == 4
        assert counts["checkpoints"] == 4
        assert counts["debug"] == 8
        assert counts["events"] >= 6
        assert "omitted_bytes" not in str(events)[:100_000]
        async with aconnect_sse(http, "GET", "/tasks/large/events") as source:
            sent = [(event.event, event.json(), event.id) async for event in source.aiter_sse()]
        assert [(kind, data) for kind, data, _ in sent[:-1]] == events[:-1]
        assert sent[-1][1]["result"]["result"] == result.result
        headers = {"Last-Event-ID": sent[-5][2]}
        async with aconnect_sse(http, "GET", "/tasks/large/events", headers=headers) as source:
            again = [event.id async for event in source.aiter_sse()]
        assert again == [id_ for _, _, id_ in sent[-4:]]


async def test_long_events_are_masked_whole(redis_url, client):
    async def tell(_state: Large) -> Large:
        return {"text": "ada@example.com " * 20_000}

    graph = one_node_graph(tell, Large)
    async with worker(redis_url, {"g": graph}, redaction=Redaction(Redactor())):
        result, events = await run(client, "g", ["values"], {"text": ""})
    assert result.result == streamed("values", events)[-1] == {"text": "[email] " * 20_000}
