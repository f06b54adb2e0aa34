"""Idle workers are woken one at a time, and no wake-up is lost for long, whoever dies."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.keys import bell_key, queue_key, watcher_key
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.fleet import claiming
from langgraph_rq.worker.fleet.claiming import BLOCK_S, Claimer
from tests.waiting import until

QUEUE = "agent_tasks"
TIMES = QueueTimes(lease_ms=60_000)
GRAPHS = {"assistant": "{}"}


class Idler:
    """A worker's claimer without its runs: it counts how often it was woken, and claims if it is to."""

    def __init__(self, redis, blocking, name):
        self.name, self.woken, self.claimed, self.ids = name, 0, [], frozenset()
        self._to_look = asyncio.Event()
        self.claims = self.has_room = True
        self.claimer = Claimer(
            redis, blocking, [QUEUE], GRAPHS, TIMES, self, Outage(), on_work=self._wake, has_room=lambda: self.has_room
        )

    def start(self, claimed, _worker):
        self.claimed.append(claimed.id)

    def _wake(self):
        self.woken += 1
        self._to_look.set()

    async def work(self):
        await self.claimer.claim(self.name, 1)
        while True:
            await self._to_look.wait()
            self._to_look.clear()
            if self.claims:
                await self.claimer.claim(self.name, 1)


@asynccontextmanager
async def idle_workers(url, number, *, is_watched=True):
    clients = [Redis.from_url(url, socket_timeout=60) for _ in range(2 * number)]
    idlers = [Idler(clients[i], clients[number + i], f"w{i}") for i in range(number)]
    for idler in idlers:
        await scripts.run(clients[0], renew_call(idler.name, 60_000, [QUEUE], GRAPHS, join=True))
    jobs = [asyncio.create_task(idler.work()) for idler in idlers]
    jobs += [asyncio.create_task(idler.claimer.wait_for_work()) for idler in idlers]
    jobs += [asyncio.create_task(idler.claimer.watch(QUEUE)) for idler in idlers if is_watched]
    try:
        await until(lambda: _are_blocked(clients[0], number + is_watched))
        yield idlers
    finally:
        left = set(jobs)
        while left:  # redis-py may swallow a cancellation that comes while it connects
            for job in left:
                job.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)
        for client in clients:
            await client.aclose()


async def _are_blocked(redis, number):
    return (await redis.info("clients"))["blocked_clients"] >= number


async def submit(redis, *ids):
    for task_id in ids:
        task = Task.parse({"input": {}, "task_id": task_id, "user_id": task_id}, TaskLimits())
        await scripts.run(redis, submit_call(task, QUEUE, TIMES))


def claimed(idlers):
    return [task_id for idler in idlers for task_id in idler.claimed]


async def push_as_stock_rq(redis, task_id):
    await redis.hset(f"rq:job:{task_id}", mapping={"data": "[]", "status": "queued"})
    await redis.rpush(queue_key(QUEUE), task_id)


async def test_submit_wakes_one_of_twelve_idle_workers(aredis, redis_url):
    async with idle_workers(redis_url, 12) as idlers:
        for number in range(1, 6):
            await submit(aredis, f"t{number}")
            await until(lambda number=number: len(claimed(idlers)) == number)
        assert 5 <= sum(idler.woken for idler in idlers) <= 10


async def test_job_of_stock_rq_wakes_a_worker_at_once(aredis, redis_url):
    async with idle_workers(redis_url, 12) as idlers:
        began = time.monotonic()
        await push_as_stock_rq(aredis, "stock")
        await until(lambda: claimed(idlers) == ["stock"])
        assert time.monotonic() - began < BLOCK_S / 2
        assert sum(idler.woken for idler in idlers) <= 2


async def test_queue_is_watched_although_another_program_wrote_to_the_key_of_its_watcher(aredis, redis_url):
    await aredis.rpush(watcher_key(QUEUE), "odd")
    async with idle_workers(redis_url, 2) as idlers:
        await push_as_stock_rq(aredis, "stock")
        await until(lambda: claimed(idlers) == ["stock"], BLOCK_S / 2)


async def test_claim_that_leaves_work_wakes_another_worker(aredis, redis_url):
    async with idle_workers(redis_url, 3, is_watched=False) as idlers:
        await submit(aredis, "t1", "t2", "t3")
        await until(lambda: len(claimed(idlers)) == 3, BLOCK_S / 2)
        assert sum(1 for idler in idlers if idler.claimed) > 1


async def test_wake_up_of_a_worker_that_died_is_made_up_for_by_the_watcher(aredis, redis_url):
    async with idle_workers(redis_url, 3) as idlers:
        for idler in idlers:
            idler.claims = False
        await submit(aredis, "t1")
        await until(lambda: sum(idler.woken for idler in idlers))
        (dead,) = [idler for idler in idlers if idler.woken]
        for idler in idlers:
            idler.claims = idler is not dead
        await until(lambda: claimed(idlers) == ["t1"], BLOCK_S / 2)


async def test_wake_up_is_made_up_for_while_the_watcher_is_dead_too(aredis, redis_url, monkeypatch):
    monkeypatch.setattr(claiming, "BLOCK_S", 1)
    await aredis.set(watcher_key(QUEUE), "killed", px=60_000)
    async with idle_workers(redis_url, 3, is_watched=False) as idlers:
        await push_as_stock_rq(aredis, "stock")
        await until(lambda: claimed(idlers) == ["stock"], 2 * BLOCK_S)


async def test_another_worker_watches_once_the_watcher_was_killed(aredis, redis_url, monkeypatch):
    monkeypatch.setattr(claiming, "_WATCH_S", 1)
    await aredis.set(watcher_key(QUEUE), "killed", px=1_000)
    async with idle_workers(redis_url, 2) as idlers:
        assert await aredis.get(watcher_key(QUEUE)) not in {None, b"killed"}
        await push_as_stock_rq(aredis, "stock")
        await until(lambda: claimed(idlers) == ["stock"], BLOCK_S / 2)


async def test_worker_without_room_passes_the_wake_up_on(aredis, redis_url):
    async with idle_workers(redis_url, 3, is_watched=False) as idlers:
        idlers[0].has_room = idlers[1].has_room = False
        idlers[0].claims = idlers[1].claims = False
        await submit(aredis, "t1")
        await until(lambda: idlers[2].claimed == ["t1"], BLOCK_S / 2)


@pytest.mark.parametrize("loss", ["connections", "bells"])
async def test_workers_find_work_after_redis_lost(aredis, redis_url, loss):
    async with idle_workers(redis_url, 3) as idlers:
        if loss == "connections":
            await aredis.client_kill_filter(_type="normal", skipme=True)
            await submit(aredis, "t1")
        else:
            for idler in idlers:
                idler.claims = False
            await submit(aredis, "t1")
            await aredis.delete(bell_key(QUEUE), watcher_key(QUEUE))
            for idler in idlers:
                idler.claims = True
        await until(lambda: claimed(idlers) == ["t1"], 2 * BLOCK_S)
