"""Who is next: users take turns, a thread's tasks run one at a time, and nothing is left behind."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished, Submitted
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call
from langgraph_rq.shared.tasks import State
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis


@pytest.fixture
async def queue(aredis):
    queue = Turns(aredis)
    await queue.join()
    return queue


class Turns(QueueOnRedis):
    def capped(self, user_tasks):
        return QueueTimes(user_tasks=user_tasks)

    async def claim_ids(self, n=1, worker="w1"):
        return [claimed.id for claimed in (await self.claim(worker, n)).tasks]

    async def cancel(self, task_id="t1", state=State.CANCELLED):
        call = cancel_call(task_id, state, b'{"cancelled": 1}', TIMES, self.now_ms)
        return (await scripts.run(self.redis, call)).state

    async def sweep(self, n=100):
        return await scripts.run(self.redis, sweep_call(n, now_ms=self.now_ms))


async def test_user_with_one_task_comes_right_after_the_next_one_of_a_user_with_a_thousand(queue):
    for i in range(1_000):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.claim(n=10)
    await queue.submit("bob0", user_id="bob")
    assert await queue.claim_ids(3) == ["ann10", "bob0", "ann11"]


async def test_users_with_a_backlog_take_turns(queue):
    for user in ("ann", "bob", "eve"):
        for i in range(3):
            await queue.submit(f"{user}{i}", user_id=user)
    order = await queue.claim_ids(9)
    assert [task_id[:3] for task_id in order] == ["ann", "bob", "eve"] * 3
    assert [task_id for task_id in order if task_id.startswith("bob")] == ["bob0", "bob1", "bob2"]


async def test_anonymous_users_share_one_turn(queue):
    for i in range(3):
        await queue.submit(f"anonymous{i}")
    await queue.submit("ann0", user_id="ann")
    assert await queue.claim_ids(4) == ["anonymous0", "ann0", "anonymous1", "anonymous2"]


async def test_newcomers_without_end_do_not_starve_a_user_with_a_backlog(queue):
    for i in range(3):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.claim_ids(1)
    order = []
    for i in range(400):
        await queue.submit(f"new{i}", user_id=f"new{i}")
        order += await queue.claim_ids(1)
    assert {"ann1", "ann2"} <= set(order)


async def test_old_users_get_every_third_turn_beside_newcomers_without_end(queue):
    for i in range(200):
        await queue.submit(f"old{i}", user_id=f"old{i % 20}")
    running = await queue.claim_ids(20)
    order = []
    for i in range(300):
        await queue.submit(f"new{i}", user_id=f"new{i}")
        order += await queue.claim_ids(1)
    assert running
    assert sum(task_id.startswith("old") for task_id in order) >= 95


async def test_jobs_that_waited_together_go_on_in_their_order(queue):
    for i in range(5):
        await queue.redis.hset(f"rq:job:j{i}", mapping={"data": "[]"})
        await queue.redis.rpush(f"rq:queue:{QUEUE}", f"j{i}")
    for claimed in (await queue.claim(n=5)).tasks:
        await queue.release(claimed, delay_ms=1_000)
    queue.now_ms += 1_000
    await queue.reap()
    assert await queue.claim_ids(5) == [f"j{i}" for i in range(5)]


async def test_open_task_is_not_forgotten_before_it_has_ended(queue):
    await queue.redis.hset("rq:job:t1", "data", "of an earlier job")
    await queue.redis.pexpire("rq:job:t1", 60_000)
    await queue.submit("t1")
    assert await queue.redis.ttl("agent:task:t1") == await queue.redis.ttl("rq:job:t1") == -1
    await queue.finish(await queue.claim_one())
    assert await queue.redis.ttl("agent:task:t1") > 0 < await queue.redis.ttl("rq:job:t1")


async def test_user_whose_task_lost_its_hash_is_not_stuck_while_others_keep_the_queue_busy(queue):
    for task_id in ("ann0", "ann1"):
        await queue.submit(task_id, user_id="ann")
    await queue.redis.delete("agent:task:ann0", "rq:job:ann0")
    for i in range(60):
        await queue.submit(f"bob{i}", user_id=f"bob{i}", tenant="other")
    order = []
    while "ann1" not in order:
        order += await queue.claim_ids(1)
        await queue.sweep()
    assert len(order) < 60


async def test_newcomers_are_served_in_the_order_in_which_they_came_and_leave_others_a_turn(queue):
    for i in range(3):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.claim_ids(1)
    for user in ("bob", "eve", "kim"):
        await queue.submit(user, user_id=user)
    assert await queue.claim_ids(5) == ["ann1", "bob", "eve", "ann2", "kim"]


async def test_thread_runs_one_task_at_a_time_in_order(queue):
    for i in range(3):
        await queue.submit(f"t{i}", thread_id="chat")
    await queue.submit("other")
    first, other = (await queue.claim()).tasks
    assert (first.id, other.id) == ("t0", "other")
    assert await queue.field("place", "t1") == b"parked"
    assert await queue.finish(first) is Finished.WRITTEN
    (second,) = (await queue.claim()).tasks
    assert second.id == "t1"
    assert await queue.finish(second) is Finished.WRITTEN
    assert await queue.claim_ids(9) == ["t2"]


async def test_delayed_task_keeps_its_thread(queue):
    await queue.submit("t0", thread_id="chat")
    await queue.submit("t1", thread_id="chat")
    await queue.release(await queue.claim_one(), delay_ms=1_000)
    assert await queue.claim_ids(9) == []
    queue.now_ms += 1_000
    await queue.reap()
    assert await queue.claim_ids(9) == ["t0"]


async def test_cancelled_pending_task_ends_at_once_and_is_never_claimed(queue):
    await queue.submit()
    assert await queue.cancel() is State.CANCELLED
    assert await queue.redis.get("agent:result:t1") == b'{"cancelled": 1}'
    assert await queue.claim_ids(9) == []
    assert await queue.redis.zcard("agent:open") == 0
    assert await queue.cancel() is State.CANCELLED


@pytest.mark.parametrize("place", ["queue", "waiting", "parked", "delayed"])
async def test_task_can_be_cancelled_wherever_it_waits(queue, place):
    if place == "waiting":
        await queue.submit("first")
    if place == "parked":
        await queue.submit("first", thread_id="chat")
    await queue.submit("t1", **({"thread_id": "chat"} if place == "parked" else {}))
    if place == "delayed":
        await queue.release(await queue.claim_one(), delay_ms=1_000)
    assert await queue.cancel() is State.CANCELLED
    await queue.submit("last", **({"thread_id": "chat"} if place == "parked" else {}))
    queue.now_ms += 2_000
    await queue.reap()
    claimed = (await queue.claim()).tasks
    for one in claimed:
        await queue.finish(one)
    ran = {one.id for one in (*claimed, *(await queue.claim()).tasks)}
    assert ran == {"last", "first"} if place in {"waiting", "parked"} else ran == {"last"}


async def test_cancelled_head_of_a_thread_lets_the_next_one_run(queue):
    await queue.submit("t0", thread_id="chat")
    await queue.submit("t1", thread_id="chat")
    await queue.cancel("t0")
    assert await queue.claim_ids(9) == ["t1"]


async def test_cancel_of_a_running_task_is_flagged_published_and_seen_at_the_next_renewal(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    async with queue.redis.pubsub() as channel:
        await channel.subscribe("agent:commands:w1")
        await channel.get_message(timeout=1)
        assert await queue.cancel() is State.RUNNING
        message = await channel.get_message(timeout=5)
    assert message["data"] == b'{"command":"stop-job","job_id":"t1"}'
    assert (await queue.renew()).cancelled == {"t1"}
    assert await queue.finish(claimed, state=State.CANCELLED) is Finished.WRITTEN


async def test_cancel_flag_survives_a_release(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.cancel()
    await queue.release(claimed)
    assert (await queue.claim_one()).is_cancelled


async def test_ended_task_is_not_cancelled(queue):
    await queue.submit()
    await queue.finish(await queue.claim_one())
    assert await queue.cancel() is State.SUCCESS
    assert await queue.redis.get("agent:result:t1") == b"{}"


async def test_unknown_task_is_not_cancelled(queue):
    assert await queue.cancel("nobody") is None


async def test_user_at_the_cap_waits_until_one_of_theirs_ends(queue):
    queue.times = queue.capped(2)
    for i in range(4):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.submit("bob0", user_id="bob")
    claimed = (await queue.claim()).tasks
    assert [one.id for one in claimed] == ["ann0", "bob0", "ann1"]
    assert await queue.claim_ids(9) == []
    await queue.finish(claimed[0])
    assert await queue.claim_ids(9) == ["ann2"]


async def test_user_at_the_cap_is_woken_in_every_queue_they_wait_in(queue):
    queue.times = queue.capped(1)
    await queue.submit("a", user_id="ann")
    first = await queue.claim_one()
    await queue.submit("b", f"{QUEUE}_low", user_id="ann")
    assert (await queue.claim(queues=(QUEUE, f"{QUEUE}_low"))).tasks == ()
    await queue.finish(first)
    assert [one.id for one in (await queue.claim(queues=(QUEUE, f"{QUEUE}_low"))).tasks] == ["b"]


async def test_task_whose_graph_failed_counts_its_failures(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.release(claimed, failed=True)
    assert (await queue.claim_one()).failures == 1


async def test_reaped_job_of_stock_rq_is_still_read_as_one(queue):
    await queue.redis.hset("rq:job:x", mapping={"data": "[]", "status": "queued"})
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "x")
    first = await queue.claim_one()
    queue.now_ms += 8_001
    await queue.join("w2")
    await queue.reap()
    again = await queue.claim_one("w2")
    assert (again.id, again.epoch, again.origin) == ("x", 2, first.origin)


async def test_submit_to_a_busy_thread_answers_as_any_other(queue):
    await queue.submit("t0", thread_id="chat")
    assert (await queue.submit("t1", thread_id="chat")).outcome is Submitted.CREATED
    assert (await queue.submit("t1", thread_id="chat")).outcome is Submitted.EXISTS
    assert await queue.redis.llen("agent:thread:chat") == 2


async def test_user_whose_job_an_rq_tool_deleted_goes_on_while_others_keep_the_queue_busy(queue):
    for i in range(3):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.submit("bob0", user_id="bob")
    # What RQ's `job.delete()` does.
    await queue.redis.lrem("rq:queue:agent_tasks", 1, "ann0")
    await queue.redis.zrem("rq:deferred:agent_tasks", "ann0")
    await queue.redis.delete("rq:job:ann0")
    assert (await queue.sweep()).removed == ("ann0",)
    await queue.cancel("ann0")
    assert await queue.claim_ids(9) == ["bob0", "ann1", "ann2"]


async def test_user_whose_id_outlived_its_hash_is_not_stuck(queue):
    for i in range(3):
        await queue.submit(f"ann{i}", user_id="ann")
    await queue.redis.delete("agent:task:ann0", "rq:job:ann0")
    assert await queue.claim_ids(9) == ["ann1", "ann2"]
    assert not await queue.redis.hexists("agent:runnable:agent_tasks", "default--ann")


async def test_waiting_list_that_another_program_left_holds_no_task_back(queue):
    await queue.redis.rpush(f"agent:waiting:{QUEUE}:default--ann", "garbage")
    for task_id in ("ann0", "ann1"):
        await queue.submit(task_id, user_id="ann")
    assert await queue.claim_ids(9) == ["ann0", "ann1"]


async def test_many_ended_tasks_are_passed_over_a_bounded_number_at_a_time(queue):
    for i in range(2_500):
        await queue.submit(f"ann{i}", user_id="ann")
    pipeline = queue.redis.pipeline()
    for i in range(2_499):
        pipeline.hset(f"agent:task:ann{i}", mapping={"state": "timeout", "place": "done"})
    await pipeline.execute()
    claims = 0
    while not (claim := await queue.claim()).tasks:
        assert claim.dropped, "a worker would wait for more"
        claims += 1
    assert [one.id for one in claim.tasks] == ["ann2499"]
    assert claims > 1


@pytest.mark.parametrize("field", ["epoch", "created", "started", "deadline", "crashes", "failures", "input_tokens"])
async def test_garbage_in_a_tasks_hash_is_read_as_no_number(queue, field):
    await queue.submit()
    await queue.redis.hset("agent:task:t1", field, "9" * 30 if field == "created" else "garbage")
    assert await queue.claim_ids() == ["t1"]


async def test_id_that_is_none_is_dropped_whatever_its_hash_says(queue):
    await queue.redis.hset(b"agent:task:\xff", mapping={"state": "pending", "epoch": 0, "created": 1, "deadline": 1})
    await queue.redis.rpush("rq:queue:agent_tasks", b"\xff")
    assert len((await queue.claim()).dropped) == 1


@pytest.mark.parametrize("is_replaced", [False, True], ids=["deleted", "of another type"])
async def test_thread_that_lost_its_list_still_runs_one_task_at_a_time(queue, is_replaced):
    for name in ("t0", "t1", "t2"):
        await queue.submit(name, thread_id="chat")
    (first,) = (await queue.claim("w1", 1)).tasks
    await queue.redis.delete("agent:thread:chat")
    if is_replaced:
        await queue.redis.zadd("agent:thread:chat", {"garbage": 1})
    assert (await queue.sweep()).again == ()
    assert await queue.claim_ids() == []
    await queue.finish(first, "w1")
    assert (await queue.sweep()).again != ()
    assert len(await queue.claim_ids(9)) == 1


async def test_lists_that_are_searched_are_short_or_few(queue):
    for i in range(60):
        await queue.submit(f"t{i}")
    pipeline = queue.redis.pipeline()
    for i in range(9_900):
        pipeline.rpush(f"agent:waiting:{QUEUE}:default--", f"other{i}")
    await pipeline.execute()
    await queue.redis.lrem(f"agent:waiting:{QUEUE}:default--", 1, "t7")
    found = []
    for _ in range(60):
        found += (await queue.sweep()).again
        queue.now_ms += 1
    assert found == ["t7"]
