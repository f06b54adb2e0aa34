"""A tenant that floods the queue does not hold up another one, whatever users it invents."""

import pytest

from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.queue.fleet import fleet_call
from tests.shared.queue.test_task_queue import QUEUE
from tests.shared.queue.test_task_queue_turns import Turns


@pytest.fixture
async def queue(aredis):
    queue = Turns(aredis)
    await queue.join()
    return queue


async def flood(queue, users, tenant="acme", start=0):
    for i in range(start, start + users):
        await queue.submit(f"flood{i}", user_id=f"invented{i}", tenant=tenant)


async def test_a_thousand_invented_users_of_a_tenant_delay_another_tenants_task_by_one(queue):
    await flood(queue, 1_000)
    await queue.submit("victim", tenant="other", user_id="ann")
    assert "other--victim" in await queue.claim_ids(2)


async def test_tenant_with_many_tasks_and_users_gets_every_second_turn_beside_a_flood(queue):
    await flood(queue, 200)
    for i in range(20):
        await queue.submit(f"victim{i}", tenant="other", user_id=f"user{i % 4}")
    served = [task_id.partition("--")[0] for task_id in await queue.claim_ids(40)]
    assert served == ["acme", "other"] * 20


async def test_users_who_arrive_without_end_do_not_take_another_tenants_turns(queue):
    await queue.submit("victim0", tenant="other")
    await queue.submit("victim1", tenant="other")
    served = []
    for i in range(10):
        await flood(queue, 10, start=10 * i)
        served += await queue.claim_ids(1)
    assert [task_id for task_id in served if task_id.startswith("other")] == ["other--victim0", "other--victim1"]
    assert served.index("other--victim1") <= 3


async def test_tenants_with_a_backlog_take_turns_and_so_do_the_users_of_each(queue):
    for tenant, users in (("acme", ("ann", "bob", "eve")), ("other", ("kim",))):
        for user in users:
            for i in range(2):
                await queue.submit(f"{user}{i}", tenant=tenant, user_id=user)
    served = [task_id.partition("--")[2] for task_id in await queue.claim_ids(8)]
    assert served == ["ann0", "kim0", "bob0", "kim1", "eve0", "ann1", "bob1", "eve1"]


async def test_tenant_whose_lost_id_held_its_turn_is_not_stuck_while_others_keep_the_queue_busy(queue):
    await flood(queue, 3)
    await queue.submit("victim0", tenant="other", user_id="ann")
    await queue.submit("victim1", tenant="other", user_id="bob")
    await queue.redis.lrem(f"rq:queue:{QUEUE}", 1, "other--victim0")
    await queue.redis.delete("agent:task:other--victim0", "rq:job:other--victim0")
    while not await queue.redis.lpos(f"rq:queue:{QUEUE}", "other--victim1"):
        await queue.sweep()
    assert "other--victim1" in await queue.claim_ids(2)


async def test_lines_of_all_tenants_go_on_after_the_queue_was_emptied(queue):
    await flood(queue, 3)
    await flood(queue, 3, tenant="other")
    await queue.redis.delete(f"rq:queue:{QUEUE}")  # what `rq empty` does to the list
    assert len(await queue.claim_ids(9)) == 4
    assert not await queue.redis.exists(f"agent:tenant_turns:{QUEUE}", f"agent:runnable:{QUEUE}")


async def test_cancelled_tasks_of_many_users_are_passed_over_a_bounded_number_at_a_time(queue):
    await flood(queue, 2_500)
    pipeline = queue.redis.pipeline()
    for i in range(2_499):
        pipeline.hset(f"agent:task:acme--flood{i}", mapping={"state": "cancelled", "place": "done"})
    await pipeline.execute()
    claims = 1
    while not (claim := await queue.claim()).tasks:
        assert claim.dropped, "a worker would wait for more"
        claims += 1
    assert [one.id for one in claim.tasks] == ["acme--flood2499"]
    assert claims > 1


async def test_depth_of_a_queue_counts_the_users_in_line(queue):
    await flood(queue, 5)
    await flood(queue, 2, tenant="other")
    assert (await run(queue.redis, fleet_call())).queues[0].runnable == 7
