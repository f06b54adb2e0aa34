"""What the sweeper finds and mends: tasks past their deadline, and what other programs removed or left behind."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Swept
from langgraph_rq.shared.queue.upkeep import leave_call, sweep_call
from langgraph_rq.shared.queue.verbs import cancel_call
from langgraph_rq.shared.tasks import State
from tests.shared.queue.test_task_queue import QUEUE, TIMES
from tests.shared.queue.test_task_queue_turns import Turns


@pytest.fixture
async def queue(aredis):
    queue = Turns(aredis)
    await queue.join()
    return queue


async def test_task_that_runs_is_not_ended_as_overdue(queue):
    await queue.submit()
    await queue.claim_one()
    assert await queue.cancel(state=State.TIMEOUT) is State.RUNNING
    assert await queue.field("cancel") is None


async def test_task_past_its_deadline_is_found_while_it_waits(queue):
    await queue.submit("running", deadline_s=10)
    await queue.claim_one()
    await queue.submit("late", deadline_s=10)
    await queue.submit("later", deadline_s=60)
    queue.now_ms += 10_001
    assert (await queue.sweep()).overdue == ("late",)
    assert await queue.cancel("late", State.TIMEOUT) is State.TIMEOUT
    assert (await queue.sweep()).overdue == ()


async def test_running_tasks_do_not_hide_one_that_is_past_its_deadline_and_waits(queue):
    for i in range(5):
        await queue.submit(f"running-{i}", deadline_s=10)
    await queue.claim(n=5)
    await queue.submit("waiting", deadline_s=11)
    queue.now_ms += 11_001
    first = await queue.sweep(n=4)
    assert (first.overdue, first.has_more) == ((), True)
    second = await queue.sweep(n=4)
    assert (second.overdue, second.has_more) == (("waiting",), False)


async def test_overdue_task_whose_sweeper_died_is_found_again_later(queue):
    await queue.submit("late", deadline_s=10)
    queue.now_ms += 10_001
    assert (await queue.sweep()).overdue == ("late",)
    assert (await queue.sweep()).overdue == (), "another sweeper is at it"
    queue.now_ms += 5_001
    assert (await queue.sweep()).overdue == ("late",)


async def test_sweeper_finds_nothing_where_only_our_verbs_ran(queue):
    queue.times = queue.capped(2)
    for i in range(6):
        await queue.submit(f"ann{i}", user_id="ann", **({"thread_id": "chat"} if i % 2 else {}))
    await queue.claim_ids(2)
    await queue.submit("d", user_id="bob")
    await queue.release(await queue.claim_one(), delay_ms=500)
    assert await queue.sweep() == await queue.sweep()
    assert (await queue.sweep()).again == ()


@pytest.mark.parametrize(
    "loss",
    [
        "rq:queue:agent_tasks",
        "agent:delayed",
        "agent:own:w1",
        "agent:waiting:agent_tasks:default--",
        "agent:thread:chat",
    ],
)
async def test_sweeper_queues_again_what_a_deleted_key_had_held(queue, loss):
    await queue.submit("owned")
    await queue.claim_one()
    await queue.submit("delayed")
    await queue.release(await queue.claim_one(), delay_ms=1_000)
    await queue.submit("head", thread_id="chat", user_id="ann")
    await queue.submit("parked", thread_id="chat", user_id="ann")
    await queue.submit("waits1")
    await queue.submit("waits2")
    await queue.redis.delete(loss)
    await queue.sweep()
    queue.now_ms += 1_000
    await queue.reap()
    ran = set()
    while claimed := (await queue.claim()).tasks:
        ran |= {one.id for one in claimed}
        for one in claimed:
            await queue.finish(one)
        await queue.sweep()
    expected = {"delayed", "head", "parked", "waits1", "waits2"}
    assert ran - {"owned"} == expected
    assert ("owned" in ran) == (loss == "agent:own:w1")


async def test_sweeper_drops_the_id_of_a_running_task_and_gives_no_user_a_turn_for_it(queue):
    await queue.submit("t1", user_id="ann")
    await queue.claim_ids()
    for task_id in ("t2", "t3"):
        await queue.submit(task_id, user_id="ann")
    await queue.redis.lpush("rq:queue:agent_tasks", "t1")  # as `rq requeue` may
    await queue.sweep()
    assert await queue.redis.lrange("rq:queue:agent_tasks", 0, -1) == [b"t2"]
    assert await queue.claim_ids(3) == ["t2", "t3"]


async def test_sweeper_reports_a_job_that_an_rq_tool_removed(queue):
    await queue.submit("gone")
    await queue.redis.delete("rq:job:gone", "rq:queue:agent_tasks")
    assert (await queue.sweep()).removed == ("gone",)


async def test_thousands_of_ended_tasks_are_dropped_in_one_round_of_the_sweeper(queue):
    ids = [f"r{i}" for i in range(1_000)]
    for i, task_id in enumerate(ids):
        await queue.submit(task_id, user_id=f"user{i % 2}")
    cancels = [cancel_call(task_id, State.CANCELLED, b"{}", TIMES, queue.now_ms) for task_id in ids]
    await scripts.run_many(queue.redis, cancels)
    await queue.redis.delete("rq:queues")
    await queue.redis.sadd(
        "rq:queues", f"rq:queue:{QUEUE}"
    )  # the first sweep takes any one, the next ones stay with it
    while (await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))).has_more:
        await queue.redis.sadd("rq:queues", *(f"rq:queue:other{i}" for i in range(50)))
    left = f"rq:queue:{QUEUE}", *(f"agent:waiting:{QUEUE}:default--user{i}" for i in range(2))
    assert await queue.redis.exists(*left) == 0


async def test_sweeper_deletes_no_key_that_another_program_adds_to_the_list_of_queues(queue):
    await queue.redis.hset("agent:budget:policy", "global", "5 -")
    await queue.redis.delete("rq:queues")
    await queue.redis.sadd("rq:queues", "agent:budget:policy")
    await queue.sweep()
    assert await queue.redis.hgetall("agent:budget:policy") == {b"global": b"5 -"}
    assert await queue.redis.exists("rq:queues") == 0
    await queue.redis.hset("agent:sweeper", "drops", "agent:budget:policy")
    await queue.redis.sadd("rq:queues", "agent:budget:policy")
    await queue.sweep()
    assert await queue.redis.exists("agent:budget:policy") == 1


async def test_one_worker_sweeps_and_another_once_it_has_not_for_a_lease(queue):
    await queue.submit("t1", deadline_s=1)
    queue.now_ms += 1_000

    async def sweep(worker):
        call = sweep_call(now_ms=queue.now_ms, worker=worker, lease_ms=8_000)
        return await scripts.run(queue.redis, call)

    assert (await sweep("w1")).overdue == ("t1",)
    queue.now_ms += 7_999  # the task is to be looked at again: the first sweeper died before it was ended
    assert await sweep("w2") == Swept((), (), (), has_more=False, graphs=(), unreadable=(), open=0, spent=())
    queue.now_ms += 1
    assert (await sweep("w2")).overdue == ("t1",)
    queue.now_ms += 7_000
    assert (await sweep("w1")).open == 0, "the first one was only held up, and sweeps beside the second"
    assert (await sweep("w2")).overdue == ("t1",)


async def test_worker_that_leaves_lets_another_sweep_at_once(queue):
    await queue.submit("t1")
    for worker in ("w1", "w2"):
        await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms, worker=worker))
        await scripts.run(queue.redis, leave_call(worker))
    assert (await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms, worker="w3"))).open == 1
