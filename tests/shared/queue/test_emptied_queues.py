"""Queues that RQ's own clients empty, and waiting jobs that they delete or cancel: nothing else is lost."""

import pytest
from rq.registry import CanceledJobRegistry

from tests.shared.queue.rq_clients import (
    enqueue,
    fetch,
    listed,
    sweep_all,
    waiting,
)
from tests.shared.queue.test_task_queue import QUEUE


@pytest.mark.parametrize("first", ["claim", "sweep", "submit"])
async def test_emptied_queue_cancels_all_that_waits_whoever_notices_first(queue, rq, first):
    ids = await waiting(queue)
    assert rq.empty() == 1
    queue.now_ms += 1_000
    match first:
        case "claim":
            assert await queue.claim_ids(9) == []
        case "submit":
            await queue.submit("new", user_id="ann")
    removed, _ = await sweep_all(queue)
    assert removed == ids
    queue.now_ms += 1_000
    await queue.submit("newer", user_id="ann")
    claimed = [id_ for _ in range(5) for id_ in await queue.claim_ids(9)]
    assert claimed == (["new", "newer"] if first == "submit" else ["newer"])


async def test_tasks_that_began_before_the_queue_was_emptied_go_on(queue, rq):
    await waiting(queue, users=["ann"], tasks=3)
    claimed = await queue.claim_one()
    rq.empty()
    assert await queue.release(claimed)
    await sweep_all(queue)
    assert await queue.claim_ids(9) == ["ann0"]


@pytest.mark.parametrize("change", ["delete", "cancel"])
async def test_job_that_is_deleted_or_cancelled_takes_no_other_task_of_its_user_with_it(queue, rq, change):
    await waiting(queue, users=["ann"], tasks=3)
    getattr(fetch(rq, "ann0"), change)()
    assert rq.count == 0
    assert await queue.claim_ids(9) == ["ann1", "ann2"]
    assert await sweep_all(queue) == ({"ann0"}, set())


async def test_list_that_another_program_deleted_is_queued_again(queue, rq):
    ids = await waiting(queue)
    await queue.redis.delete(f"rq:queue:{QUEUE}")
    assert (await sweep_all(queue))[0] == set()
    assert {id_ for _ in ids for id_ in await queue.claim_ids(9)} == ids


async def test_emptied_queue_of_many_is_passed_over_a_bounded_number_at_a_time(queue, rq):
    await waiting(queue, users=["ann"], tasks=150)
    rq.empty()
    queue.now_ms += 1
    assert [len((await queue.claim(n=10)).dropped) for _ in range(3)] == [1, 1, 0], "stand-ins for those passed over"
    assert len((await sweep_all(queue, 100))[0]) == 150


async def test_nothing_is_registered_any_more_when_all_ids_were_taken(queue):
    ids = await waiting(queue)
    await queue.claim(n=len(ids))
    assert await queue.redis.keys("rq:deferred:*") == []


async def test_queue_that_was_emptied_while_stock_rq_pushes_loses_no_task_that_came_later(queue, rq):
    await waiting(queue, users=["ann"], tasks=2)
    rq.empty()
    enqueue(rq, "stock")
    queue.now_ms += 1_000
    await queue.submit("new", user_id="ann")
    claimed = await queue.claim_ids(9)
    await sweep_all(queue)
    assert {"stock", "new"} <= {*claimed, *await queue.claim_ids(9)}


async def test_waiting_tasks_are_listed_as_deferred_until_they_are_taken(queue, rq):
    await queue.submit("alone", user_id="ann")
    assert (fetch(rq, "alone").get_status(), rq.deferred_job_registry.count) == ("queued", 0)
    await queue.submit("next", user_id="ann")
    await queue.submit("parked", user_id="ann", thread_id="chat")
    await queue.submit("behind", user_id="ann", thread_id="chat")
    assert set(rq.deferred_job_registry.get_job_ids()) == {"alone", "next", "parked", "behind"}
    assert {fetch(rq, id_).get_status() for id_ in rq.deferred_job_registry.get_job_ids()} == {"deferred"}
    claimed = (await queue.claim(n=9)).tasks
    assert rq.deferred_job_registry.get_job_ids() == ["behind"]
    assert await queue.release(claimed[0], delay_ms=5_000)
    assert set(rq.deferred_job_registry.get_job_ids()) == {"behind", "alone"}
    await queue.cancel("behind")
    queue.now_ms += 5_000
    await queue.reap()
    assert rq.deferred_job_registry.count == 0
    assert fetch(rq, "alone").get_status() == "queued"


@pytest.mark.parametrize("change", ["delete", "cancel"])
async def test_job_that_is_removed_while_it_waits_for_its_turn_is_cancelled(queue, rq, change):
    await waiting(queue, users=["ann"], tasks=3)
    getattr(fetch(rq, "ann1"), change)()
    assert await queue.claim_ids(9) == ["ann0", "ann2"]
    assert await sweep_all(queue) == ({"ann1"}, set())


async def test_job_that_is_deleted_just_as_the_sweeper_puts_it_back_is_cancelled(queue, rq):
    await queue.submit()
    job = fetch(rq)
    rq.remove("t1")
    assert (await queue.sweep()).again == ("t1",)
    job.delete(remove_from_queue=False)
    assert await queue.claim_ids(9) == []
    assert await sweep_all(queue) == ({"t1"}, set())
    assert listed(rq, CanceledJobRegistry) == [], "RQ's tools cannot fetch it"


async def test_parked_job_that_is_cancelled_does_not_run_after_its_thread_is_free(queue, rq):
    for task_id in ("t0", "t1"):
        await queue.submit(task_id, thread_id="chat")
    fetch(rq, "t1").cancel()
    await queue.finish(await queue.claim_one())
    assert await queue.claim_ids(9) == []
    assert await sweep_all(queue) == ({"t1"}, set())


async def test_parked_task_is_cancelled_with_its_queue(queue, rq):
    for task_id in ("t0", "t1"):
        await queue.submit(task_id, thread_id="chat")
    claimed = await queue.claim_one()
    for task_id in ("other", "another"):
        await queue.submit(task_id)
    assert rq.empty() == 1
    queue.now_ms += 1_000
    assert await queue.claim_ids(9) == []
    await queue.finish(claimed)
    assert await queue.claim_ids(9) == []
    assert await sweep_all(queue) == ({"t1", "other", "another"}, set())


async def test_stand_in_for_ended_tasks_stays_when_rq_reads_the_jobs(queue, rq):
    await waiting(queue, users=["ann"], tasks=150)
    for number in range(1, 149):
        await queue.cancel(f"ann{number}")
    assert await queue.claim_ids() == ["ann0"]
    assert [job.id[:6] for job in rq.get_jobs()] == ["-next-"]
    assert rq.count == 1
    assert [id_ for _ in range(3) for id_ in await queue.claim_ids()] == ["ann149"]
    assert await queue.redis.keys("rq:job:-next-*") == []


async def test_queue_that_is_emptied_of_a_stand_in_is_cancelled(queue, rq):
    await waiting(queue, users=["ann"], tasks=150)
    for number in range(1, 149):
        await queue.cancel(f"ann{number}")
    assert await queue.claim_ids() == ["ann0"]
    assert rq.empty() == 1
    queue.now_ms += 1_000
    assert [id_ for _ in range(3) for id_ in await queue.claim_ids()] == []
    assert (await sweep_all(queue))[0] == {"ann149"}


async def test_emptied_queue_of_several_tenants_is_cancelled_as_a_whole(queue, rq):
    for tenant in ("acme", "initech", "umbrella"):
        for number in range(2):
            await queue.submit(f"{tenant}{number}", tenant=tenant)
    assert rq.empty() == 3
    queue.now_ms += 1_000
    assert await queue.claim_ids(9) == []
    assert len((await sweep_all(queue))[0]) == 6


async def test_job_of_which_an_old_worker_left_the_entry_is_no_sign_of_an_emptied_queue(queue, rq):
    await waiting(queue, users=["ann"], tasks=3)
    claimed = await queue.claim_one()
    await queue.finish(claimed)
    await queue.redis.zadd(f"rq:deferred:{QUEUE}", {claimed.id: 4102444800})  # it took no id out of the registry
    await queue.redis.delete(f"rq:job:{claimed.id}", f"rq:queue:{QUEUE}")
    await sweep_all(queue)
    assert {id_ for _ in range(3) for id_ in await queue.claim_ids(9)} == {"ann1", "ann2"}


async def test_waiting_job_that_a_dashboard_enqueues_waits_on_and_is_registered_again(queue, rq):
    for task_id in ("t0", "t1"):
        await queue.submit(task_id, thread_id="chat")
    await queue.claim_one()
    rq.deferred_job_registry.remove("t1")
    rq.push_job_id("t1")
    assert await queue.claim_ids() == []
    assert (fetch(rq, "t1").get_status(), rq.deferred_job_registry.get_job_ids()) == ("deferred", ["t1"])
