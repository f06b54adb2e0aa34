"""A deadline and a cancel end a task and free its slot, also where a node does not let itself be cancelled."""

import asyncio
import time
from contextlib import suppress
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_rq import State
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from tests.fleet import ended, one_node_graph, worker
from tests.model_calls import Said, counted, run_node
from tests.waiting import until

DEADLINE_S = 2.0
"""Time for a busy machine to start the node before it."""


class Stubborn:
    """A node that swallows every cancellation until the test lets it go."""

    def __init__(self) -> None:
        self.cancellations = 0
        self.is_running = False
        self._may_go = asyncio.Event()

    async def __call__(self, _state: dict) -> dict:
        self.is_running = True
        while not self._may_go.is_set():
            try:
                await self._may_go.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
        self.is_running = False
        return {"text": "late"}

    async def let_go(self) -> None:
        self._may_go.set()
        await until(lambda: not self.is_running)


@pytest.fixture
async def stubborn():
    node = Stubborn()
    yield node
    await node.let_go()  # of a test that has failed too: its loop could not be closed


@pytest.mark.parametrize("guard", [guarded_chat_model, lambda model: model], ids=["guarded", "unchanged"])
async def test_node_that_swallows_its_cancellation_pays_nothing_after_the_deadline(redis_url, llm, chat, guard):
    model = guard(chat())

    async def go_on(_state: Said) -> Said:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        for _ in range(3):
            with suppress(Exception):
                await model.ainvoke("after the deadline")
        return {"text": "done"}

    result = await run_node(redis_url, go_on, deadline_s=DEADLINE_S)
    assert (result.status, result.error.type) == (State.TIMEOUT, ErrorType.TIMEOUT)
    assert llm.stats()["calls"] == 0


async def test_deadline_of_a_result_counts_when_the_node_swallows_its_cancellation_and_ends(redis_url):
    async def go_on(_state: Said) -> Said:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return {"text": "done"}

    result = await run_node(redis_url, go_on, deadline_s=DEADLINE_S)
    assert result.status is State.TIMEOUT


async def test_slot_of_a_node_that_does_not_end_comes_back_after_the_grace(redis_url, client, lines, stubborn):
    graphs = {"stubborn": one_node_graph(stubborn, Said), "quick": one_node_graph(lambda _state: {"text": "ok"}, Said)}
    async with worker(redis_url, graphs, concurrency=1, cancel_grace_s=0.2) as running:
        late = client.submit({"text": ""}, graph="stubborn", deadline_s=DEADLINE_S).task_id
        await until(lambda: stubborn.is_running)
        quick = client.submit({"text": ""}, graph="quick").task_id
        assert (await ended(client, late)).status is State.TIMEOUT
        assert (await ended(client, quick)).status is State.SUCCESS
        assert stubborn.is_running
        await until(lambda: running.in_flight == 0)  # the result is seen before the slot is free
        assert [line["task_id"] for line in lines.named("task.abandoned")] == [late]
        await stubborn.let_go()
    assert stubborn.cancellations >= 1


async def test_task_cancelled_by_its_user_ends_as_cancelled_though_its_node_swallows_that(redis_url, client, stubborn):
    async with worker(redis_url, {"g": one_node_graph(stubborn, Said)}, cancel_grace_s=0.2):
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: stubborn.is_running)
        client.cancel(task_id)
        assert (await ended(client, task_id)).status is State.CANCELLED
        await stubborn.let_go()


async def test_draining_worker_releases_a_task_whose_node_swallows_its_cancellation(
    redis_url, client, aredis, stubborn
):
    async with worker(redis_url, {"g": one_node_graph(stubborn, Said)}, cancel_grace_s=0.2, drain_s=0.0):
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: stubborn.is_running)
    state, crashes = await aredis.hmget(task_hash(task_id), "state", "crashes")
    assert (state, crashes) == (b"pending", None)
    await stubborn.let_go()


async def test_abandoned_run_writes_no_checkpoint_and_runs_no_further_node(redis_url, client, aredis, stubborn):
    further = []
    builder = StateGraph(Said).add_node("stubborn", stubborn).add_node("further", lambda _state: further.append(1))
    builder.add_edge(START, "stubborn").add_edge("stubborn", "further").add_edge("further", END)
    async with worker(redis_url, {"g": builder.compile()}, checkpoints=True, cancel_grace_s=0.2) as running:
        message = {"text": ""}
        task_id = client.submit(message, graph="g", thread_id="chat", deadline_s=DEADLINE_S).task_id
        assert (await ended(client, task_id)).status is State.TIMEOUT
        written = await aredis.zcard("agent:checkpoints:chat")
        assert running.abandoned == 1
        await stubborn.let_go()
        await until(lambda: running.abandoned == 0)
        assert await aredis.zcard("agent:checkpoints:chat") == written
        assert further == []


async def test_task_claimed_past_its_deadline_shows_what_its_earlier_attempts_used(redis_url, client, aredis):
    task_id = client.submit({"text": ""}, graph="g", deadline_s=60).task_id
    used = {"deadline": 1, "input_tokens": 40, "output_tokens": 2, "cost_nano_usd": 5_000_000}
    await aredis.hset(task_hash(task_id), mapping=used)
    async with worker(redis_url, {"g": one_node_graph(lambda _state: {"text": ""}, Said)}):
        result = await ended(client, task_id)
    assert (result.status, counted(result), result.metadata.cost_usd) == (State.TIMEOUT, 42, 0.005)


async def test_call_is_not_admitted_past_the_deadline_that_redis_knows(redis_url, llm, chat, aredis):
    class Ids(TypedDict, total=False):
        text: str

    model = guarded_chat_model(chat())

    async def call_late(_state: Ids) -> Ids:
        (key,) = [key async for key in aredis.scan_iter("agent:task:*")]
        await aredis.hset(key, "deadline", round(time.time() * 1000) - 1)
        await model.ainvoke("too late")
        return {"text": "paid"}

    result = await run_node(redis_url, call_late, deadline_s=60)
    assert result.status is State.TIMEOUT
    assert llm.stats()["calls"] == 0
