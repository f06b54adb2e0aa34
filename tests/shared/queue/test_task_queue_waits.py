"""Tasks that wait for something: in its set, without a slot, until it is free, and through their users' turns."""

import json
from dataclasses import replace

import pytest

from langgraph_rq.producer.client.reading.lookup import STATUS_FIELDS, read_status
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Ownership
from langgraph_rq.shared.queue.attempts import owns_call
from langgraph_rq.shared.queue.ending import add_reads, unrun_result
from langgraph_rq.shared.queue.keys import bell_key
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import cancel_call
from langgraph_rq.shared.queue.waits import BUDGET, Wait, await_call, explain, wake_all_call, wake_call
from langgraph_rq.shared.tasks import State
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis

BREAKER = "breaker:openai/gpt-4o"
WAIT = Wait(BREAKER)
SET = f"agent:wait:{BREAKER}"


class Waits(QueueOnRedis):
    async def refuse(self, thing=BREAKER, wait_ms=30_000):
        await scripts.run(self.redis, await_call(thing, wait_ms, self.now_ms))

    async def wake(self, *things, tasks=0):
        return await scripts.run(self.redis, wake_call(things or [BREAKER], tasks, self.now_ms))

    async def wait_with(self, *task_ids, wait=WAIT, **fields):
        """Submit, claim, refuse and release tasks, so that they wait."""
        for task_id in task_ids:
            await self.submit(task_id, **fields)
        for claimed in (await self.claim(n=len(task_ids))).tasks:
            await self.refuse(wait.thing)
            assert await self.release(claimed, wait=wait)

    async def places(self, *task_ids):
        return [await self.field("place", task_id) for task_id in task_ids]

    async def ids(self, **options):
        await self.join()
        return [claimed.id for claimed in (await self.claim(**options)).tasks]


@pytest.fixture
async def queue(aredis):
    queue = Waits(aredis)
    await queue.join()
    return queue


async def test_task_that_waits_holds_no_slot_and_says_what_it_waits_for(queue):
    await queue.wait_with("t1", user_id="ann")
    assert await queue.places("t1") == [b"delayed"]
    assert await queue.field("waits_for") == BREAKER.encode()
    assert await queue.field("waits_until") == str(queue.now_ms + 30_000).encode()
    assert await queue.redis.zrange(SET, 0, -1) == [b"t1"]
    assert not await queue.redis.exists("agent:in_flight", "agent:own:w1")
    (_, running), (_, waiting) = await queue.redis.xrange("agent:events:t1")
    assert json.loads(running[b"data"])["state"] == "running"
    assert json.loads(waiting[b"data"]) == {
        "state": "pending",
        "attempt": 1,
        "waits_for": BREAKER,
        "until_ms": queue.now_ms + 30_000,
    }


async def test_claim_that_wakes_a_task_of_another_queue_rings_that_queues_bell(queue):
    await queue.submit("other", queue="batch")
    (claimed,) = (await queue.claim(queues=["batch"])).tasks
    await queue.refuse()
    await queue.release(claimed, wait=WAIT)
    await queue.redis.delete(bell_key("batch"))
    await queue.wake()
    queue.now_ms += 2_000
    assert (await queue.claim()).tasks == ()
    assert await queue.redis.llen(bell_key("batch")) == 1


async def test_task_that_waited_has_made_no_attempt(queue):
    await queue.wait_with("t1")
    await queue.wake()
    queue.now_ms += 2_000
    assert (await queue.claim_one()).attempts == 1


async def test_task_goes_on_when_its_thing_is_free(queue):
    await queue.wait_with("t1", "t2")
    queue.now_ms += 2_000
    assert await queue.ids() == []
    assert await queue.wake() == 1
    assert set(await queue.ids()) == {"t1", "t2"}
    left = await queue.redis.keys("agent:wait*")
    assert left == []


async def test_thing_without_a_mark_gets_one_when_a_task_waits_for_it_again(queue):
    await queue.wait_with("t1")
    await queue.wake()
    queue.now_ms += 2_000
    assert await queue.release(await queue.claim_one(), wait=WAIT)
    queue.now_ms += 3_000
    assert await queue.ids() == ["t1"]


async def test_mark_for_all_stays_one_for_all(queue):
    await queue.wait_with("t1", "t2", "t3")
    await queue.wake()
    await queue.wake(tasks=1)
    queue.now_ms += 2_000
    assert set(await queue.ids()) == {"t1", "t2", "t3"}


async def test_mark_moves_nothing(queue):
    await queue.wait_with("t1")
    await queue.wake()
    assert await queue.places("t1") == [b"delayed"]


async def test_status_has_the_reason_of_a_wait_until_the_task_goes_on(queue):
    await queue.wait_with("t1")
    reply = await queue.redis.hmget("agent:task:t1", STATUS_FIELDS)
    assert read_status("t1", reply).reason == "waits for openai/gpt-4o, asked again at 08:00:30 at the earliest"
    await queue.wake()
    queue.now_ms += 2_000
    await queue.reap()
    assert read_status("t1", await queue.redis.hmget("agent:task:t1", STATUS_FIELDS)).reason is None


async def test_task_that_ends_while_it_waits_says_what_it_waited_for(queue):
    await queue.wait_with("t1", deadline_s=5)
    pipeline = queue.redis.pipeline(transaction=False)
    add_reads(pipeline, "t1")
    result = json.loads(unrun_result("t1", State.TIMEOUT, await pipeline.execute()))
    assert result["error"]["message"] == "the deadline of 5 s passed while it waited for openai/gpt-4o"
    assert result["metadata"]["attempts"] == 0


async def test_thing_for_which_nothing_waits_is_not_marked(queue):
    assert await queue.wake("breaker:other") == 0
    assert not await queue.redis.exists("agent:waits", "agent:wait_limits")


async def test_thing_that_was_freed_between_refusal_and_entry_is_not_waited_for(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.refuse()
    await queue.wake()
    await queue.release(claimed, wait=WAIT)
    assert await queue.places("t1") == [b"queue"]
    assert await queue.ids() == ["t1"]


async def test_mark_that_another_task_used_up_between_refusal_and_entry_is_not_lost(queue):
    await queue.submit("t1")
    claimed = await queue.claim_one()
    await queue.refuse()
    await queue.wait_with("t2")
    await queue.wake()
    queue.now_ms += 2_000
    assert await queue.ids() == ["t2"]
    await queue.release(claimed, wait=WAIT)
    assert await queue.ids() == ["t1"]


async def test_task_refused_again_waits_at_least_its_time_however_often_it_is_freed(queue):
    await queue.wait_with("t1")
    await queue.wake()
    queue.now_ms += 2_000
    claimed = await queue.claim_one()
    await queue.refuse()
    await queue.wake()
    await queue.release(claimed, wait=WAIT)
    queue.now_ms += 1_999
    assert await queue.ids() == []
    queue.now_ms += 501
    assert await queue.ids() == ["t1"]


async def test_each_later_wait_for_the_same_thing_is_twice_as_long(queue):
    await queue.wait_with("t1")
    waits = []
    for _ in range(8):
        waits.append(int(await queue.redis.zscore(SET, "t1")) - queue.now_ms)
        queue.now_ms += 60_001
        await queue.join()
        await queue.wake()
        claimed = await queue.claim_one()
        await queue.refuse()
        await queue.release(claimed, wait=WAIT)
    base = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert all(low <= ms <= min(low * 1.25, 60_000) for low, ms in zip(base, waits, strict=True))
    assert await queue.field("waits_since") == str(queue.now_ms - 8 * 60_001).encode()


async def test_wait_for_another_thing_is_short_again(queue):
    await queue.wait_with("t1")
    for _ in range(3):
        queue.now_ms += 60_001
        await queue.join()
        await queue.wake()
        claimed = await queue.claim_one()
        await queue.refuse()
        await queue.release(claimed, wait=WAIT)
    queue.now_ms += 60_001
    await queue.join()
    await queue.wake()
    claimed = await queue.claim_one()
    await queue.refuse("budget:global")
    await queue.release(claimed, wait=Wait("budget:global"))
    assert await queue.redis.zscore("agent:wait:budget:global", "t1") <= queue.now_ms + 1_250


async def test_tasks_that_wait_for_the_same_do_not_come_back_together(queue):
    names = [f"t{number}" for number in range(10)]
    await queue.wait_with(*names)
    assert len({await queue.redis.zscore(SET, name) for name in names}) > 5


async def test_one_task_goes_on_when_the_time_of_a_refusal_is_over(queue):
    await queue.wait_with("t1", "t2", "t3")
    queue.now_ms += 29_999
    assert await queue.ids() == []
    queue.now_ms += 1
    assert len(await queue.ids()) == 1
    assert await queue.ids() == []


async def test_limited_mark_lets_so_many_go_on(queue):
    await queue.wait_with("t1", "t2", "t3", "t4")
    queue.now_ms += 2_000
    await queue.wake(tasks=1)
    await queue.wake(tasks=2)
    assert len(await queue.ids()) == 3
    assert await queue.ids() == []
    await queue.wake()
    await queue.wake(tasks=1)
    assert len(await queue.ids()) == 1


async def test_tasks_that_are_let_go_and_not_refused_let_twice_as_many_go(queue):
    ids = [f"t{n}" for n in range(8)]
    await queue.wait_with(*ids)
    queue.now_ms += 30_000
    went = []
    for _ in range(4):
        went.append(len(await queue.ids(n=8)))
        queue.now_ms += 5_000
    assert went == [1, 2, 4, 1]


async def test_refusal_of_a_task_that_was_let_go_lets_one_go_after_it(queue):
    await queue.wait_with("t1", "t2", "t3")
    queue.now_ms += 30_000
    assert len(await queue.ids()) == 1
    await queue.refuse()
    queue.now_ms += 30_000
    assert len(await queue.ids()) == 1


async def test_tasks_of_a_user_at_the_cap_do_not_hold_back_those_of_others(queue):
    await queue.wait_with(*[f"a{n}" for n in range(40)], user_id="ann")
    await queue.wait_with("b1", user_id="bob")
    await queue.submit("running", user_id="ann")
    await queue.claim_one()
    queue.times = replace(TIMES, user_tasks=1)
    queue.now_ms += 30_000
    seconds = 0
    while "b1" not in await queue.ids():
        queue.now_ms += 1_000
        seconds += 1
    assert seconds <= 30


async def test_marks_of_empty_sets_do_not_hold_back_a_task_that_may_go_on(queue):
    await queue.wait_with("t1")
    for number in range(64):
        await queue.refuse(f"budget:task:{number}", 1)
    queue.now_ms += 2_000
    await queue.wake()
    assert [await queue.ids() for _ in range(5)][-1] == ["t1"]


async def test_refusal_after_a_mark_takes_the_mark_back(queue):
    await queue.wait_with("t1", "t2")
    queue.now_ms += 2_000
    await queue.wake()
    await queue.refuse(wait_ms=10_000)
    assert await queue.ids() == []
    queue.now_ms += 10_000
    assert len(await queue.ids()) == 1


async def test_task_goes_on_after_a_minute_without_a_mark(queue):
    await queue.wait_with("t1")
    await queue.redis.delete("agent:waits", "agent:wait_limits", SET)
    queue.now_ms += 59_999
    assert (await queue.reap()).promoted == ()
    queue.now_ms += 1
    assert (await queue.reap()).promoted == ("t1",)
    assert await queue.ids() == ["t1"]


async def test_task_whose_set_will_be_marked_is_not_tried_before(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.refuse(wait_ms=100_000)
    await queue.release(claimed, wait=WAIT)
    queue.now_ms += 60_000
    assert (await queue.reap()).promoted == ()
    queue.now_ms += 40_000
    assert (await queue.reap()).woken == ("t1",)


async def test_woken_tasks_take_their_users_turns_and_come_a_few_at_a_time(queue):
    await queue.wait_with(*[f"ann{number}" for number in range(40)], user_id="ann")
    await queue.submit("bob", user_id="bob")
    await queue.submit("ann", user_id="ann")
    await queue.wake()
    queue.now_ms += 2_000
    assert await queue.ids(n=1) == ["bob"]
    assert await queue.redis.zcard(SET) == 24
    assert await queue.ids(n=1) == ["ann"]
    await queue.reap()
    assert await queue.redis.zcard(SET) == 0
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1


async def test_cancelled_task_leaves_its_set(queue):
    await queue.wait_with("t1", "t2")
    call = cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms)
    assert (await scripts.run(queue.redis, call)).state is State.CANCELLED
    assert await queue.redis.zrange(SET, 0, -1) == [b"t2"]
    assert await queue.redis.zrange("agent:delayed", 0, -1) == [b"t2"]


async def test_cancelled_task_does_not_wait(queue):
    await queue.submit()
    claimed = await queue.claim_one()
    await scripts.run(queue.redis, cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    await queue.refuse()
    await queue.release(claimed, wait=WAIT)
    assert await queue.places("t1") == [b"queue"]


async def test_entry_of_a_task_that_went_on_does_not_use_up_a_mark(queue):
    await queue.wait_with("t1", "t2")
    await queue.redis.zadd(SET, {"gone": 0, "t3": 0})
    await queue.submit("t3")
    queue.now_ms += 2_000
    await queue.wake(tasks=1)
    for _ in range(3):
        await queue.reap()
    assert sorted(await queue.places("t1", "t2", "t3")) == [b"delayed", b"queue", b"waiting"]
    assert await queue.redis.zcard(SET) == 1


async def test_all_budgets_are_freed_by_their_common_name(queue):
    for number, thing in enumerate(("budget:global", "budget:user:ann", BREAKER)):
        await queue.wait_with(f"t{number}", wait=Wait(thing))
    queue.now_ms += 2_000
    assert await scripts.run(queue.redis, wake_all_call(BUDGET, now_ms=queue.now_ms)) == 0
    assert set(await queue.ids()) == {"t0", "t1"}


async def test_time_of_the_next_look_is_that_of_the_first_task_or_mark(queue):
    assert (await queue.reap()).next_due_ms == 3_600_000
    await queue.wait_with("t1")
    assert (await queue.reap()).next_due_ms == 30_000
    await queue.wake()
    assert (await queue.reap()).next_due_ms == 1_000 or (await queue.reap()).next_due_ms < 1_251


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (BREAKER, "openai/gpt-4o"),
        ("pace:openai/gpt-4o", "the rate of openai/gpt-4o"),
        ("budget:global", "room in the budget of the fleet"),
        ("budget:user:ann", "room in the budget of user ann"),
        ("retry", "its next attempt"),
    ],
)
def test_wait_is_explained(thing, words):
    assert explain(thing, 1_764_331_450_000) == f"waits for {words}, asked again at 12:04:10 at the earliest"


async def test_task_that_starts_later_is_claimed_at_its_time_through_its_thread(queue):
    await queue.submit("late", thread_id="th", delay_s=60)
    await queue.submit("first", thread_id="th")
    assert await queue.ids() == ["first"]
    queue.now_ms += 60_000
    assert await queue.ids() == []
    assert await queue.places("late") == [b"delayed"]
    await queue.reap()
    assert await queue.places("late") == [b"parked"]


async def test_task_that_starts_later_waits_for_its_time_also_after_its_place_was_lost(queue):
    await queue.submit("late", thread_id="th", delay_s=60)
    await queue.redis.delete("agent:delayed")
    await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))
    assert await queue.redis.zscore("agent:delayed", "late") == queue.now_ms + 60_000
    assert await queue.ids() == []
    queue.now_ms += 60_000
    await queue.reap()
    assert await queue.ids() == ["late"]


async def test_cancelled_task_may_not_go_on(queue):
    await queue.submit("t1")
    claimed = await queue.claim_one()
    await scripts.run(queue.redis, cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    owns = owns_call("t1", claimed.epoch, "w1", queue.now_ms)
    assert await scripts.run(queue.redis, owns) is Ownership.CANCELLED


async def test_cancelled_head_of_a_thread_that_waits_frees_it(queue):
    await queue.wait_with("t0", thread_id="chat")
    await queue.submit("t1", thread_id="chat")
    await scripts.run(queue.redis, cancel_call("t0", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    assert await queue.ids(n=9) == ["t1"]


async def test_id_that_another_program_pushed_is_not_claimed_while_its_task_waits(queue):
    await queue.wait_with("t0")
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "t0")
    assert await queue.ids(n=9) == []
