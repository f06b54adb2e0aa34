"""A tenant that fills Redis is refused before another one is, and gets its room back exactly once."""

import pytest

from langgraph_rq import AsyncClient
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import QueueFullError, TenantFullError
from langgraph_rq.shared.queue.answers import Submitted
from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.queue.verbs import submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE, TIMES
from tests.shared.queue.test_task_queue_turns import Turns

LARGE = {"text": "x" * 100_000}


@pytest.fixture
async def queue(aredis):
    queue = Shares(aredis)
    await queue.join()
    return queue


class Shares(Turns):
    async def send(self, task_id, share, tenant="acme", **fields):
        task = Task.parse({"input": {}, "task_id": task_id, "tenant": tenant, **fields}, TaskLimits())
        return (await scripts.run(self.redis, submit_call(task, QUEUE, TIMES, self.now_ms, share=share))).outcome

    async def held(self, tenant="acme"):
        return float(await self.redis.zscore("agent:tenants", tenant) or 0)

    async def open(self, tenant="acme"):
        return await self.redis.zcard(f"agent:tenant_open:{tenant}")


async def test_open_tasks_of_a_tenant_are_bounded_whatever_users_it_invents(queue):
    few = Share(tasks=5)
    outcomes = [await queue.send(f"t{i}", few, user_id=f"invented{i}") for i in range(7)]
    assert outcomes == [Submitted.CREATED] * 5 + [Submitted.TENANT_TASKS] * 2
    assert await queue.send("t0", few, user_id="invented0") is Submitted.EXISTS
    assert await queue.send("victim", few, tenant="other") is Submitted.CREATED


@pytest.mark.parametrize("end", ["finish", "cancel", "sweep"])
async def test_each_end_of_a_task_gives_its_place_back_once(queue, end):
    one = Share(tasks=1)
    assert await queue.send("t1", one) is Submitted.CREATED
    if end == "finish":
        claimed = await queue.claim_one()
        await queue.finish(claimed)
        await queue.finish(claimed)
    elif end == "cancel":
        await queue.cancel("acme--t1")
        await queue.cancel("acme--t1")
    else:
        await queue.redis.delete("agent:task:acme--t1")  # as when it expires
        await queue.sweep()
    await queue.sweep()
    assert await queue.open() == 0
    assert [await queue.send(name, one) for name in ("t2", "t3")] == [Submitted.CREATED, Submitted.TENANT_TASKS]


async def test_released_and_reaped_tasks_stay_charged_once(queue):
    await queue.send("t1", Share())
    held = await queue.held()
    await queue.release(await queue.claim_one())
    await queue.claim_one()
    queue.now_ms += 8_001
    await queue.join("w2")
    await queue.reap()
    await queue.sweep()
    assert (await queue.open(), await queue.held()) == (1, held)


async def test_bytes_of_a_tenants_tasks_are_bounded(queue):
    some = Share(held_bytes=250_000)
    outcomes = [await queue.send(f"t{i}", some, input=LARGE, user_id=f"invented{i}") for i in range(3)]
    assert outcomes == [Submitted.CREATED, Submitted.CREATED, Submitted.TENANT_BYTES]
    assert await queue.send("victim", some, tenant="other", input=LARGE) is Submitted.CREATED


async def test_what_is_kept_of_an_ended_task_counts_until_it_is_forgotten(queue):
    some = Share(held_bytes=150_000)
    await queue.send("t1", some, input=LARGE)
    await queue.cancel("acme--t1")  # its data are kept as long as its result
    assert await queue.open() == 0
    assert await queue.held() > 100_000
    assert await queue.send("t2", some, input=LARGE) is Submitted.TENANT_BYTES
    queue.now_ms += TIMES.failed_ms + TIMES.failed_ms // 64 + 1
    assert await queue.send("t2", some, input=LARGE) is Submitted.CREATED
    assert await queue.held() < 105_000


async def test_tenant_that_holds_nothing_any_more_is_forgotten_by_the_sweeper(queue):
    await queue.send("t1", Share())
    await queue.finish(await queue.claim_one())
    assert await queue.redis.zcard("agent:tenants") == 1
    queue.now_ms += TIMES.result_ms + TIMES.result_ms // 64 + 1
    await queue.sweep()
    assert await queue.redis.keys("agent:tenant*") == []


async def test_sum_that_another_program_spoilt_is_right_again_once_the_tenant_has_no_open_task(queue):
    await queue.send("t1", Share())
    await queue.redis.zadd("agent:tenants", {"acme": 9e9})
    await queue.finish(await queue.claim_one())
    await queue.sweep()
    assert 0 < await queue.held() < 10_000


async def test_memory_is_refused_to_a_tenant_above_its_share_before_it_is_refused_to_all(queue):
    share = Share(memory_percent=70)
    for i in range(20):
        await queue.send(f"t{i}", share, input=LARGE, user_id=f"invented{i}")
    used = (await queue.redis.info("memory"))["used_memory"]
    await queue.redis.config_set("maxmemory", int(used / 0.75))
    try:
        assert await queue.send("more", share) is Submitted.TENANT_SHARE
        assert await queue.send("victim", share, tenant="other") is Submitted.CREATED
        assert await queue.send("mine", share, tenant="default") is Submitted.CREATED
        used = (await queue.redis.info("memory"))["used_memory"]
        await queue.redis.config_set("maxmemory", int(used / 0.95))
        assert await queue.send("victim2", share, tenant="other") is Submitted.FULL
    finally:
        await queue.redis.config_set("maxmemory", 0)


async def test_default_tenant_alone_may_fill_redis_as_far_as_anybody(queue):
    share = Share(memory_percent=70)
    for i in range(20):
        await queue.send(f"t{i}", share, tenant="default", input=LARGE)
    used = (await queue.redis.info("memory"))["used_memory"]
    await queue.redis.config_set("maxmemory", int(used / 0.75))
    try:
        assert await queue.send("more", share, tenant="default") is Submitted.CREATED
    finally:
        await queue.redis.config_set("maxmemory", 0)


async def test_every_client_obeys_the_settings_for_its_tenant(redis_url, monkeypatch):
    monkeypatch.setenv("LGRQ_TENANT_OPEN_TASKS", "2")
    async with AsyncClient(redis_url) as client:
        acme = client.for_tenant("acme")
        await acme.submit_many([{"input": {}, "user_id": f"invented{i}"} for i in range(2)])
        with pytest.raises(
            TenantFullError, match="tenant acme has 2 open tasks, as many as it may: try again"
        ) as caught:
            await acme.submit({}, user_id="invented2")
        assert (caught.value.tenant, caught.value.retry_after_s) == ("acme", 5)
        assert not isinstance(caught.value, QueueFullError)
        for task_id in ("a", "b", "c"):
            assert (await client.submit({}, task_id=task_id)).state is State.PENDING
