"""A worker tells the state of its graphs' threads as LangGraph itself would, whatever else it does, whoever asks."""

import asyncio
import operator
import re
import time
from typing import Annotated

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from langgraph_rq import AsyncClient, Client, State, ThreadRequestError, UnknownGraphError
from langgraph_rq.producer.client.transport import requests
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import InvalidInputError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.settings import TaskSettings
from langgraph_rq.shared.threads.requests import Operation, Request, request_call, requests_key
from langgraph_rq.worker.task.redacted import Redaction
from tests.fleet import one_node_graph, worker
from tests.waiting import until


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def asking_graph():
    """A graph whose subgraph asks."""
    inner = StateGraph(Steps)
    inner.add_node("before", lambda _: {"steps": ["before"]})
    inner.add_node("ask", lambda _: {"steps": [interrupt("approve?")]})
    inner.add_edge(START, "before").add_edge("before", "ask")
    outer = StateGraph(Steps).add_node("child", inner.compile()).add_node("after", lambda _: {"steps": ["after"]})
    return outer.add_edge(START, "child").add_edge("child", "after").compile()


async def asked(client: AsyncClient, thread_id: str = "t") -> None:
    task = await client.submit({"steps": ["given"]}, graph="asks", thread_id=thread_id)
    assert (await client.wait(task.task_id, 20)).status is State.INTERRUPTED


async def test_state_and_history_of_a_thread_are_those_that_langgraph_itself_tells(redis_url):
    bare = asking_graph().copy({"checkpointer": InMemorySaver()})
    config = {"configurable": {"thread_id": "t"}}
    await bare.ainvoke({"steps": ["given"]}, config)
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await asked(client)
        state = await client.threads.state("t", graph="asks", subgraphs=True)
        history = await client.threads.history("t", graph="asks")
        child = await client.threads.state("t", graph="asks", checkpoint=state["tasks"][0]["state"]["checkpoint"])
        older = await client.threads.history("t", graph="asks", before=state["checkpoint"], limit=1)
        at_start = await client.threads.state("t", graph="asks", checkpoint=history[-1]["checkpoint"])
        closed = await client.threads.state("t", graph="asks")
    expected = await bare.aget_state(config, subgraphs=True)
    nested = expected.tasks[0].state
    assert (state["values"], state["next"]) == (expected.values, ["child"])
    assert [one["value"] for one in state["interrupts"]] == ["approve?"]
    assert (state["tasks"][0]["state"]["values"], state["tasks"][0]["state"]["next"]) == (nested.values, ["ask"])
    assert child["values"] == nested.values
    assert [one["values"] for one in history] == [one.values async for one in bare.aget_state_history(config)]
    assert [one["checkpoint"] for one in older] == [history[1]["checkpoint"]]
    assert at_start["next"] == ["__start__"]
    assert closed["tasks"][0]["checkpoint"]["checkpoint_ns"].startswith("child:")


EMPTY = {
    "values": {},
    "next": [],
    "tasks": [],
    "metadata": None,
    "created_at": None,
    "checkpoint": None,
    "parent_checkpoint": None,
    "interrupts": [],
    "checkpoint_id": None,
    "parent_checkpoint_id": None,
}


async def test_blocking_client_reads_them_too_and_a_thread_without_checkpoints_is_empty(redis_url, redis_client):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True):
        await until(lambda: redis_client.zscore("agent:graphs", "asks"))
        with Client(redis_url) as client:
            assert await asyncio.to_thread(client.threads.state, "never", graph="asks") == EMPTY
            assert await asyncio.to_thread(client.threads.history, "never", graph="asks") == []


async def test_graph_is_drawn_and_its_schemas_are_read_without_a_worker(redis_url, redis_client):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await until(lambda: redis_client.hexists("agent:graph_descriptions", "asks"))
        with Client(redis_url) as blocking:
            found = await asyncio.to_thread(blocking.threads.describe_graph, "asks")
        with pytest.raises(UnknownGraphError):
            await client.threads.describe_graph("other")
    assert [node["id"] for node in found.drawings[0]["nodes"]] == ["__start__", "child", "after", "__end__"]
    assert found.schemas["input_schema"]["properties"].keys() == {"steps"}
    assert found.subgraphs.keys() == {"child"}


async def test_threads_of_tenants_with_the_same_id_are_two(redis_url):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await asked(client.for_tenant("acme"))
        state = await client.for_tenant("acme").threads.state("t", graph="asks")
        assert state["checkpoint"]["thread_id"] == "t"
        assert (await client.threads.state("t", graph="asks"))["values"] == {}


async def test_request_is_answered_while_all_slots_are_taken(redis_url):
    started = asyncio.Event()

    async def wait(_state):
        started.set()
        await asyncio.Event().wait()

    graphs = {"wait": one_node_graph(wait, Steps)}
    async with (
        worker(redis_url, graphs, checkpoints=True, concurrency=1, drain_s=0.1),
        AsyncClient(redis_url) as client,
    ):
        await client.submit({}, graph="wait", thread_id="t")
        await started.wait()
        assert (await client.threads.state("t", graph="wait"))["next"] == ["node"]


async def test_what_cannot_be_answered_says_why(redis_url, redis_client):
    async with worker(redis_url, {"asks": asking_graph()}), AsyncClient(redis_url) as client:
        await until(lambda: redis_client.zscore("agent:graphs", "asks"))
        with pytest.raises(InvalidInputError, match="LGRQ_CHECKPOINTS=true"):
            await client.threads.state("t", graph="asks")
        with pytest.raises(UnknownGraphError, match="no live worker serves 'ask', known: asks"):
            await client.threads.state("t", graph="ask")
        with pytest.raises(InvalidInputError, match="thread_id"):
            await client.threads.state("", graph="asks")
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1000, got: 0"):
            await client.threads.history("t", graph="asks", limit=0)


async def test_lane_goes_on_after_requests_that_cannot_be_read(redis_url, redis_client):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await until(lambda: redis_client.zscore("agent:graphs", "asks"))
        for odd in (
            b"\xff",
            "{}",
            "[" * 10_000,
            '{"id": 1, "operation": "state", "graph": "asks", "thread": 2}',
            "null",
        ):
            now = str(time.time_ns() // 1_000_000).encode() + b" "
            redis_client.rpush(requests_key("asks"), odd, now + (odd if isinstance(odd, bytes) else odd.encode()))
        with pytest.raises(InvalidInputError, match="thread: expected what the graph can read"):
            await client.threads.history("t", graph="asks", before={"checkpoint_id": 5})
        assert (await client.threads.state("t", graph="asks"))["next"] == []


async def test_list_of_requests_of_another_type_keeps_no_task_from_running(redis_url, redis_client):
    redis_client.set(requests_key("asks"), "x")
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await asked(client)
        assert (await client.threads.state("t", graph="asks"))["next"] == ["child"]


async def test_request_whose_asker_has_given_up_is_dropped(redis_url, redis_client):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await asked(client)
        before = await client.threads.state("t", graph="asks")
        text = Request("r", Operation.DELETE, "asks", "t", {"thread_id": "t", "force": True}).text()

        async def is_empty_after(age_ms: int) -> bool:
            redis_client.rpush(requests_key("asks"), b"%d %b" % (time.time_ns() // 1_000_000 - age_ms, text))
            await until(lambda: not redis_client.exists(requests_key("asks")))
            await client.threads.state("t", graph="asks")
            return await client.threads.state("t", graph="asks") != before

        assert not await is_empty_after(11_000)
        assert await is_empty_after(0)


async def take_and_die(redis_client) -> None:
    """What a worker does that is killed before it has answered: the connection that took the request is gone."""
    await until(lambda: redis_client.lpop(requests_key("asks")))


async def test_read_that_was_taken_by_a_killed_worker_is_answered_by_another_one(redis_url, redis_client):
    redis_client.zadd("agent:graphs", {"asks": time.time() * 1000 + 60_000})
    async with AsyncClient(redis_url) as client:
        began_at = time.monotonic()
        state = asyncio.create_task(client.threads.state("t", graph="asks"))
        await take_and_die(redis_client)
        async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True):
            assert await state == EMPTY
    assert time.monotonic() - began_at < requests.ANSWERED_WITHIN_S / 2


async def test_write_that_was_taken_by_a_killed_worker_is_not_sent_again(redis_url, redis_client, monkeypatch):
    monkeypatch.setattr(requests, "ANSWERED_WITHIN_S", 0.4)
    monkeypatch.setattr(requests, "_REPEAT_AFTER_S", 0.1)
    redis_client.zadd("agent:graphs", {"asks": time.time() * 1000 + 60_000})
    async with AsyncClient(redis_url) as client:
        written = asyncio.create_task(client.threads.update("t", {"steps": ["x"]}, graph="asks"))
        await take_and_die(redis_client)
        with pytest.raises(ThreadRequestError, match="no worker answered"):
            await written
        assert redis_client.llen(requests_key("asks")) == 0


async def test_read_is_not_sent_again_while_other_requests_wait(redis_url, redis_client, monkeypatch):
    monkeypatch.setattr(requests, "ANSWERED_WITHIN_S", 0.4)
    monkeypatch.setattr(requests, "_REPEAT_AFTER_S", 0.1)
    redis_client.zadd("agent:graphs", {"asks": time.time() * 1000 + 60_000})
    async with AsyncClient(redis_url) as client:
        with pytest.raises(ThreadRequestError, match="no worker answered"):
            await client.threads.state("t", graph="asks")
        assert redis_client.llen(requests_key("asks")) == 1


KEYS = "default:k1:" + "s" * 32
OTHERS = "default:k1:" + "x" * 32


async def test_workers_with_task_keys_answer_only_requests_that_the_tenant_signed(redis_url, monkeypatch):
    monkeypatch.setattr(requests, "ANSWERED_WITHIN_S", 0.5)
    signing, forging = TaskSettings(task_keys=KEYS), TaskSettings(task_keys=OTHERS)
    async with (
        worker(redis_url, {"asks": asking_graph()}, checkpoints=True, keys=signing.keys()),
        AsyncClient(redis_url, tasks=signing) as client,
        AsyncClient(redis_url) as unsigned,
        AsyncClient(redis_url, tasks=forging) as forged,
    ):
        await asked(client)
        for refused in (unsigned, forged):
            with pytest.raises(ThreadRequestError, match="no worker answered"):
                await refused.threads.state("t", graph="asks")
        monkeypatch.setattr(requests, "ANSWERED_WITHIN_S", 10)
        assert (await client.threads.state("t", graph="asks"))["next"] == ["child"]


def test_list_of_requests_is_bounded_and_forgotten(redis_client):
    request = Request("r", Operation.STATE, "g", "t", {"thread_id": "t"})
    redis_client.zadd("agent:graphs", {"g": 2_000, "gone": 500})

    def ask(**named):
        return scripts.run_sync(redis_client, request_call(request, request.text(), now_ms=1_000, **named))

    assert ask() == [1]
    assert 0 < redis_client.pttl(requests_key("g")) <= 10_000
    redis_client.rpush(requests_key("g"), *["x"] * 999)
    assert ask() == [-1]
    redis_client.zadd("agent:graphs", {"g": 1_000, "other": 3_000})
    assert ask() == [0, "other"]


async def test_masked_states_keep_their_ids_and_can_be_asked_for_again(redis_url):
    class Mail(TypedDict, total=False):
        mail: str

    asks = StateGraph(Mail).add_node("ask", lambda state: {"mail": interrupt(state["mail"])}).add_edge(START, "ask")
    masking = Redaction(Redactor({"id": "[0-9a-f]{4,}", "node": "ask"}))
    async with (
        worker(redis_url, {"asks": asks.compile()}, checkpoints=True, redaction=masking),
        AsyncClient(redis_url) as client,
    ):
        task = await client.submit({"mail": "ann@example.org"}, graph="asks", thread_id="1234-abcd")
        await client.wait(task.task_id, 20)
        state = await client.threads.state("1234-abcd", graph="asks")
        (older,) = await client.threads.history("1234-abcd", graph="asks", before=state["checkpoint"])
        again = await client.threads.state("1234-abcd", graph="asks", checkpoint=state["checkpoint"])
        written = await client.threads.update("1234-abcd", {"mail": "x"}, graph="asks", checkpoint=older["checkpoint"])
    assert state["values"] == {"mail": "[email]"}
    assert (state["next"], state["tasks"][0]["name"]) == (["ask"], "ask")
    assert state["interrupts"] == state["tasks"][0]["interrupts"]
    assert [one["value"] for one in state["interrupts"]] == ["[email]"]
    assert re.fullmatch("[0-9a-f]{32}", state["interrupts"][0]["id"])
    assert state["metadata"]["thread_id"] == state["checkpoint"]["thread_id"] == "1234-abcd"
    assert state["parent_checkpoint"] == older["checkpoint"]
    assert again == state
    assert re.fullmatch("[0-9a-f-]{36}", written["checkpoint_id"])
