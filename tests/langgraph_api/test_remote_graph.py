"""LangGraph's RemoteGraph runs a graph through our gateway as if it were local."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command

from tests.langgraph_api.project.graphs import AskState, InnerState
from tests.langgraph_api.servers import serving

HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def remote(redis_url, redis_client):
    """Make remote graphs by their names."""
    async with serving(redis_url, redis_client) as sdk:
        yield lambda name: RemoteGraph(name, client=sdk)


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def around(graph: Any, state: type) -> Any:
    """A local graph of which a remote one is a node."""
    return StateGraph(state).add_node("remote", graph).add_edge(START, "remote").compile(checkpointer=InMemorySaver())


async def test_remote_graph_is_invoked_and_streamed_as_a_local_one(remote):
    chat = remote("chat")
    answer = await chat.ainvoke(HI, config("t1"))
    assert answer["steps"] == ["prepare", "model", "finish"]
    updates = [part async for part in chat.astream(HI, stream_mode="updates")]
    assert [next(iter(update)) for update in updates] == ["prepare", "model", "finish"]
    messages = [message async for message, _ in chat.astream(HI, stream_mode="messages")]
    pieces = [message["content"] for message in messages if message["type"] == "AIMessageChunk"]
    assert "".join(pieces) == "alpha beta gamma"
    inside = [part async for part in remote("nested").astream({"value": 1}, stream_mode="custom", subgraphs=True)]
    assert [(namespace[0].partition(":")[0], data) for namespace, data in inside] == [("child", {"inner": 1})]
    with pytest.raises(RemoteException, match="broken on purpose"):
        await remote("broken").ainvoke({})


async def test_remote_graph_stops_at_a_question_and_goes_on_with_its_answer(remote):
    ask = remote("ask")
    asked = await ask.ainvoke({"topic": "tea"}, config("t1"))
    assert [one["value"] for one in asked["__interrupt__"]] == [{"question": "approve tea?"}]
    state = await ask.aget_state(config("t1"))
    assert (state.next, [one.value for one in state.interrupts]) == (("ask",), [{"question": "approve tea?"}])
    answered = await ask.ainvoke(Command(resume="yes"), config("t1"))
    assert (answered["answer"], answered["steps"]) == ("yes", ["before", "ask", "after"])


async def test_state_of_a_remote_graph_is_read_updated_and_forked(remote):
    ask = remote("ask")
    await ask.ainvoke({"topic": "tea"}, config("t1"))
    written = await ask.aupdate_state(config("t1"), {"answer": "by hand"}, as_node="ask")
    state = await ask.aget_state(written)
    assert (state.values["answer"], state.next) == ("by hand", ("after",))
    assert (await ask.ainvoke(None, config("t1")))["steps"] == ["before", "after"]
    history = [one async for one in ask.aget_state_history(config("t1"), limit=100)]
    assert history[0].next == ()
    (asked,) = [one for one in history if one.next == ("ask",)]
    assert (await ask.aget_state(asked.config)).values == asked.values


async def test_remote_graph_is_drawn(remote):
    drawing = await remote("nested").aget_graph(xray=True)
    assert {"__start__", "outer", "child:inner_one", "child:inner_two", "__end__"} <= drawing.nodes.keys()


async def test_remote_graph_is_a_node_of_a_local_one_whose_stream_has_its_events(remote):
    local = around(remote("nested"), InnerState)
    parts = [
        part
        async for part in local.astream({"value": 1}, config("t1"), stream_mode=["updates", "custom"], subgraphs=True)
    ]
    told = [([one.partition(":")[0] for one in namespace], mode) for namespace, mode, _ in parts]
    assert (["remote", "child"], "custom") in told
    assert (["remote"], "updates") in told
    assert told[-1] == ([], "updates")
    assert (await local.aget_state(config("t1"))).values["value"] == 20


async def test_question_of_a_remote_node_interrupts_the_local_graph_whose_answer_resumes_both(remote):
    ask = remote("ask")
    local = around(ask, AskState)
    asked = await local.ainvoke({"topic": "tea"}, config("t1"))
    (question,) = asked["__interrupt__"]
    assert question.value == {"question": "approve tea?"}
    assert (await local.aget_state(config("t1"))).next == ("remote",)
    again = await local.ainvoke(None, config("t1"))
    assert again["__interrupt__"] == [question], "the question stays, and nothing begins anew"
    answered = await local.ainvoke(Command(resume={question.id: "yes"}), config("t1"))
    assert (answered["answer"], answered["steps"]) == ("yes", ["before", "ask", "after"])
    assert (await ask.aget_state(config("t1"))).values["steps"] == ["before", "ask", "after"]


async def test_next_turn_of_a_local_graph_gives_its_remote_node_the_new_input(remote):
    local = around(remote("nested"), InnerState)
    await local.ainvoke({"value": 1}, config("t1"))
    assert (await local.ainvoke({"value": 2}, config("t1")))["value"] == 30
