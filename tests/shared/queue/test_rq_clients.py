"""RQ's own clients beside our tasks: what they push, empty or delete, and what they see afterwards."""

from datetime import UTC, datetime

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.attempts import Kept, adopt_call, finish_call
from langgraph_rq.shared.queue.upkeep import reap_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.results import ResultMetadata, TaskResult
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE
from tests.shared.queue.test_task_queue_turns import Turns

REGISTRIES = {State.ERROR: FailedJobRegistry, State.SUCCESS: FinishedJobRegistry, State.CANCELLED: CanceledJobRegistry}
STATUS = {State.ERROR: "failed", State.SUCCESS: "finished", State.CANCELLED: "canceled"}
TIMES = QueueTimes()


@pytest.fixture
async def queue(aredis):
    queue = Tasks(aredis)
    await queue.join()
    return queue


@pytest.fixture
def rq(redis_url):
    with Redis.from_url(redis_url) as redis:
        yield Queue(QUEUE, connection=redis, serializer=JSONSerializer)


class Tasks(Turns):
    async def end(self, task_id="t1", state=State.ERROR):
        """Submit a task and let it end in `state`."""
        await self.submit(task_id)
        if state is State.CANCELLED:
            await self.cancel(task_id)
            return
        result = TaskResult.encode(
            task_id=task_id,
            status=state,
            metadata=ResultMetadata(graph="assistant", attempts=1, queued_ms=1, run_ms=1, worker="w1"),
            submitted_at="2026-11-22T13:15:02.114Z",
            started_at="2026-11-22T13:15:03Z",
            ended_at="2026-11-22T13:15:04.5Z",
        )
        call = finish_call(await self.claim_one(), "w1", state, result, TIMES, failure="it broke", now_ms=self.now_ms)
        await scripts.run(self.redis, call)

    async def reap_scheduled(self):
        return await scripts.run(self.redis, reap_call(now_ms=self.now_ms, queues=[QUEUE]))

    async def adopt(self, claimed, **options):
        task = Task.parse({"input": {}, "task_id": claimed.id}, TaskLimits())
        return await scripts.run(self.redis, adopt_call(claimed, "w1", task, self.times, now_ms=self.now_ms, **options))


def fetch(rq, job_id="t1"):
    return Job.fetch(job_id, connection=rq.connection, serializer=JSONSerializer)


def listed(rq, registry, *, cleanup=False):
    return registry(queue=rq).get_job_ids(cleanup=cleanup)


def enqueue(rq, job_id="t1", **options):
    task = {"input": {"secret": 1}}
    return rq.enqueue("langgraph_rq.run_task", task, job_id=job_id, **options)


def enqueue_at(rq, at_s, job_id, **options):
    at = datetime.fromtimestamp(at_s, UTC)
    rq.enqueue_at(at, "langgraph_rq.run_task", {"input": {}}, job_id=job_id, **options)


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


async def waiting(queue, *, users=("ann", "bob"), tasks=5):
    """Submit tasks of some users, of which the queue's list holds one."""
    for user in users:
        for number in range(tasks):
            await queue.submit(f"{user}{number}", user_id=user)
    return {f"{user}{number}" for user in users for number in range(tasks)}


async def sweep_all(queue, n=7):
    """Sweep until nothing is left to do; return what was removed, and so cancelled, and what was queued again."""
    removed, again = set(), set()
    for _ in range(20):
        swept = await queue.sweep(n)
        for task_id in swept.removed:
            assert await queue.cancel(task_id) is State.CANCELLED
        removed |= set(swept.removed)
        again |= set(swept.again)
    return removed, again


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
