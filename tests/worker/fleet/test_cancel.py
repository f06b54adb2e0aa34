"""Cancelling stops spending: whatever the task is doing, and whoever dies in between."""

import asyncio
import threading
from typing import TypedDict

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from redis import Redis
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.fleet.node_threads import NodeThreads
from tests.fleet import one_node_graph, worker
from tests.waiting import until


class Empty(TypedDict, total=False):
    n: int


def sleeper():
    """A graph that sleeps, and what tells of it."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def sleep(_state: Empty):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    return one_node_graph(sleep, Empty), started, stopped


async def test_async_node_of_a_cancelled_task_is_stopped_at_once(redis_url, client):
    graph, started, stopped = sleeper()
    async with worker(redis_url, {"sleep": graph}):
        task = client.submit({}, graph="sleep")
        await started.wait()
        assert client.cancel(task.task_id) is State.RUNNING
        result = await asyncio.to_thread(client.wait, task.task_id, 10)
    assert stopped.is_set()
    assert (result.status, result.error) == (State.CANCELLED, None)
    assert client.cancel(task.task_id) is State.CANCELLED


async def test_rqs_stop_command_cancels_too(redis_url, client, redis_client):
    graph, started, stopped = sleeper()
    async with worker(redis_url, {"sleep": graph}):
        task = client.submit({}, graph="sleep")
        await started.wait()
        with Redis.from_url(redis_url) as raw:
            await asyncio.to_thread(send_stop_job_command, raw, task.task_id, JSONSerializer)
        result = await asyncio.to_thread(client.wait, task.task_id, 10)
    assert result.status is State.CANCELLED
    assert stopped.is_set()
    assert redis_client.hget(f"rq:job:{task.task_id}", "status") == "canceled"


async def test_cancel_published_while_a_worker_does_not_listen_is_seen_when_it_does(redis_url, client, redis_client):
    graph, started, stopped = sleeper()
    async with worker(redis_url, {"sleep": graph}, times=QueueTimes(lease_ms=600_000)):
        task = client.submit({}, graph="sleep")
        await started.wait()
        redis_client.client_kill_filter(_type="pubsub")
        client.cancel(task.task_id)  # the next renewal by the clock is minutes away
        assert (await asyncio.to_thread(client.wait, task.task_id, 10)).status is State.CANCELLED
    assert stopped.is_set()


async def test_cancel_that_no_message_told_of_is_read_at_the_next_renewal(redis_url, client, redis_client):
    graph, started, stopped = sleeper()
    async with worker(redis_url, {"sleep": graph}):
        task = client.submit({}, graph="sleep")
        await started.wait()
        redis_client.hset(f"agent:task:{task.task_id}", "cancel", 1)
        assert (await asyncio.to_thread(client.wait, task.task_id, 10)).status is State.CANCELLED
    assert stopped.is_set()


async def test_sync_node_of_a_cancelled_task_is_left_alone_and_its_result_is_dropped(redis_url, client):
    started, goes_on = threading.Event(), threading.Event()

    def block(_state: Empty):
        started.set()
        goes_on.wait(30)
        return {"n": 1}

    async with worker(redis_url, {"block": one_node_graph(block, Empty)}):
        task = client.submit({}, graph="block")
        await asyncio.to_thread(started.wait)
        client.cancel(task.task_id)
        result = await asyncio.to_thread(client.wait, task.task_id, 10)
        goes_on.set()
    assert (result.status, result.result) == (State.CANCELLED, None)
    assert client.result(task.task_id).status is State.CANCELLED


async def test_task_cancelled_before_it_began_never_runs(redis_url, client):
    task = client.submit({}, graph="sleep")
    assert client.cancel(task.task_id) is State.CANCELLED
    graph, started, _ = sleeper()
    async with worker(redis_url, {"sleep": graph}, burst=True):
        pass
    assert not started.is_set()
    result = client.result(task.task_id)
    assert (result.status, result.metadata.graph, result.metadata.attempts) == (State.CANCELLED, "sleep", 0)
    assert result.started_at is None


async def test_task_past_its_deadline_ends_as_timeout_while_it_waits(redis_url, client):
    graph, started, _ = sleeper()
    async with worker(redis_url, {"sleep": graph}, concurrency=1, drain_s=0.1):
        client.submit({}, graph="sleep")
        await started.wait()
        late = client.submit({}, graph="sleep", deadline_s=0.5)
        result = await asyncio.to_thread(client.wait, late.task_id, 20)
        assert result.status is State.TIMEOUT
        assert "0.5 s passed in the queue" in result.error.message
        assert client.status(late.task_id).attempts == 0


@pytest.mark.parametrize("ending", ["cancelled", "timeout", "error"])
async def test_thread_is_usable_after_a_task_ended_in_the_middle_of_a_tool_call(redis_url, client, ending):
    started = asyncio.Event()
    is_first = True

    async def ask(_state: MessagesState):
        if is_first:
            call = {"id": "call-1", "name": "search", "args": {}}
            return {"messages": [AIMessage("", tool_calls=[call])]}
        return {"messages": [AIMessage("done")]}

    async def search(_state: MessagesState):
        started.set()
        if ending == "error":
            raise ValueError("the tool broke")
        await asyncio.sleep(60)

    def route(_state: MessagesState):
        return "search" if is_first else END

    builder = StateGraph(MessagesState).add_node("ask", ask).add_node("search", search)
    graph = builder.add_edge(START, "ask").add_conditional_edges("ask", route).compile()
    async with worker(redis_url, {"agent": graph}, checkpoints=True):
        message = {"messages": [{"role": "user", "content": "hello"}]}
        first = client.submit(message, graph="agent", thread_id="chat", deadline_s=2 if ending == "timeout" else 60)
        await started.wait()
        if ending == "cancelled":
            client.cancel(first.task_id)
        assert (await asyncio.to_thread(client.wait, first.task_id, 20)).status == ending
        is_first = False
        second = client.submit(message, graph="agent", thread_id="chat")
        result = await asyncio.to_thread(client.wait, second.task_id, 20)
    kinds = [message["type"] for message in result.result["messages"]]
    assert kinds == ["human", "ai", "tool", "human", "ai"]
    assert result.result["messages"][2]["tool_call_id"] == "call-1"


async def test_further_task_of_a_thread_waits_for_the_first_and_holds_no_slot(redis_url, client):
    goes_on = asyncio.Event()
    running = []

    async def chat(state: Empty):
        running.append(state["n"])
        await goes_on.wait()

    async with worker(redis_url, {"chat": one_node_graph(chat, Empty)}, concurrency=2):
        tasks = [client.submit({"n": n}, graph="chat", thread_id="t") for n in range(2)]
        other = client.submit({"n": 9}, graph="chat")
        await until(lambda: len(running) == 2)
        assert set(running) == {0, 9}
        goes_on.set()
        for task in (*tasks, other):
            assert (await asyncio.to_thread(client.wait, task.task_id, 10)).status is State.SUCCESS
    assert running[-1] == 1


async def test_thread_of_a_node_that_its_task_left_behind_is_counted(redis_url, client):
    started, goes_on = threading.Event(), threading.Event()

    def block(_state: Empty):
        started.set()
        goes_on.wait(30)

    threads = NodeThreads(4)
    asyncio.get_running_loop().set_default_executor(threads)
    async with worker(redis_url, {"block": one_node_graph(block, Empty)}):
        task = client.submit({}, graph="block")
        await asyncio.to_thread(started.wait)
        assert threads.abandoned == 0
        client.cancel(task.task_id)
        await until(lambda: threads.abandoned == 1)
        goes_on.set()
        await until(lambda: threads.abandoned == 0)


async def test_tool_calls_that_were_answered_are_not_answered_again(redis_url, client):
    async def ask(_state: MessagesState):
        call = {"id": "call-1", "name": "search", "args": {}}
        return {"messages": [AIMessage("", tool_calls=[call]), ToolMessage("found", tool_call_id="call-1")]}

    graph = one_node_graph(ask, MessagesState)
    async with worker(redis_url, {"agent": graph}, checkpoints=True):
        for _ in range(2):
            task = client.submit({"messages": "hi"}, graph="agent", thread_id="chat")
            result = await asyncio.to_thread(client.wait, task.task_id, 20)
    assert [message["type"] for message in result.result["messages"]] == ["human", "ai", "tool"] * 2
