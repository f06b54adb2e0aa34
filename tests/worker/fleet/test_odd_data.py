"""Data that other programs left in Redis stop no worker, no reaping, no timeout and no other task (R15, R18)."""

import asyncio
import random

import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.errors import UnknownGraphError
from langgraph_rq.shared.queue.keys import commands_channel
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.fleet import lease
from tests.fleet import PLUS_ONE, Number, one_node_graph, worker
from tests.odd_data import PLANT, documented_keys, plant
from tests.waiting import until

TIMES = QueueTimes(lease_ms=1_000)
QUEUE = "rq:queue:agent_tasks"


async def nap(_state: Number):
    await asyncio.sleep(0.3)
    return {"n": 0}


GRAPHS = {"plus one": PLUS_ONE, "nap": one_node_graph(nap, Number)}


async def ended(client: Client, task_id: str) -> State:
    return (await asyncio.to_thread(client.wait, task_id, 20)).status


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "pending", "queue": "agent_tasks"},
        {"state": "pending", "queue": "agent_tasks", "place": "queue"},
        {"state": "pending", "queue": "agent_tasks", "place": "queue", "user": "\x00", "epoch": "x", "created": "x"},
        {"state": "pending", "queue": "agent_tasks", "place": "queue", "epoch": "9" * 30, "deadline": "inf"},
        {"state": "pending", "queue": "agent_tasks", "place": "queue", "started": "nan", "created": "-1"},
        {"state": "running", "owner": "nobody"},
        {"state": "odd", "place": "odd"},
        {"created": "1"},
    ],
    ids=str,
)
async def test_task_hash_that_cannot_be_read_ends_no_worker(redis_url, client, redis_client, fields):
    async with worker(redis_url, GRAPHS, times=TIMES):
        redis_client.hset("agent:task:odd", mapping=fields)
        redis_client.zadd("agent:open", {"odd": 1})
        redis_client.rpush(QUEUE, "odd")
        assert await ended(client, client.submit({"n": 1}, graph="plus one").task_id) is State.SUCCESS


@pytest.mark.parametrize("field", ["queue", "place", "user", "thread", "owner", "created", "epoch", "deadline"])
async def test_open_task_that_lost_a_field_ends_and_the_others_do_too(redis_url, client, redis_client, field):
    ids = [client.submit({"n": 1}, graph="plus one", thread_id="t", deadline_s=5).task_id for _ in range(3)]
    redis_client.hdel(f"agent:task:{ids[1]}", field)
    async with worker(redis_url, GRAPHS, times=TIMES):
        states = [await ended(client, task_id) for task_id in ids]
    assert states[0] is states[2] is State.SUCCESS
    assert states[1].is_terminal


async def test_list_at_a_tasks_hash_does_not_keep_overdue_tasks_from_their_timeout(redis_url, client, redis_client):
    late = client.submit({"n": 1}, graph="plus one", priority="low", deadline_s=0.1).task_id
    redis_client.lpush("agent:task:planted", "x")
    redis_client.set("rq:job:planted-too", "x")
    redis_client.zadd("agent:open", {"planted": 1, "planted-too": 1, b"\xff": 1})
    redis_client.delete(f"{QUEUE}_low")
    redis_client.set("rq:suspended", 1)  # nothing is claimed: only the sweeper can end it
    async with worker(redis_url, GRAPHS, times=TIMES):
        assert await ended(client, late) is State.TIMEOUT
        await until(lambda: not redis_client.zcard("agent:open"))


async def test_odd_data_do_not_reset_the_time_after_which_a_worker_reaps(redis_url, client, redis_client, monkeypatch):
    refused = []

    def refuse(*_args, **_named):
        refused.append(1)
        raise lease.RedisError("WRONGTYPE what this duty reads has another type")

    monkeypatch.setattr(lease, "reap_call", refuse)
    late = client.submit({"n": 1}, graph="plus one", deadline_s=0.1).task_id
    redis_client.set("rq:suspended", 1)
    async with worker(redis_url, GRAPHS, times=TIMES):
        assert await ended(client, late) is State.TIMEOUT, "the sweep goes on"
        await until(lambda: len(refused) > 8)


@pytest.mark.parametrize(
    "message",
    [
        "[" * 100_000,
        '{"command":' * 50_000,
        '{"command": "stop-job", "job_id": ["x"]}',
        '{"command": "stop-job", "job_id": {}}',
        '{"command": ["shutdown"]}',
        '{"command": "shutdown"}',
        "9" * 10_000,
        b"\xff",
    ],
    ids=lambda message: str(message)[:40],
)
async def test_garbage_on_a_channel_of_ours_neither_deafens_nor_ends_a_worker(redis_url, client, redis_client, message):
    started = asyncio.Event()

    async def wait(_state):
        started.set()
        await asyncio.Event().wait()

    graphs = {"wait": one_node_graph(wait, Number)}
    async with worker(redis_url, graphs, times=QueueTimes(lease_ms=60_000)) as graph_worker:
        task_id = client.submit({"n": 1}, graph="wait").task_id
        await asyncio.wait_for(started.wait(), 10)
        redis_client.publish(commands_channel(graph_worker.name), message)
        client.cancel(task_id)  # the next renewal, which would say it too, is 15 s away
        assert (await asyncio.to_thread(client.wait, task_id, 10)).status is State.CANCELLED
        assert not graph_worker.is_stopping


@pytest.mark.parametrize("place", ["delayed", "parked", "waiting", "owned"])
async def test_id_that_stock_rq_pushes_again_is_not_claimed_from_there(redis_url, client, redis_client, place):
    running, most = 0, 0

    async def count(_state):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1

    async with worker(redis_url, {"count": one_node_graph(count, Number)}, times=TIMES):
        ids = [client.submit({"n": 1}, graph="count", thread_id="one").task_id for _ in range(3)]
        for _ in range(3):
            redis_client.rpush(QUEUE, *ids)
            redis_client.lpush(f"{QUEUE}_high", *ids)
        assert [await ended(client, task_id) for task_id in ids] == [State.SUCCESS] * 3
    assert most == 1


def submit_some(client: Client) -> list[str]:
    documents = [
        *[{"input": {"n": 1}, "graph": "nap", "deadline_s": 60}] * 3,
        *[{"input": {"n": 1}, "graph": "plus one", "thread_id": "one", "deadline_s": 60}] * 2,
    ]
    try:
        return [receipt.task_id for receipt in client.submit_many(documents)]
    except UnknownGraphError:  # the register of graphs was replaced; the next renewals write it again
        return []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("seed", "most"), [(0, 12), *(pytest.param(seed, None, marks=pytest.mark.slow) for seed in (0, 1))]
)
async def test_key_replaced_by_another_type_at_a_random_moment_ends_no_worker_and_no_other_task(
    redis_url, client, seed, most
):
    chance = random.Random(seed)
    with Redis.from_url(redis_url) as redis:
        async with worker(redis_url, GRAPHS, times=TIMES) as one, worker(redis_url, GRAPHS, times=TIMES) as other:
            keys = list(documented_keys(worker=one.name))
            for key in chance.sample(keys, most or len(keys)):
                ids = await until(lambda: submit_some(client))
                await asyncio.sleep(chance.uniform(0, 0.05))  # the random moment
                kind = chance.choice(list(PLANT))
                plant(redis, key, kind)
                states = await asyncio.gather(*[ended(client, task_id) for task_id in ids])
                assert states == [State.SUCCESS] * len(ids), (key, kind)
            assert not one.is_stopping
            assert not other.is_stopping
