"""What clients answer about a task whose keys another program has overwritten (R15): one clear answer, for it alone."""

import asyncio
from threading import Thread

import pytest

from langgraph_rq import AsyncClient, Client, State, UnknownTaskError
from langgraph_rq.producer.client.transport import event_feed
from langgraph_rq.shared.errors import TaskConflictError, UnreadableTaskError
from tests.odd_data import PLANT, plant
from tests.producer.client.test_both_clients import sync_client
from tests.waiting import until_sync

TYPES = [kind for kind in PLANT if kind != "hash"]


@pytest.fixture(params=[AsyncClient, sync_client], ids=["async", "sync"])
async def client(redis_url, request):
    async with request.param(redis_url) as client:
        yield client


async def submitted(client, *ids) -> None:
    for task_id in ids:
        await client.submit({}, task_id=task_id)


@pytest.mark.parametrize("kind", TYPES)
async def test_task_hash_of_another_type_is_as_good_as_none(client, redis_client, kind):
    await submitted(client, "t")
    redis_client.delete("rq:job:t")
    plant(redis_client, "agent:task:t", kind)
    for ask in (client.status, client.wait, client.cancel):
        with pytest.raises(UnknownTaskError):
            await ask("t")
    assert await client.result("t") is None


async def test_numbers_of_another_program_count_as_zero_in_a_status(client, redis_client):
    await submitted(client, "t")
    odd = {"epoch": "x", "waits": "9" * 30, "created": b"\xff", "started": "nan", "deadline": "-1", "owner": b"\xff"}
    redis_client.hset("agent:task:t", mapping=odd)
    status = await client.status("t")
    redis_client.hset("agent:task:t", mapping={"epoch": 1, "waits": 2})
    assert (await client.status("t")).attempts == 0
    assert (status.state, status.attempts, status.submitted_at.year) == (State.PENDING, 0, 1970)


async def test_state_of_another_program_is_named(client, redis_client):
    await submitted(client, "t")
    redis_client.hset("agent:task:t", "state", "odd")
    said = r"^task 't': its state in Redis cannot be read, got: 'odd'; another program wrote it$"
    for ask in (client.status, client.wait):
        with pytest.raises(UnreadableTaskError, match=said):
            await ask("t")
    with pytest.raises(UnreadableTaskError, match="its state in Redis cannot be read"):
        await client.cancel("t")
    with pytest.raises(UnreadableTaskError, match=said):
        await client.submit({}, task_id="t")
    with pytest.raises(UnreadableTaskError, match=said):
        [event async for event in client.events("t")]
    with pytest.raises(TaskConflictError):
        await client.submit({"another": 1}, task_id="t")


async def test_task_that_cannot_be_read_is_named_after_the_results_of_all_others(client, redis_client, worker):
    await submitted(client, "a", "odd", "b", "c")
    redis_client.hset("agent:task:odd", "state", "odd")
    for _ in range(2):
        worker.end_one()
    redis_client.set("agent:result:c", "no document")
    found: list[str] = []

    async def wait() -> None:
        async for result in client.wait_each(["odd", "a", "c", "b"], 10):
            found.append(result.task_id)  # noqa: PERF401 - those before the error count

    with pytest.raises(UnreadableTaskError, match="task 'odd': its state"):
        await wait()
    assert sorted(found) == ["a", "b"]
    with pytest.raises(UnreadableTaskError, match="task 'c': its result in Redis cannot be read, got: 'no document'"):
        await client.wait("c")


async def test_entry_of_another_program_in_an_event_stream_is_of_an_unknown_type(client, redis_client):
    await submitted(client, "t")
    redis_client.xadd("agent:events:t", {"garbage": "x"})
    redis_client.xadd("agent:events:t", {"type": "odd", "data": "no\njson"})
    await client.cancel("t")
    events = [(event.type, event.data) async for event in client.events("t")]
    assert events == [("unknown", None), ("unknown", None), ("end", {"state": "cancelled"})]


def wait_sync(redis_url: str, ids: list[str], found: list[str]) -> None:
    with Client(redis_url) as client:
        found.extend(result.task_id for result in client.wait_each(ids, 30))


def wait_async(redis_url: str, ids: list[str], found: list[str]) -> None:
    async def wait() -> None:
        async with AsyncClient(redis_url) as client:
            async for result in client.wait_each(ids, 30):
                found.append(result.task_id)  # noqa: PERF401 - seen one by one

    asyncio.run(wait())


def wait_apart(redis_url: str, ids: list[str], found: list[str]) -> None:
    """Wait for each task in a coroutine of its own; all share one reader."""

    async def wait() -> None:
        async with AsyncClient(redis_url) as client:
            for result in asyncio.as_completed([client.wait(id_, 30) for id_ in ids]):
                found.append((await result).task_id)  # noqa: PERF401 - seen one by one

    asyncio.run(wait())


@pytest.mark.parametrize(
    ("wait", "kind"),
    [
        pytest.param(wait, kind, marks=() if wait is wait_async or kind == "list" else pytest.mark.slow)
        for wait in (wait_sync, wait_async, wait_apart)
        for kind in PLANT
        if kind != "stream"
    ],
)
def test_event_stream_of_another_type_holds_up_no_other_wait(redis_url, redis_client, worker, monkeypatch, wait, kind):
    monkeypatch.setattr(event_feed, "READERS", 1)
    found: list[str] = []
    with Client(redis_url) as client:
        for task_id in ("a", "b"):
            client.submit({}, task_id=task_id)
        client.submit({}, task_id="odd", priority="low")
        plant(redis_client, "agent:events:odd", kind)
        waiting = Thread(target=wait, args=(redis_url, ["odd", "a", "b"], found))
        waiting.start()
        worker.end_one()
        until_sync(lambda: len(found) == 1)
        worker.end_one()
        until_sync(lambda: sorted(found) == ["a", "b"])
        client.cancel("odd")
        waiting.join(20)
    assert found[2:] == ["odd"]
