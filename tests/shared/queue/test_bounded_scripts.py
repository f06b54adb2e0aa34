"""No script runs more than two thousand commands, and what it leaves is done by the next ones."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.queue.keys import DELAYED, OPEN, WAITS, bell_key, own_key
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.queue.waits import BUDGET, await_call, wake_all_call
from tests.shared.queue.test_task_queue import QUEUE
from tests.shared.queue.test_task_queue_turns import Turns

MANY = 3_000
MOST_COMMANDS = 2_000
"""Of one script: about a microsecond each."""


@pytest.fixture
async def queue(aredis):
    queue = Counted(aredis)
    await queue.join()
    return queue


class Counted(Turns):
    """The verbs, each checked for the number of commands that it runs."""

    async def claim(self, *args, **options):
        return await self._count(super().claim(*args, **options))

    async def finish(self, *args, **options):
        return await self._count(super().finish(*args, **options))

    async def cancel(self, *args, **options):
        return await self._count(super().cancel(*args, **options))

    async def reap(self, *args, **options):
        return await self._count(super().reap(*args, **options))

    async def sweep(self, *args, **options):
        return await self._count(super().sweep(*args, **options))

    async def run(self, call):
        return await self._count(scripts.run(self.redis, call))

    async def _count(self, verb):
        await self.redis.config_resetstat()
        answer = await verb
        stats = await self.redis.info("commandstats")
        assert sum(stat["calls"] for stat in stats.values()) <= MOST_COMMANDS
        return answer

    async def claim_at_last(self, claims=200):
        """Claim until there is a task; each claim on the way says that there may be more."""
        for _ in range(claims):
            claim = await self.claim()
            if claim.tasks:
                return [one.id for one in claim.tasks]
            assert claim.dropped, "a worker would wait for more"
        raise AssertionError(f"no task after {claims} claims")

    async def write(self, key, *values):
        for start in range(0, len(values), 1_000):
            await self.redis.rpush(key, *values[start : start + 1_000])

    async def write_ended(self, ids, **fields):
        pipeline = self.redis.pipeline()
        for id_ in ids:
            pipeline.hset(f"agent:task:{id_}", mapping={"state": "cancelled", "place": "done", **fields})
        await pipeline.execute()


@pytest.mark.parametrize("has_hashes", [True, False], ids=["kept", "forgotten"])
@pytest.mark.parametrize("end", ["finish", "cancel"])
async def test_thread_goes_on_behind_thousands_of_ended_tasks(queue, has_hashes, end):
    await queue.submit("first", thread_id="chat")
    ended = [f"ended{i}" for i in range(MANY)]
    await queue.write("agent:thread:chat", *ended)
    if has_hashes:
        await queue.write_ended(ended, queue=QUEUE, user="default--", thread="chat")
    await queue.submit("last", thread_id="chat")
    if end == "finish":
        assert await queue.finish(await queue.claim_one()) is Finished.WRITTEN
    else:
        await queue.cancel("first")
    assert await queue.claim_at_last() == ["last"]
    assert await queue.redis.lrange("agent:thread:chat", 0, -1) == [b"last"]


async def test_parked_task_is_in_place_behind_ended_ones_until_the_queue_is_emptied(queue):
    await queue.submit("first", thread_id="chat")
    await queue.write("agent:thread:chat", *(f"ended{i}" for i in range(MANY)))
    await queue.submit("last", thread_id="chat")
    await queue.finish(await queue.claim_one())
    assert (await queue.sweep()).again == ()
    await queue.redis.delete(f"rq:queue:{QUEUE}")
    assert (await queue.sweep()).again == ("last",)
    assert await queue.claim_at_last() == ["last"]


@pytest.mark.parametrize("has_hashes", [True, False], ids=["kept", "forgotten"])
async def test_user_gets_a_turn_behind_thousands_of_ended_tasks(queue, has_hashes):
    await queue.submit("first", user_id="ann")
    ended = [f"ended{i}" for i in range(MANY)]
    await queue.write(f"agent:waiting:{QUEUE}:default--ann", *ended)
    if has_hashes:
        await queue.write_ended(ended, queue=QUEUE, user="default--ann")
    await queue.submit("last", user_id="ann")
    assert await queue.claim_at_last() == ["first"]
    assert await queue.claim_at_last() == ["last"]
    assert not await queue.redis.exists(f"agent:tenant_turns:{QUEUE}", f"agent:runnable:{QUEUE}")


async def test_claim_that_stops_at_its_bound_wakes_a_worker_for_the_rest(queue):
    await queue.submit("first", user_id="ann")
    await queue.write(f"agent:waiting:{QUEUE}:default--ann", *(f"ended{i}" for i in range(MANY)))
    await queue.redis.delete(bell_key(QUEUE))
    assert [task.id for task in (await queue.claim()).tasks] == ["first"]
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1, "what stands in for the rest"
    assert await queue.redis.llen(bell_key(QUEUE)) == 1


async def test_users_whose_tasks_were_lost_do_not_hold_a_script_up(queue):
    await queue.submit("first", user_id="ann")
    await queue.redis.zadd(f"agent:tenant_line:{QUEUE}:default", {f"default--lost{i}": i - 1e12 for i in range(MANY)})
    await queue.submit("last", user_id="bob")
    assert await queue.claim_at_last() == ["first"]
    assert await queue.claim_at_last() == ["last"]


async def test_lines_of_thousands_of_users_go_on_after_the_queue_was_emptied(queue):
    for i in range(300):
        await queue.submit(f"t{i}", user_id=f"user{i}", tenant=f"tenant{i}")
        await queue.submit(f"more{i}", user_id=f"user{i}", tenant=f"tenant{i}")
    await queue.redis.delete(f"rq:queue:{QUEUE}")
    claimed = []
    while tasks := (await queue.claim(n=16)).tasks:
        claimed += tasks
    assert len(claimed) == 300


async def test_user_at_the_cap_of_many_queues_gets_a_turn_in_each(queue):
    queue.times = QueueTimes(user_tasks=1)
    names = [f"q{i}" for i in range(60)]
    for name in ["q0", *names]:
        await queue.submit(f"{name}-{await queue.redis.dbsize()}", queue=name, user_id="ann")
    first = (await queue.claim(queues=names[:1], n=1)).tasks[0]
    assert (await queue.claim(queues=names)).tasks == ()
    ran = 0
    while first:
        await queue.finish(first)
        ran += 1
        first = next(iter((await queue.claim(queues=names)).tasks), None)
    assert ran == 61


async def test_all_budgets_are_woken_however_many_are_waited_for(queue):
    names = {f"budget:user:{i}" for i in range(MANY)} | {f"breaker:{i}" for i in range(MANY)}
    await queue.redis.zadd(WAITS, dict.fromkeys(names, queue.now_ms + 10_000))
    cursor, calls = 0, 0
    while (cursor := await queue.run(wake_all_call(BUDGET, cursor, queue.now_ms))) or not calls:
        calls += 1
    marked = await queue.redis.zrange(WAITS, "-inf", queue.now_ms, byscore=True)
    assert {thing.decode() for thing in marked} == {thing for thing in names if thing.startswith(BUDGET)}
    assert calls > 1


async def test_dead_worker_with_thousands_of_tasks_is_reaped_in_parts(queue):
    await queue.join("w2")
    for i in range(300):
        await queue.submit(f"t{i}")
    while (await queue.claim("w2", n=16)).tasks:
        pass
    queue.now_ms += 4_000
    await queue.renew()
    queue.now_ms += 5_000
    reaped = []
    while (some := await queue.reap("w1")).reaped:
        reaped += some.reaped
    assert len(reaped) == 300
    assert not await queue.redis.exists(own_key("w2"))


async def test_thousands_of_due_tasks_and_of_free_ones_go_on_in_parts(queue):
    pipeline = queue.redis.pipeline()
    for i in range(MANY):
        task = {"state": "pending", "place": "delayed", "queue": QUEUE, "user": f"default--u{i}", "waits_for": "retry"}
        pipeline.hset(f"agent:task:due{i}", mapping=task)
        pipeline.hset(f"agent:task:free{i}", mapping={**task, "waits_for": "breaker:b"})
        pipeline.zadd(DELAYED, {f"due{i}": queue.now_ms - 1, f"free{i}": queue.now_ms + 60_000})
        pipeline.zadd("agent:wait:breaker:b", {f"free{i}": queue.now_ms - 1})
    pipeline.zadd(WAITS, {"breaker:b": queue.now_ms - 1})
    await pipeline.execute()
    calls = 0
    while (await queue.reap()).next_due_ms < 60_000:
        calls += 1
    assert await queue.redis.zcard(DELAYED) == 0
    assert calls > 1


async def test_marks_of_thousands_of_empty_sets_are_dropped_in_parts(queue):
    await queue.redis.zadd(WAITS, {f"breaker:{i}": queue.now_ms - 1 for i in range(MANY)})
    while await queue.redis.zcard(WAITS):
        await queue.reap()


async def test_sweep_looks_at_a_batch_of_displaced_tasks(queue):
    pipeline = queue.redis.pipeline()
    for i in range(MANY):
        task = {"state": "pending", "place": "parked", "queue": QUEUE, "user": "default--", "thread": "chat"}
        pipeline.hset(f"agent:task:t{i}", mapping=task)
        pipeline.hset(f"rq:job:t{i}", mapping={"status": "deferred"})
        pipeline.zadd(OPEN, {f"t{i}": queue.now_ms + 60_000 + i})
        pipeline.rpush("agent:thread:chat", f"gone{i}")
    await pipeline.execute()
    await queue.sweep()


async def test_fleet_is_read_without_counting_every_tenant(queue):
    await queue.redis.hset(f"agent:tenant_turns:{QUEUE}", mapping={f"tenant{i}": 1 for i in range(MANY)})
    await queue.redis.sadd("rq:queues", f"rq:queue:{QUEUE}")
    assert (await queue.run(fleet_call())).queues[0].name == QUEUE


async def test_refusal_is_recorded_at_once(queue):
    await queue.run(await_call("budget:global", 1_000, queue.now_ms))
    assert await queue.redis.zcard(WAITS) == 1
