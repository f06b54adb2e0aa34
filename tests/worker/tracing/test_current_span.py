"""A user's own span inside a node is below our span of that node, whatever kind of node it is, at an OTLP receiver."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from operator import add
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy, Send
from opentelemetry import context, trace

from langgraph_rq import Client, State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.tools import guarded
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.fleet import one_node_graph, worker
from tests.model_calls import chat_models
from tests.otlp import Received, exporting


class Notes(TypedDict, total=False):
    said: Annotated[list[str], add]
    messages: Annotated[list, add]


def span(name: str) -> None:
    """Make a user's own span."""
    with trace.get_tracer("users").start_as_current_span(f"user {name}"):
        pass


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request):
    return request.param


async def run(redis_url: str, graph, *, checkpoints: bool = False, **fields) -> State:
    async with worker(redis_url, {"g": graph}, checkpoints=checkpoints):
        with Client(redis_url) as client:
            receipt = client.submit({"said": [], "messages": []}, graph="g", **fields)
            result = await asyncio.to_thread(client.wait, receipt.task_id, 30)
    assert result.status is State.SUCCESS, result.error
    return result


class Tree:
    """The one trace of a run."""

    def __init__(self, received) -> None:
        ((_, self.spans),) = received.traces().items()
        self._by_id = {one.span: one for one in self.spans}

    def named(self, name: str) -> list[Received]:
        return [one for one in self.spans if one.name == name]

    def above(self, one: Received) -> list[str]:
        """The names of its ancestors, the nearest first."""
        names = []
        while one.parent:
            one = self._by_id[one.parent]
            names.append(one.name)
        return names


AROUND = ["invoke_agent g", "attempt 1", "submit g"]


async def test_async_node(redis_url, monkeypatch, protocol):
    async def work(_state):
        await asyncio.sleep(0)
        span("a")
        await asyncio.create_task(later())
        return {"said": ["x"]}

    async def later():
        span("b")

    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, one_node_graph(work, Notes))
    tree = Tree(received)
    for name in ("user a", "user b"):
        (one,) = tree.named(name)
        assert tree.above(one) == ["node node", *AROUND]


async def test_sync_node_and_the_threads_that_inherit_its_context(redis_url, monkeypatch, protocol):
    def work(_state):
        span("a")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(copy_context().run, span, "b").result()
        return {"said": ["x"]}

    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, one_node_graph(work, Notes))
    tree = Tree(received)
    for name in ("user a", "user b"):
        (one,) = tree.named(name)
        assert tree.above(one) == ["node node", *AROUND]


async def test_nodes_one_after_the_other_and_side_by_side(redis_url, monkeypatch, protocol):
    entered = asyncio.Barrier(3)

    def step(name):
        async def work(_state):
            if name in "bcd":
                await entered.wait()  # all three are open at the same time
            span(name)
            await asyncio.sleep(0)
            span(name)
            return {"said": [name]}

        return work

    builder = StateGraph(Notes)
    for name in "abcde":
        builder.add_node(name, step(name))
    builder.add_edge(START, "a").add_conditional_edges("a", lambda _state: ["b", "c", "d"])
    builder.add_edge(["b", "c", "d"], "e").add_edge("e", END)
    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, builder.compile(), stream=["updates"])
    tree = Tree(received)
    for name in "abcde":
        assert [tree.above(one) for one in tree.named(f"user {name}")] == [[f"node {name}", *AROUND]] * 2


async def test_nodes_that_are_sent_to(redis_url, monkeypatch, protocol):
    async def work(state):
        span(state["said"][0])
        return {"said": []}

    builder = StateGraph(Notes).add_node("fan", lambda _state: {}).add_node("work", work).add_edge(START, "fan")
    builder.add_conditional_edges("fan", lambda _state: [Send("work", {"said": [str(n)]}) for n in range(3)])
    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, builder.compile())
    tree = Tree(received)
    parents = {one.parent for n in range(3) for one in tree.named(f"user {n}")}
    assert parents == {one.span for one in tree.named("node work")}
    assert len(parents) == 3


async def test_retried_node_has_a_span_for_each_try(redis_url, monkeypatch, protocol):
    tries = []

    async def work(_state):
        tries.append(1)
        span(str(len(tries)))
        if len(tries) < 3:
            raise ConnectionError("away")
        return {"said": ["x"]}

    builder = StateGraph(Notes).add_node(
        "work", work, retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=3, retry_on=ConnectionError)
    )
    builder.add_edge(START, "work").add_edge("work", END)
    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, builder.compile())
    tree = Tree(received)
    nodes = sorted(tree.named("node work"), key=lambda one: one.start_ns)
    assert [one.is_error for one in nodes] == [True, True, False]
    assert [tree.named(f"user {n}")[0].parent for n in (1, 2, 3)] == [one.span for one in nodes]


async def test_subgraph_as_a_node_and_called_in_a_node(redis_url, monkeypatch, protocol):
    async def inner_work(_state):
        span("inner")
        return {"said": ["x"]}

    inner = StateGraph(Notes).add_node("inner", inner_work).add_edge(START, "inner").compile()

    async def calls(_state):
        span("before")
        await inner.ainvoke({"said": []})
        span("after")
        return {"said": ["x"]}

    def calls_sync(_state):
        StateGraph(Notes).add_node("sync inner", lambda _s: span("sync inner")).add_edge(
            START, "sync inner"
        ).compile().invoke({"said": []})
        span("after sync")
        return {"said": ["x"]}

    builder = StateGraph(Notes).add_node("outer", inner).add_node("calls", calls).add_node("calls sync", calls_sync)
    builder.add_edge(START, "outer").add_edge("outer", "calls").add_edge("calls", "calls sync")
    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, builder.compile(), checkpoints=True, thread_id="th")
    tree = Tree(received)
    assert [tree.above(one) for one in sorted(tree.named("user inner"), key=lambda one: one.start_ns)] == [
        ["node inner", "node outer", *AROUND],
        ["node inner", "node calls", *AROUND],
    ]
    for name in ("before", "after"):
        (one,) = tree.named(f"user {name}")
        assert tree.above(one) == ["node calls", *AROUND]
    (one,) = tree.named("user sync inner")
    assert tree.above(one) == ["node sync inner", "node calls sync", *AROUND]
    (one,) = tree.named("user after sync")
    assert tree.above(one) == ["node calls sync", *AROUND]


async def test_tools_sync_and_async(redis_url, monkeypatch, protocol):
    @tool
    def add_up(a: int) -> int:
        """Add."""
        span("sync tool")
        return a

    @tool
    async def look_up(word: str) -> str:
        """Look up."""
        span("async tool")
        return word

    @tool
    async def fail(why: str) -> str:
        """Fail."""
        raise ValueError(why)

    calls = [
        {"name": "add_up", "args": {"a": 1}, "id": "1"},
        {"name": "look_up", "args": {"word": "lease"}, "id": "2"},
        {"name": "fail", "args": {"why": "no"}, "id": "3"},
    ]
    builder = StateGraph(Notes)
    builder.add_node("ask", lambda _state: {"messages": [AIMessage("", tool_calls=calls)]})
    builder.add_node("tools", ToolNode([add_up, look_up, fail], handle_tool_errors=True))
    builder.add_edge(START, "ask").add_edge("ask", "tools").add_edge("tools", END)
    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, builder.compile())
    tree = Tree(received)
    for name, tool_name in (("sync tool", "add_up"), ("async tool", "look_up")):
        (one,) = tree.named(f"user {name}")
        assert tree.above(one) == [f"execute_tool {tool_name}", "node tools", *AROUND]
    (failed,) = tree.named("execute_tool fail")
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "ValueError")
    assert failed.attributes["gen_ai.tool.name"] == "fail"
    assert failed.attributes["gen_ai.operation.name"] == "execute_tool"


async def test_functional_api(redis_url, monkeypatch, protocol):
    @task
    async def part(n: int) -> int:
        span(f"part {n}")
        return n

    @task
    def sync_part(n: int) -> int:
        span(f"part {n}")
        return n

    @entrypoint()
    async def work(_input):
        span("entry")
        values = [await part(1), await sync_part(2), await part(3)]
        span("entry")
        return {"said": [str(value) for value in values]}

    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, work)
    tree = Tree(received)
    assert [tree.above(one) for one in tree.named("user entry")] == [["node work", *AROUND]] * 2
    for n in (1, 2, 3):
        (one,) = tree.named(f"user part {n}")
        assert tree.above(one) == ["node work", *AROUND]


async def test_runnables_inside_a_node(redis_url, monkeypatch, protocol):
    async def work(_state, config):
        chain = RunnableLambda(lambda value: value) | RunnableLambda(lambda value: span("chain") or value)
        await chain.ainvoke("x", config)
        chain.invoke("x")
        return {"said": ["x"]}

    with exporting(monkeypatch, protocol) as received:
        await run(redis_url, one_node_graph(work, Notes))
    tree = Tree(received)
    assert [tree.above(one) for one in tree.named("user chain")] == [["node node", *AROUND]] * 2


async def test_calls_of_guarded_and_other_models_and_services(redis_url, monkeypatch, protocol):
    @guarded("search")
    def search() -> None:
        span("sync service")

    @guarded("search")
    async def search_async() -> None:
        span("async service")

    with OfflineLLM() as server:
        async with chat_models(server.url) as make:
            plain, safe = make(max_tokens=100), guarded_chat_model(make(max_tokens=100))

            async def work(_state):
                await plain.ainvoke("x")
                await safe.ainvoke("x")
                await search_async()
                return {"said": ["x"]}

            def work_sync(_state):
                plain.invoke("x")
                safe.invoke("x")
                search()
                span("after")
                return {"said": ["x"]}

            builder = StateGraph(Notes).add_node("async", work).add_node("sync", work_sync)
            builder.add_edge(START, "async").add_edge("async", "sync")
            with exporting(monkeypatch, protocol) as received:
                await run(redis_url, builder.compile())
    tree = Tree(received)
    calls = sorted(tree.named("chat gpt-4o-mini"), key=lambda one: one.start_ns)
    assert [tree.above(one)[0] for one in calls] == ["node async"] * 2 + ["node sync"] * 2
    for name, node in (("async service", "async"), ("sync service", "sync"), ("after", "sync")):
        (one,) = tree.named(f"user {name}")
        assert tree.above(one) == [f"node {node}", *AROUND]


async def test_span_of_the_user_stays_current_around_a_subgraph(redis_url, monkeypatch):
    inner = one_node_graph(lambda _state: {"said": []}, Notes)

    async def work(_state):
        with trace.get_tracer("users").start_as_current_span("user around"):
            await inner.ainvoke({"said": []})
            span("after")
        span("at the end")
        return {"said": ["x"]}

    builder = StateGraph(Notes).add_node("work", work).add_edge(START, "work")
    with exporting(monkeypatch) as received:
        await run(redis_url, builder.compile())
    tree = Tree(received)
    (one,) = tree.named("user after")
    assert tree.above(one) == ["user around", "node work", *AROUND]
    (one,) = tree.named("user at the end")
    assert tree.above(one) == ["node work", *AROUND]


async def test_bare_thread_has_no_parent(redis_url, monkeypatch):
    def work(_state):
        thread = threading.Thread(target=span, args=("bare",))
        thread.start()
        thread.join()
        return {"said": ["x"]}

    with exporting(monkeypatch) as received:
        await run(redis_url, one_node_graph(work, Notes))
    ((bare,),) = [spans for spans in received.traces().values() if spans[0].scope == "users"]
    assert bare.parent == ""


async def test_nothing_is_current_where_no_task_runs(redis_url, monkeypatch):
    with exporting(monkeypatch):
        await run(redis_url, one_node_graph(lambda _state: {"said": []}, Notes))
        assert not trace.get_current_span().get_span_context().is_valid
        assert context.get_current() == {}


async def test_task_that_a_node_submits_goes_on_in_its_trace(redis_url, monkeypatch):
    async def submit_another(state):
        if not state["said"]:
            with Client(redis_url) as client:
                await asyncio.to_thread(client.submit, {"said": ["again"]}, graph="g")
        return {"said": []}

    with exporting(monkeypatch) as received:
        await run(redis_url, one_node_graph(submit_another, Notes))
    tree = Tree(received)
    _, again = sorted(tree.named("submit g"), key=lambda one: one.start_ns)
    assert tree.above(again) == ["node node", *AROUND]


async def test_node_adds_to_its_own_span(redis_url, monkeypatch):
    async def work(_state):
        here = trace.get_current_span()
        here.set_attribute("desk", 7)
        here.add_event("called")
        here.end()  # not the node's business
        return {"said": [here.name]}

    with exporting(monkeypatch) as received:
        result = await run(redis_url, one_node_graph(work, Notes))
    (node,) = Tree(received).named("node node")
    assert result.result["said"] == ["node node"]
    assert node.attributes == {"desk": 7}
