"""The client for services that live in an event loop does what the synchronous one does."""

import asyncio
import subprocess
import sys
from datetime import timedelta

import pytest
from langgraph.types import interrupt

from langgraph_rq import (
    AsyncClient,
    Client,
    InvalidTaskError,
    RedisUnavailableError,
    TaskConflictError,
    UnknownTaskError,
    WaitTimeoutError,
)
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.events import BEGINNING
from langgraph_rq.shared.tasks import State
from tests.fleet import PLUS_ONE, Number, one_node_graph, worker
from tests.waiting import until


@pytest.fixture
async def client(redis_url):
    async with AsyncClient(redis_url) as client:
        yield client


@pytest.fixture
async def serving(redis_url):
    async with worker(redis_url, {"g": PLUS_ONE}) as one:
        yield one


async def test_task_is_submitted_and_waited_for(client, serving):
    task = await client.submit({"n": 1}, graph="g")
    assert (task.state, task.created) == (State.PENDING, True)
    result = await client.wait(task.task_id, timeout_s=20)
    assert (result.status, result.result) == (State.SUCCESS, {"n": 2})
    assert await client.result(task.task_id) == result
    status = await client.status(task.task_id)
    assert (status.state, status.attempts, status.worker) == (State.SUCCESS, 1, serving.name)
    assert status.deadline_at - status.submitted_at == timedelta(seconds=300)


async def test_many_tasks_are_waited_for_at_once(client, serving):
    receipts = await client.submit_many([{"input": {"n": n}, "graph": "g"} for n in range(250)])
    results = await asyncio.gather(*(client.wait(receipt.task_id, 30) for receipt in receipts))
    assert [result.result["n"] for result in results] == list(range(1, 251))


async def test_calls_of_many_coroutines_share_round_trips(client, redis_client):
    await client.submit({})  # which connects, and reads what the graph takes
    before = redis_client.info("stats")["total_reads_processed"]
    await asyncio.gather(*(client.submit({"n": n}) for n in range(100)))
    assert redis_client.info("stats")["total_reads_processed"] - before < 50


async def test_long_calls_have_connections_of_their_own(client, redis_client):
    await client.submit({})
    before = redis_client.info("clients")["connected_clients"]
    await asyncio.gather(*(client.submit({"text": "x" * 100_000}) for _ in range(8)))
    assert redis_client.info("clients")["connected_clients"] - before > 1


async def test_same_id_is_the_same_task_and_another_body_a_conflict(client):
    await client.submit({"n": 1}, task_id="t")
    assert (await client.submit({"n": 1}, task_id="t")).created is False
    with pytest.raises(TaskConflictError):
        await client.submit({"n": 2}, task_id="t")


async def test_wait_ends_in_time_and_the_task_goes_on(client):
    task = await client.submit({"n": 1})
    with pytest.raises(WaitTimeoutError):
        await client.wait(task.task_id, timeout_s=0.05)
    assert (await client.status(task.task_id)).state is State.PENDING


@pytest.mark.parametrize("is_new", [True, False])
async def test_wait_of_a_task_that_has_ended_meanwhile_answers(client, is_new):
    task = await client.submit({"n": 1})
    await client.cancel(task.task_id)
    document = await client.wait_json(task.task_id, 20, is_new=is_new)
    assert document == await client.result_json(task.task_id)


async def test_result_that_is_gone_is_an_error_and_no_endless_wait(client, redis_client, redis_url):
    task = await client.submit({"n": 1})
    await client.cancel(task.task_id)
    redis_client.delete(f"agent:result:{task.task_id}")
    with pytest.raises(UnknownTaskError, match="its result was kept for its time to live only"):
        await client.wait(task.task_id)
    with Client(redis_url) as sync, pytest.raises(UnknownTaskError, match="its result was kept"):
        sync.wait(task.task_id, timeout_s=20)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.status("nobody"),
        lambda client: client.wait("nobody"),
        lambda client: client.cancel("nobody"),
        lambda client: client.resume("nobody", 1),
        lambda client: anext(client.events("nobody")),
    ],
)
async def test_unknown_task_is_an_error(client, ask):
    with pytest.raises(UnknownTaskError):
        await ask(client)


async def test_invalid_task_is_refused_before_anything_is_queued(client, redis_client):
    with pytest.raises(InvalidTaskError, match="graf: unknown field"):
        await client.submit_many([{"input": {}}, {"input": {}, "graf": "g"}])
    assert redis_client.zcard("agent:open") == 0


async def test_cancel_ends_a_waiting_task_at_once_and_wakes_its_waiter(client):
    task = await client.submit({"n": 1})
    waiting = asyncio.create_task(client.wait(task.task_id, 20))
    assert await client.cancel(task.task_id) is State.CANCELLED
    assert (await waiting).status is State.CANCELLED


async def test_waiters_for_ends_share_a_connection_and_read_no_events(client, redis_client):
    ids = [receipt.task_id for receipt in await client.submit_many([{"input": {"n": n}} for n in range(100)])]
    waits = [asyncio.create_task(client.wait(task_id, 20)) for task_id in ids]
    await until(lambda: len(redis_client.keys("agent:awaited:*")) == len(ids))
    await until(lambda: blocked_readers(redis_client) == 1)
    before = reads(redis_client)
    redis_client.xadd(f"agent:events:{ids[0]}", {"type": "custom", "data": '{"attempt":1,"data":1}'})
    for task_id in ids:
        await client.cancel(task_id)
    assert {(await waiting).status for waiting in waits} == {State.CANCELLED}
    assert reads(redis_client) == before


async def test_ends_are_looked_for_where_redis_may_not_tell_of_them(redis_url, redis_client):
    redis_client.acl_setuser("old", enabled=True, nopass=True, categories=["+@all"], keys=["rq:*", "agent:[^a]*"])
    async with AsyncClient(redis_url.replace("://", "://old:any@")) as client:
        task = await client.submit({"n": 1})
        waiting = asyncio.create_task(client.wait(task.task_id, 20))
        await client.cancel(task.task_id)
        assert (await waiting).status is State.CANCELLED


async def test_wait_goes_on_after_a_restart_of_redis():
    with EmbeddedRedis(appendfsync="always") as redis:
        async with AsyncClient(redis.url) as client:
            task = await client.submit({"n": 1})
            waiting = asyncio.create_task(client.wait(task.task_id, 30))
            await until(lambda: client.redis.exists(f"agent:awaited:{task.task_id}"))
            redis.kill()
            redis.start()
            assert await client.cancel(task.task_id) is State.CANCELLED
            assert (await waiting).status is State.CANCELLED


def blocked_readers(redis_client):
    return redis_client.info("clients")["blocked_clients"]


def reads(redis_client):
    stats = redis_client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xread", "xrevrange"))


async def test_interrupted_task_is_resumed(redis_url, client):
    async def ask(_state):
        return {"n": interrupt("how many?")}

    async with worker(redis_url, {"g": one_node_graph(ask, Number)}, checkpoints=True):
        asked = (await client.submit({"n": 1}, graph="g")).task_id
        assert (await client.wait(asked, 20)).status is State.INTERRUPTED
        result = await client.wait((await client.resume(asked, 5)).task_id, 20)
    assert result.result == {"n": 5}


async def test_events_come_as_they_happen_and_end_with_the_task(redis_url, client):
    task = await client.submit({"n": 1}, graph="g", stream=["updates"])

    async def follow():
        return [event async for event in client.events(task.task_id)]

    following = asyncio.create_task(follow())
    async with worker(redis_url, {"g": PLUS_ONE}):
        told = await asyncio.wait_for(following, 20)
    assert [event.type for event in told] == ["state", "node", "updates", "node", "end"]
    rest = [event async for event in client.events(task.task_id, told[1].id)]
    assert rest == told[2:]


async def test_followers_of_one_task_each_see_everything(redis_url, client):
    task = await client.submit({"n": 1}, graph="g", stream=["values"])

    async def follow():
        return [event.id async for event in client.events(task.task_id)]

    following = [asyncio.create_task(follow()) for _ in range(20)]
    async with worker(redis_url, {"g": PLUS_ONE}):
        seen = await asyncio.wait_for(asyncio.gather(*following), 20)
    assert all(ids == seen[0] for ids in seen)
    assert len(seen[0]) == 6


async def test_waiter_survives_a_restart_of_redis():
    with EmbeddedRedis(appendfsync="always") as redis:
        async with AsyncClient(redis.url) as client:
            task = await client.submit({"n": 1}, graph="g", stream=["values"])
            seen: list = []

            async def follow():
                seen.extend([event.type async for event in client.events(task.task_id)])

            following = asyncio.create_task(follow())
            await until(lambda: client.redis.info("clients"))
            redis.kill()
            redis.start()
            async with worker(redis.url, {"g": PLUS_ONE}):
                await asyncio.wait_for(following, 30)
    assert seen == ["state", "values", "node", "node", "values", "end"]


async def test_follower_hears_that_nothing_happens_while_redis_is_away_and_can_be_ended():
    with EmbeddedRedis() as redis:
        async with AsyncClient(redis.url) as client, asyncio.timeout(60):
            task = await client.submit({"n": 1})
            following = await client.follow(task.task_id, BEGINNING, 0.05)
            redis.kill()
            assert [await anext(following) for _ in range(12)] == [None] * 12
            client.end_waits()
            assert {event async for event in following} <= {None}


async def test_redis_that_is_away_is_named_without_its_password():
    async with AsyncClient("redis://:hush@127.0.0.1:1/0") as client:
        with pytest.raises(RedisUnavailableError, match=r"cannot reach Redis at redis://\*\*\*@127\.0\.0\.1:1"):
            await client.submit({})


async def test_one_tenants_tasks_do_not_exist_for_another(client):
    acme, other = client.for_tenant("acme"), client.for_tenant("other")
    task = await acme.submit({"n": 1})
    assert (await acme.status(task.task_id)).state is State.PENDING
    for stranger in (other, client):
        with pytest.raises(UnknownTaskError):
            await stranger.status(task.task_id)


async def test_keys_of_waiting_are_forgotten(redis_url, redis_client, client):
    waits = [asyncio.create_task(client.wait((await client.submit({})).task_id, 0.3)) for _ in range(30)]
    await asyncio.gather(*waits, return_exceptions=True)
    assert all(0 < redis_client.ttl(key) <= 60 for key in redis_client.keys("agent:wake:*"))
    assert all(0 < redis_client.ttl(key) <= 90 for key in redis_client.keys("agent:awaited:*"))


def test_importing_the_producer_loads_neither_the_gateway_nor_langgraph():
    heavy = ("fastapi", "uvicorn", "limits", "langgraph", "langchain_core")
    program = f"import sys, langgraph_rq.producer.cli.main; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
