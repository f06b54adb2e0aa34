"""Threads are copied and pruned for both clients, whatever begins meanwhile."""

import asyncio

import pytest

from langgraph_rq import AsyncClient, Client, ThreadBusyError
from langgraph_rq.shared.errors import InvalidInputError
from langgraph_rq.worker.state.saver import upkeep
from tests.fleet import worker
from tests.worker.threads.test_thread_requests import Steps, asked, asking_graph, one_node_graph


def steps_graph():
    return one_node_graph(lambda _: {"steps": ["ran"]}, Steps)


async def ran(client, thread_id="t", times=1) -> None:
    for _ in range(times):
        task = await client.submit({"steps": ["given"]}, graph="steps", thread_id=thread_id)
        await client.wait(task.task_id, 20)


async def test_blocking_client_copies_prunes_and_measures(redis_url):
    def use(client: Client):
        copy = client.threads.copy("t", graph="steps")
        yield client.threads.history(copy, graph="steps", limit=50)
        yield client.threads.prune([copy], strategy="keep_latest", graph="steps") == [copy]
        yield client.threads.history(copy, graph="steps")
        yield client.threads.storage(copy, graph="steps")
        yield client.threads.prune([copy], graph="steps") == [copy]
        yield client.threads.state(copy, graph="steps")["values"]

    async with worker(redis_url, {"steps": steps_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await ran(client, times=3)
        before = await client.threads.history("t", graph="steps", limit=50)
        with Client(redis_url) as blocking:
            copied, is_pruned, kept, size, is_deleted, values = await asyncio.to_thread(list, use(blocking))
        assert [one["values"] for one in copied] == [one["values"] for one in before]
        assert (is_pruned, [one["values"] for one in kept]) == (True, [before[0]["values"]])
        assert size["checkpoints"]["count"] == 1
        assert (is_deleted, values) == (True, {})
        assert await client.threads.history("t", graph="steps", limit=50) == before


async def test_copy_is_given_up_when_a_task_of_the_thread_begins_meanwhile(redis_url, redis_client, monkeypatch):
    copy = upkeep.copy

    async def copy_slowly(threads, source, target):
        await copy(threads, source, target)
        async with AsyncClient(redis_url) as other:
            await ran(other)

    async with worker(redis_url, {"steps": steps_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await ran(client)
        monkeypatch.setattr(upkeep, "copy", copy_slowly)
        with pytest.raises(ThreadBusyError):
            await client.threads.copy("t", "copied", graph="steps")
        assert await client.threads.history("copied", graph="steps") == []
        assert not redis_client.exists("agent:thread_row:copied")
        assert (await client.threads.state("t", graph="steps"))["values"]["steps"] == ["given", "ran"] * 2
        monkeypatch.undo()
        assert await client.threads.copy("t", "copied", graph="steps") == "copied"


async def test_thread_with_checkpoints_is_not_copied_over(redis_url):
    async with worker(redis_url, {"steps": steps_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        for thread in ("t", "u"):
            await ran(client, thread)
        with pytest.raises(InvalidInputError, match="target_thread_id: expected a new thread"):
            await client.threads.copy("t", "u", graph="steps")
        with pytest.raises(InvalidInputError, match="strategy: expected delete or keep_latest, got: 'all'"):
            await client.threads.prune(["t"], strategy="all", graph="steps")
        assert (await client.threads.state("u", graph="steps"))["values"]["steps"] == ["given", "ran"]


async def test_copy_of_a_thread_that_asks_is_answered_for_itself(redis_url):
    async with worker(redis_url, {"asks": asking_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        await asked(client)
        copy = await client.threads.copy("t", graph="asks")
        task = await client.submit(None, graph="asks", thread_id=copy, command={"resume": "yes"})
        assert (await client.wait(task.task_id, 20)).result["steps"] == ["given", "given", "before", "yes", "after"]
        assert (await client.threads.state("t", graph="asks"))["next"] == ["child"]


async def test_threads_of_another_tenant_are_not_reached(redis_url):
    async with worker(redis_url, {"steps": steps_graph()}, checkpoints=True), AsyncClient(redis_url) as client:
        acme = client.for_tenant("acme")
        await ran(acme)
        assert await client.threads.prune(["t"], graph="steps") == ["t"]
        copy = await client.threads.copy("t", graph="steps")
        assert await client.threads.history(copy, graph="steps") == []
        assert (await acme.threads.state("t", graph="steps"))["values"]["steps"] == ["given", "ran"]
