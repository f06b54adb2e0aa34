"""RQ's own clients beside our tasks: the jobs that they push, and how they see ours run and end."""

import pytest
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry

from langgraph_rq.shared.queue.attempts import Kept
from langgraph_rq.shared.tasks import State
from tests.shared.queue.rq_clients import (
    REGISTRIES,
    STATUS,
    TIMES,
    enqueue,
    enqueue_at,
    fetch,
    listed,
)
from tests.shared.queue.test_task_queue import QUEUE


async def test_requeued_job_is_shown_as_it_ended(queue, rq):
    await queue.end()
    before = fetch(rq)
    score = rq.connection.zscore(f"rq:failed:{QUEUE}", "t1")
    before.requeue()
    assert fetch(rq).get_status() == "queued"
    assert await queue.claim_ids() == []
    job = fetch(rq)
    assert (job.get_status(), listed(rq, FailedJobRegistry)) == ("failed", ["t1"])
    assert rq.connection.zscore(f"rq:failed:{QUEUE}", "t1") == pytest.approx(score, abs=2)
    assert job.ended_at.isoformat() == "2026-11-22T13:15:04.500000+00:00"
    assert job.started_at.isoformat() == "2026-11-22T13:15:03+00:00"
    assert "it broke" in job.latest_result().exc_string
    assert rq.count == 0


@pytest.mark.parametrize("state", REGISTRIES)
async def test_job_that_is_enqueued_under_an_ended_id_is_shown_as_it_ended(queue, rq, state):
    await queue.end(state=state)
    enqueue(rq)
    assert await queue.claim_ids() == []
    assert fetch(rq).get_status() == STATUS[state]
    assert listed(rq, REGISTRIES[state]) == ["t1"]
    kept_s = TIMES.kept_ms(state) / 1000
    assert kept_s - 600 < rq.connection.ttl("rq:job:t1") <= kept_s


async def test_job_that_is_enqueued_under_an_id_whose_result_is_over_is_shown_for_a_while(queue, rq):
    await queue.end(state=State.SUCCESS)
    await queue.redis.delete("agent:result:t1", "rq:job:t1", f"rq:finished:{QUEUE}")
    enqueue(rq)
    await queue.claim_ids()
    assert fetch(rq).get_status() == "finished"
    assert 0 < rq.connection.ttl("rq:job:t1") <= 300


async def test_requeued_job_on_a_queue_that_no_worker_reads_is_shown_as_it_ended(queue, rq):
    await queue.end()
    fetch(rq).requeue()
    await queue.sweep()
    assert (fetch(rq).get_status(), listed(rq, FailedJobRegistry)) == ("failed", ["t1"])


async def test_job_that_is_enqueued_under_the_id_of_a_running_task_is_shown_as_started(queue, rq):
    await queue.submit()
    await queue.claim_one()
    enqueue(rq)
    await queue.claim_ids()
    job = fetch(rq)
    assert (job.get_status(), job.worker_name) == ("started", "w1")


async def test_task_that_a_worker_of_stock_rq_failed_by_mistake_leaves_no_failed_entry(queue, rq):
    await queue.submit()
    rq.pop_job_id()
    job = fetch(rq)
    job.set_status("failed")
    FailedJobRegistry(queue=rq).add(job, ttl=1_000, exc_string="No module named 'langgraph_rq'")
    assert (await queue.sweep()).again == ("t1",)
    await queue.finish(await queue.claim_one())
    assert listed(rq, FailedJobRegistry) == []
    assert fetch(rq).get_status() == "finished"


async def test_registry_of_finished_tasks_forgets_those_whose_result_is_over(queue, rq):
    for number in range(3):
        queue.now_ms += TIMES.result_ms + 1_000
        await queue.join()
        await queue.end(f"t{number}", State.SUCCESS)
    assert listed(rq, FinishedJobRegistry) == ["t2"]


async def test_registry_of_cancelled_tasks_forgets_those_whose_result_is_over(queue, rq):
    for number in range(3):
        queue.now_ms += TIMES.failed_ms + 1_000
        await queue.end(f"t{number}", State.CANCELLED)
    await queue.reap_scheduled()
    assert listed(rq, CanceledJobRegistry) == ["t2"]


async def test_job_that_stock_rq_cancelled_before_a_worker_read_it_is_forgotten(queue, rq):
    enqueue(rq).cancel()
    assert (rq.connection.ttl("rq:job:t1"), listed(rq, CanceledJobRegistry)) == (-1, ["t1"])
    await queue.reap_scheduled()
    assert 0 < rq.connection.ttl("rq:job:t1") <= 300
    assert listed(rq, CanceledJobRegistry) == []


async def test_job_that_waits_for_another_one_is_queued_to_be_refused(queue, rq):
    enqueue(rq, "first")
    enqueue(rq, "second", depends_on="first")
    assert fetch(rq, "second").get_status() == "deferred"
    assert (await queue.reap_scheduled()).promoted == ("second",)
    refused = {one.id: one.acting_fields for one in (await queue.claim(n=9)).tasks}
    assert refused == {"first": (), "second": ("dependency_id", "dependency_ids")}
    assert not rq.connection.keys("rq:*depende*")
    assert not rq.connection.exists(f"rq:deferred:{QUEUE}")


async def test_registry_outlives_its_longest_entry(queue):
    await queue.end("asked", State.INTERRUPTED)
    await queue.end("answered", State.SUCCESS)
    assert await queue.redis.pttl(f"rq:finished:{QUEUE}") > TIMES.window_ms - 60_000


async def test_cap_of_a_user_holds_for_jobs_of_stock_rq(queue, rq):
    queue.times = queue.capped(1)
    for number in range(3):
        enqueue(rq, f"j{number}")
    first, *others = (await queue.claim()).tasks
    assert await queue.adopt(first) > 0
    assert [await queue.adopt(other) for other in others] == [-1, -1]
    assert await queue.claim_ids(9) == []
    await queue.finish(first)
    assert await queue.claim_ids(9) == ["j1"]
    assert await queue.redis.hgetall("agent:in_flight") == {b"default--": b"1"}


async def test_job_of_stock_rq_that_ends_while_it_waits_has_a_result_for_as_long_as_its_client_asked(queue, rq):
    queue.times = queue.capped(1)
    for number in range(2):
        enqueue(rq, f"j{number}")
    for claimed in (await queue.claim()).tasks:
        await queue.adopt(claimed, kept=Kept(result_ms=50_000, failure_ms=500_000))
    await queue.cancel("j1", State.TIMEOUT)
    assert fetch(rq, "j1").latest_result().return_value == {"cancelled": 1}
    assert 400 < rq.connection.ttl("agent:result:j1") <= 500


async def test_result_of_an_earlier_task_is_not_that_of_a_new_one_under_its_id(queue):
    await queue.end()
    await queue.redis.delete("agent:task:t1", *await queue.redis.keys("agent:ids:*"))
    await queue.submit()
    assert await queue.redis.exists("agent:result:t1", "agent:events:t1") == 0


async def test_result_of_an_earlier_task_is_not_that_of_a_job_of_stock_rq_under_its_id(queue, rq):
    await queue.end()
    await queue.redis.delete("agent:task:t1", *await queue.redis.keys("agent:ids:*"))
    enqueue(rq)
    assert await queue.claim_ids() == ["t1"]
    assert await queue.redis.get("agent:result:t1") is None
    assert await queue.redis.xlen("agent:events:t1") == len(("running",))
    assert fetch(rq).latest_result() is None


async def test_jobs_that_are_enqueued_for_later_are_queued_when_they_are_due(queue, rq):
    for job_id, minutes, options in (("first", 1, {}), ("later", 3, {}), ("front", 2, {"at_front": True})):
        enqueue_at(rq, queue.now_ms / 1000 + 60 * minutes, job_id, **options)
    assert (await queue.reap_scheduled()).promoted == ()
    queue.now_ms += 120_000
    reaped = await queue.reap_scheduled()
    assert (reaped.promoted, reaped.next_due_ms) == (("first", "front"), 60_000)
    assert [job.id for job in rq.jobs] == ["front", "first"]
    assert {job.get_status() for job in rq.jobs} == {"queued"}
    assert rq.scheduled_job_registry.get_job_ids() == ["later"]
    await queue.join()
    assert await queue.claim_ids(9) == ["front", "first"]


async def test_job_that_is_queued_by_a_scheduler_of_rq_too_runs_once(queue, rq):
    enqueue_at(rq, queue.now_ms / 1000, "job")
    await queue.reap_scheduled()
    rq.push_job_id("job")
    assert await queue.claim_ids(9) == ["job"]
    assert await queue.claim_ids(9) == []


async def test_scheduled_job_that_was_deleted_is_forgotten(queue, rq):
    enqueue_at(rq, queue.now_ms / 1000, "job")
    await queue.redis.delete("rq:job:job")
    await queue.reap_scheduled()
    assert (rq.count, rq.scheduled_job_registry.get_job_count(cleanup=False)) == (0, 0)


async def test_waiting_task_stays_when_a_job_is_enqueued_under_its_id(queue, rq):
    for task_id in ("t0", "t1", "t2"):
        await queue.submit(task_id, input={"of": task_id})
    for task_id in ("t0", "t2"):
        enqueue(rq, task_id, ttl=1)
    assert fetch(rq, "t2").args == [{"input": {"secret": 1}}]
    claimed = (await queue.claim()).tasks
    assert [f'"input":{{"of":"{task.id}"}}'.encode() in task.data for task in claimed] == [True] * 3
    assert rq.connection.ttl("rq:job:t2") == -1
    assert await queue.claim_ids() == []
    assert (rq.count, fetch(rq, "t2").description, fetch(rq, "t2").timeout) == (0, "assistant t2", 300)


async def test_parked_task_stays_when_a_job_is_enqueued_under_its_id(queue, rq):
    for task_id in ("t0", "t1"):
        await queue.submit(task_id, thread_id="chat")
    enqueue(rq, "t1")
    assert await queue.claim_ids(9) == ["t0"]
    assert fetch(rq, "t1").get_status() == "deferred"
    assert await queue.field("place", "t1") == b"parked"


async def test_jobs_of_our_clients_show_no_input(queue, rq):
    await queue.submit(input={"query": "a secret"})
    assert fetch(rq).args == []
    assert fetch(rq).func_name == "langgraph_rq.run_task"


async def test_execution_of_a_job_is_the_attempt_that_runs(queue, rq):
    await queue.submit()
    assert fetch(rq).get_executions() == []
    first = await queue.claim_one()
    began_s = queue.now_ms / 1_000
    for seconds in (0, 2):
        queue.now_ms += 1_000 * seconds
        await queue.renew()
        (execution,) = fetch(rq).get_executions()
        shown = (execution.id, execution.worker_name, execution.created_at.timestamp())
        assert shown == ("1", "w1", began_s)
        assert execution.last_heartbeat.timestamp() == began_s + seconds
    assert rq.started_job_registry.get_job_and_execution_ids(cleanup=False) == [("t1", "1")]
    await queue.release(first)
    assert fetch(rq).get_executions() == []
    second = await queue.claim_one()
    await queue.renew()
    assert [execution.id for execution in fetch(rq).get_executions()] == ["2"]
    await queue.finish(second)
    assert fetch(rq).get_executions() == []
    assert await queue.redis.keys("rq:execution*") == []


async def test_execution_of_a_job_whose_worker_died_is_gone(queue, rq):
    await queue.submit()
    await queue.claim_one()
    await queue.renew()
    assert len(fetch(rq).get_executions()) == 1
    queue.now_ms += 8_001
    await queue.reap()
    assert fetch(rq).get_executions() == []
    assert await queue.redis.keys("rq:execution*") == []
