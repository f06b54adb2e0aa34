"""The ends of tasks are told to all who wait for them, also when something comes between."""

import asyncio
import subprocess
import sys
import time
from threading import Thread

import pytest

from langgraph_rq import AsyncClient, Client, WaitTimeoutError
from langgraph_rq.producer.client.reading import results
from langgraph_rq.producer.client.transport.ends import EndFeed
from langgraph_rq.shared.queue import verbs
from langgraph_rq.shared.queue.keys import awaited_key
from tests.waiting import until, until_sync

IN_TWO_PROCESSES = """
import asyncio, os, sys
from langgraph_rq import AsyncClient

client = AsyncClient(sys.argv[1])  # of a module that was imported before the fork

async def wait_for(ids):
    await asyncio.gather(*(client.wait(id_, 20) for id_ in ids))

def child(ids):
    if pid := os.fork():
        return pid
    try:
        asyncio.run(wait_for(ids))
    except BaseException:
        os._exit(1)
    os._exit(0)

children = [child(sys.argv[2::2]), child(sys.argv[3::2])]
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.fixture
async def aclient(redis_url):
    async with AsyncClient(redis_url) as client:
        yield client


async def test_ends_are_told_for_as_long_as_a_batch_lasts(aclient, monkeypatch):
    monkeypatch.setattr(results, "LOOK_AGAIN_S", 0.5)
    monkeypatch.setattr(verbs, "AWAITED_MS", 1_500)
    receipts = await aclient.submit_many([{"input": {"n": n}} for n in range(20)])
    began_at, asked = time.monotonic(), []
    await_ends = results.Results._await_ends

    async def noted(self, pending, reader):
        asked.append(time.monotonic() - began_at)
        return await await_ends(self, pending, reader)

    monkeypatch.setattr(results.Results, "_await_ends", noted)

    async def end_one_after_another() -> None:
        for receipt in receipts:
            await asyncio.sleep(0.1)
            await aclient.cancel(receipt.task_id)

    ending = asyncio.create_task(end_one_after_another())
    ended = [result.task_id async for result in aclient.wait_each([one.task_id for one in receipts], 60)]
    await ending
    assert len(ended) == len(receipts)
    assert len(asked) >= 3, "it is asked again while ends keep coming"


async def test_wake_up_between_two_waits_is_not_lost(aredis):
    feed = EndFeed(aredis)
    with feed.watch(["a", "b"]) as watch:
        watch.wake()  # the connection broke while the ends before were handled
        async with asyncio.timeout(10):
            assert await watch.next(60) is None
    await feed.aclose()


def test_forked_processes_do_not_take_ends_from_each_other(redis_url, redis_client):
    with Client(redis_url) as client:
        ids = [client.submit({"n": n}).task_id for n in range(6)]
        process = subprocess.Popen([sys.executable, "-c", IN_TWO_PROCESSES, redis_url, *ids])
        until_sync(lambda: all(redis_client.exists(awaited_key(id_)) for id_ in ids), 20)
        for id_ in ids:
            client.cancel(id_)
        assert process.wait(30) == 0


def test_waits_that_are_over_leave_no_reader_behind(redis_url, redis_client):
    with Client(redis_url) as client, Client(redis_url) as patient:
        id_ = client.submit({"n": 1}).task_id
        waiting = Thread(target=patient.wait, args=[id_, 60])
        waiting.start()
        until_sync(lambda: redis_client.scard(awaited_key(id_)) == 1)
        for _ in range(20):
            with pytest.raises(WaitTimeoutError):
                client.wait(id_, 0.001)
        assert redis_client.scard(awaited_key(id_)) == 1
        client.cancel(id_)
        waiting.join(20)
        assert not waiting.is_alive()


async def test_reader_of_a_process_is_found_where_many_wait(aclient, redis_client):
    receipt = await aclient.submit({"n": 1})
    waits = [asyncio.create_task(aclient.wait(receipt.task_id, 60)) for _ in range(200)]
    await until(lambda: redis_client.scard(awaited_key(receipt.task_id)))
    redis_client.sadd(awaited_key(receipt.task_id), *(f"other-{n}" for n in range(500)))
    await aclient.cancel(receipt.task_id)
    async with asyncio.timeout(20):
        await asyncio.gather(*waits)
