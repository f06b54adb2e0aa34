"""Static breakpoints, compiled in or per task: where the bare graph stops, the task ends as interrupted and goes on."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
import pytest_asyncio
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from langgraph_rq import AsyncClient, InvalidTaskError, NotInterruptedError
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from tests.fleet import worker
from tests.langgraph.bench import CALLS, Bare, Scripted, bench, forget

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Said(TypedDict):
    said: Annotated[list, operator.add]


async def first(_state) -> dict:
    return {"said": ["first"]}


async def second(_state) -> dict:
    CALLS["second"] += 1
    return {"said": ["second"]}


async def third(_state) -> dict:
    return {"said": ["third"]}


async def ask(_state) -> dict:
    return {"said": [interrupt("go on?")]}


def chain(*nodes, **compiled):
    builder = StateGraph(Said)
    names = [node.__name__ if callable(node) and hasattr(node, "__name__") else "inner" for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for one, other in zip((START, *names), names, strict=False):
        builder.add_edge(one, other)
    return builder.compile(**compiled)


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    CALLS["look_up"] += 1
    return f"{word} is a word"


def agent(**options):
    call = {"name": "look_up", "args": {"word": "lease"}, "id": "call-1"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("A lease is a word.")]
    return create_agent(Scripted(answers=answers), [look_up], **options)


def calling():
    """A node that makes a graph with a breakpoint when it runs, as LangGraph cannot know beforehand."""
    builder = StateGraph(Said).add_node(first)

    async def call(_state) -> dict:
        inner = chain(second, third, interrupt_before=["third"])
        return {"said": (await inner.ainvoke({"said": []}))["said"]}

    return builder.add_node("call", call).add_edge(START, "first").add_edge("first", "call").compile()


class Told(TypedDict, total=False):
    told: str


class SaidAndTold(Said, Told):
    pass


def telling_at_the_end():
    """A graph whose output has nothing yet where it stops."""
    builder = StateGraph(SaidAndTold, output_schema=Told).add_node(first)
    builder.add_node("tell", lambda state: {"told": "all"})
    return builder.add_edge(START, "first").add_edge("first", "tell").compile(interrupt_before=["tell"])


GRAPHS: dict[str, Any] = {
    "tells at the end": telling_at_the_end(),
    "made by a node": calling(),
    "before": chain(first, second, third, interrupt_before=["second"]),
    "after": chain(first, second, third, interrupt_after=["first", "second"]),
    "all": chain(first, second, interrupt_before="*"),
    "plain": chain(first, second, third),
    "inside": chain(first, chain(second, third, interrupt_before=["third"])),
    "asks behind": chain(first, ask, interrupt_before=["ask"]),
    "agent": agent(interrupt_before=["tools"]),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, GRAPHS) as running:
        yield running


NEW: dict = {"input": {"said": []}}
GO_ON: dict = {"input": None}
MESSAGE: dict = {"input": {"messages": [{"role": "user", "content": "What is a lease?", "id": "m-1"}]}}


@pytest.mark.parametrize(
    ("graph", "turns", "stops"),
    [
        ("before", [NEW, GO_ON], [["second"], None]),
        ("after", [NEW, GO_ON, GO_ON], [["second"], ["third"], None]),
        ("tells at the end", [NEW, GO_ON], [["tell"], None]),
        ("all", [NEW, GO_ON, GO_ON], [["first"], ["second"], None]),
        ("inside", [NEW, GO_ON], [["inner"], None]),
        ("made by a node", [NEW, GO_ON], [["call"], None]),
        ("plain", [{**NEW, "interrupt_before": ["third"]}, GO_ON], [["third"], None]),
        ("plain", [{**NEW, "interrupt_after": "*"}, {**GO_ON, "interrupt_before": ["third"]}], [["second"], ["third"]]),
        ("before", [{**NEW, "interrupt_before": ["third"]}, GO_ON], [["third"], None]),
        ("plain", [{**NEW, "stream": ["values"], "interrupt_before": ["second"]}, GO_ON], [["second"], None]),
        ("agent", [MESSAGE, GO_ON], [["tools"], None]),
    ],
)
async def test_task_stops_where_the_bare_graph_stops_and_goes_on_without_input(served, graph, turns, stops):
    bare, conversation = Bare(GRAPHS[graph]), served.serve(graph)
    for turn, stop in zip(turns, stops, strict=True):
        assert await conversation.run(turn) == await bare.run(turn)
        assert conversation.last.status is (State.INTERRUPTED if stop else State.SUCCESS)
        assert conversation.last.metadata.next == stop
        assert await conversation.state() == await bare.state()


@pytest.mark.parametrize("thread_id", [None, "resumed"])
async def test_task_that_stopped_is_resumed_without_a_value_once(served, thread_id):
    conversation = served.serve("before")
    stopped = await conversation.submit({**NEW, "thread_id": thread_id})
    receipt = await served.client.resume(stopped.task_id)
    result = await served.client.wait(receipt.task_id, 30)
    assert (result.status, result.result) == (State.SUCCESS, {"said": ["first", "second", "third"]})
    assert result.metadata.continues == stopped.task_id
    again = await served.client.resume(stopped.task_id)
    assert (again.task_id, again.created) == (receipt.task_id, False)
    with pytest.raises(NotInterruptedError):
        await served.client.resume(receipt.task_id)


async def test_task_that_stopped_takes_no_answer(served):
    stopped = await served.serve("before").submit({**NEW, "thread_id": None})
    with pytest.raises(InvalidTaskError, match="value: expected nothing: the task asks no question, it stopped"):
        await served.client.resume(stopped.task_id, "yes")


async def test_breakpoints_of_a_task_hold_for_the_task_that_resumes_it(served):
    stopped = await served.serve("plain").submit({**NEW, "thread_id": None, "interrupt_before": ["second", "third"]})
    again = await served.client.wait((await served.client.resume(stopped.task_id)).task_id, 30)
    assert (again.status, again.metadata.next) == (State.INTERRUPTED, ["third"])
    last = await served.client.wait((await served.client.resume(again.task_id)).task_id, 30)
    assert last.result == {"said": ["first", "second", "third"]}


async def test_question_behind_a_breakpoint_is_asked_when_the_task_goes_on(served):
    stopped = await served.serve("asks behind").submit({**NEW, "thread_id": None})
    asked = await served.client.wait((await served.client.resume(stopped.task_id)).task_id, 30)
    assert [one["value"] for one in asked.result["__interrupt__"]] == ["go on?"]
    result = await served.client.wait((await served.client.resume(asked.task_id, "yes")).task_id, 30)
    assert result.result == {"said": ["first", "yes"]}


async def test_resuming_a_thread_that_has_gone_on_is_refused(served):
    conversation = served.serve("before")
    stopped = await conversation.submit({**NEW, "thread_id": "moved"})
    await conversation.submit({**GO_ON, "thread_id": "moved"})
    late = await served.client.wait((await served.client.resume(stopped.task_id)).task_id, 30)
    assert late.error.type is ErrorType.REJECTED
    assert late.error.message == (
        f"the thread has gone on since task {stopped.task_id} ended: it cannot be continued any more"
    )


@pytest.mark.parametrize("graph", ["before", "after", "inside", "tells at the end"])
async def test_worker_killed_after_the_stop_and_before_the_end_stops_there_again(served, graph):
    conversation = served.serve(graph)
    fields = {**NEW, "graph": graph, "thread_id": f"killed-{graph}", "task_id": f"killed-{graph.replace(' ', '-')}"}
    before = CALLS["second"]
    stopped = await conversation.submit(fields)
    await forget(served.client.redis, fields["task_id"], fields["thread_id"])
    again = await conversation.submit(fields)
    assert (again.status, again.result, again.metadata.next) == (
        State.INTERRUPTED,
        stopped.result,
        stopped.metadata.next,
    )
    assert CALLS["second"] - before == (graph == "inside")


async def test_graph_with_breakpoints_needs_checkpoints(redis_server):
    async with worker(redis_server.url, {"unkept": GRAPHS["before"]}), AsyncClient(redis_server.url) as client:
        result = await client.wait((await client.submit({"said": []}, graph="unkept")).task_id, 30)
    assert "breakpoints and going on with a thread need checkpoints" in result.error.message
