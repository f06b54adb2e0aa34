"""The queue's verbs on a real Redis: who owns what, whatever is repeated, late or lost."""

import json

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished, Origin, Submitted, Use
from langgraph_rq.shared.queue.attempts import adopt_call, claim_call, finish_call, release_call, use_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import leave_call, reap_call, renew_call, sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, submit_call
from langgraph_rq.shared.queue.waits import AT_ONCE, RETRY, Wait
from langgraph_rq.shared.tasks import State, Task, TaskLimits

TIMES = QueueTimes()
QUEUE = "agent_tasks"


@pytest.fixture
def queue(aredis):
    return QueueOnRedis(aredis)


class QueueOnRedis:
    """The verbs with the arguments that these tests do not vary; time stands still unless a test moves it."""

    def __init__(self, redis):
        self.redis = redis
        self.now_ms = 1_800_000_000_000
        self.times = TIMES
        self.graphs = {}

    async def submit(self, task_id="t1", queue=QUEUE, times=TIMES, **fields):
        task = Task.parse({"input": {}, "task_id": task_id, **fields}, TaskLimits())
        return await scripts.run(self.redis, submit_call(task, queue, times, self.now_ms))

    async def join(self, worker="w1", graphs=None):
        self.graphs[worker] = graphs or {"assistant": "{}"}
        return await self.renew(worker, join=True)

    async def renew(self, worker="w1", *, join=False):
        graphs = self.graphs.get(worker, {})
        return await scripts.run(self.redis, renew_call(worker, 8000, [QUEUE], graphs, join=join, now_ms=self.now_ms))

    async def claim(self, worker="w1", n=10, queues=(QUEUE,)):
        return await scripts.run(
            self.redis, claim_call(worker, n, queues, graph_list(self.graphs.get(worker, ())), self.times, self.now_ms)
        )

    async def claim_one(self, worker="w1"):
        (claimed,) = (await self.claim(worker, 1)).tasks
        return claimed

    async def finish(self, claimed, worker="w1", state=State.SUCCESS, last_checkpoint=b""):
        call = finish_call(claimed, worker, state, b"{}", TIMES, last_checkpoint=last_checkpoint, now_ms=self.now_ms)
        return await scripts.run(self.redis, call)

    async def release(self, claimed, worker="w1", delay_ms=0, *, wait=AT_ONCE, failed=False):
        if delay_ms:
            wait = Wait(RETRY, delay_ms, doubles=False, is_attempt=True)
        call = release_call(claimed.id, claimed.epoch, claimed.queue, worker, wait, failed=failed, now_ms=self.now_ms)
        return await scripts.run(self.redis, call)

    async def reap(self, worker=""):
        return await scripts.run(self.redis, reap_call(now_ms=self.now_ms, worker=worker))

    async def field(self, name, task_id="t1"):
        return await self.redis.hget(f"agent:task:{task_id}", name)


async def test_task_is_submitted_claimed_and_finished(queue):
    await queue.join()
    assert (await queue.submit()).outcome is Submitted.CREATED
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.epoch, claimed.origin) == ("t1", 1, Origin.OURS)
    assert json.loads(claimed.data)[2][0]["task_id"] == "t1"
    assert await queue.finish(claimed) is Finished.WRITTEN
    assert await queue.field("state") == b"success"
    assert await queue.redis.get("agent:result:t1") == b"{}"


async def test_token_of_a_claim_is_above_those_of_all_earlier_claims(queue):
    await queue.join()
    for task_id in ("t1", "t2", "t3"):
        await queue.submit(task_id, thread_id=task_id)
    together = [claimed.token for claimed in (await queue.claim(n=2)).tasks]
    assert together == [queue.now_ms * 1000, queue.now_ms * 1000 + 1]
    queue.now_ms -= 5_000  # as after a failover to a replica whose clock is behind
    later = await queue.claim_one()
    assert later.token == together[1] + 1
    await queue.release(later)
    queue.now_ms += 60_000
    await queue.renew()
    assert (await queue.claim_one()).token == queue.now_ms * 1000
    assert 0 < await queue.redis.ttl("agent:token") <= 86_400


async def test_same_id_again_answers_with_the_task_that_is_there(queue):
    await queue.submit()
    again = await queue.submit()
    assert (again.outcome, again.detail) == (Submitted.EXISTS, "pending")
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1


async def test_same_id_with_another_body_is_a_conflict(queue):
    await queue.submit()
    assert (await queue.submit(user_id="ann")).outcome is Submitted.CONFLICT
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1


async def test_ended_task_is_not_run_again_under_its_id(queue):
    await queue.join()
    await queue.submit()
    await queue.finish(await queue.claim_one())
    again = await queue.submit()
    assert (again.outcome, again.detail) == (Submitted.EXISTS, "success")
    assert (await queue.claim()).tasks == ()


async def test_graph_that_no_live_worker_serves_is_refused_at_the_door(queue):
    await queue.join(graphs={"triage": "{}", "my agent": "{}"})
    refused = await queue.submit(graph="nope")
    assert (refused.outcome, set(refused.detail.split(", "))) == (Submitted.UNKNOWN_GRAPH, {"triage", "my agent"})
    assert await queue.redis.dbsize() == len(await queue.redis.keys("agent:*"))
    assert (await queue.submit(graph="my agent")).outcome is Submitted.CREATED


async def test_graph_that_a_worker_had_in_the_last_day_is_waited_for(queue):
    await queue.join(graphs={"triage": "{}", "report": "{}"})
    for hours, outcome in ((23, Submitted.CREATED), (25, Submitted.UNKNOWN_GRAPH)):
        queue.now_ms = 1_800_000_000_000 + hours * 3_600_000
        await queue.join("w2", graphs={"triage": "{}"})
        assert (await queue.submit(f"t{hours}", graph="report")).outcome is outcome


async def test_task_waits_when_no_worker_is_alive(queue):
    await queue.join(graphs={"triage": "{}"})
    queue.now_ms += 8001
    assert (await queue.submit(graph="nope")).outcome is Submitted.CREATED


async def test_submit_is_refused_before_the_memory_is_full(queue):
    await queue.redis.config_set("maxmemory", "1gb")
    try:
        assert (await queue.submit("a")).outcome is Submitted.CREATED
        used = (await queue.redis.info("memory"))["used_memory"]
        await queue.redis.config_set("maxmemory", str(int(used * 1.1)))
        refused = await queue.submit("b")
    finally:
        await queue.redis.config_set("maxmemory", "0")
    assert refused.outcome is Submitted.FULL
    assert 85 < int(refused.detail) <= 100
    assert await queue.field("state", "b") is None


async def test_running_task_ends_even_with_memory_full(queue):
    await queue.join()
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.redis.config_set("maxmemory", "1mb")
    try:
        assert await queue.renew()
        assert await queue.finish(claimed) is Finished.WRITTEN
    finally:
        await queue.redis.config_set("maxmemory", "0")


async def test_queues_are_emptied_in_the_order_given(queue):
    await queue.join()
    await queue.submit("low", f"{QUEUE}_low")
    await queue.submit("normal", QUEUE)
    await queue.submit("high", f"{QUEUE}_high")
    claim = await queue.claim(queues=(f"{QUEUE}_high", QUEUE, f"{QUEUE}_low"))
    assert [claimed.id for claimed in claim.tasks] == ["high", "normal", "low"]


async def test_claim_takes_no_more_than_was_asked_for(queue):
    await queue.join()
    for i in range(5):
        await queue.submit(f"t{i}")
    assert [claimed.id for claimed in (await queue.claim(n=3)).tasks] == ["t0", "t1", "t2"]
    assert [claimed.id for claimed in (await queue.claim(n=3)).tasks] == ["t3", "t4"]


async def test_worker_without_a_lease_gets_nothing(queue):
    await queue.submit()
    assert not (await queue.claim()).has_lease
    await queue.join()
    queue.now_ms += 8001
    assert not (await queue.claim()).has_lease
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1


async def test_lease_that_nobody_reaped_can_be_renewed_late(queue):
    await queue.join()
    queue.now_ms += 60_000
    assert await queue.renew()


async def test_worker_whose_own_lease_is_over_reaps_nobody(queue):
    await queue.join("w1")
    await queue.join("w2")
    await queue.submit()
    await queue.claim_one("w1")
    queue.now_ms += 8_001
    assert (await queue.reap("w2")).reaped == ()
    await queue.join("w2")
    assert (await queue.reap("w2")).reaped == ("t1",)


async def test_lease_that_was_reaped_cannot_be_renewed(queue):
    await queue.join()
    queue.now_ms += 8001
    await queue.reap()
    assert await queue.renew() is None


async def test_task_of_a_dead_worker_comes_back_to_the_front_and_its_crash_is_counted(queue):
    await queue.join("w1")
    await queue.join("w2")
    await queue.submit("t1")
    await queue.claim_one("w1")
    await queue.submit("t2")
    queue.now_ms += 5000
    await queue.renew("w2")
    queue.now_ms += 5000
    assert (await queue.reap()).reaped == ("t1",)
    claim = await queue.claim("w2")
    assert [(claimed.id, claimed.epoch, claimed.crashes) for claimed in claim.tasks] == [("t1", 2, 1), ("t2", 1, 0)]


async def test_task_of_a_thread_that_lacks_its_last_checkpoint_does_not_end(queue):
    await queue.join()
    await queue.submit(thread_id="t")
    claimed = await queue.claim_one()
    await queue.redis.zadd("agent:thread_index:t", {"0::1": 0})
    assert await queue.finish(claimed, last_checkpoint=b"0::2") is Finished.FORGOTTEN
    assert await queue.field("state") == b"running"
    assert await queue.finish(claimed, last_checkpoint=b"0::1") is Finished.WRITTEN
    assert await queue.finish(claimed, last_checkpoint=b"0::2") is Finished.ALREADY_MINE


async def test_task_whose_thread_was_deleted_meanwhile_ends(queue):
    await queue.join()
    await queue.submit(thread_id="t")
    claimed = await queue.claim_one()
    await queue.redis.hset("agent:thread_state:t", "t", claimed.token)  # it has begun
    assert await queue.finish(claimed, last_checkpoint=b"0::1") is Finished.FORGOTTEN
    await queue.redis.hset("agent:thread_state:t", "t", claimed.token + 1)
    assert await queue.finish(claimed, last_checkpoint=b"0::1") is Finished.WRITTEN


async def test_task_without_a_thread_ends_whatever_checkpoint_it_names(queue):
    await queue.join()
    await queue.submit()
    assert await queue.finish(await queue.claim_one(), last_checkpoint=b"0::1") is Finished.WRITTEN


async def test_late_finish_of_a_dead_worker_is_fenced_off(queue):
    await queue.join("w1")
    await queue.submit()
    late = await queue.claim_one("w1")
    queue.now_ms += 8001
    await queue.reap()
    assert await queue.finish(late, "w1") is Finished.FENCED
    await queue.join("w2")
    claimed = await queue.claim_one("w2")
    assert await queue.finish(late, "w1", State.ERROR) is Finished.FENCED
    assert await queue.finish(claimed, "w2") is Finished.WRITTEN
    assert await queue.finish(late, "w1", State.ERROR) is Finished.FENCED
    assert await queue.field("state") == b"success"


async def test_finish_whose_reply_was_lost_may_be_repeated(queue):
    await queue.join()
    await queue.submit()
    claimed = await queue.claim_one()
    assert await queue.finish(claimed) is Finished.WRITTEN
    assert await queue.finish(claimed) is Finished.ALREADY_MINE
    events = await queue.redis.xrange("agent:events:t1")
    assert [fields[b"type"] for _, fields in events] == [b"state", b"end"]


async def test_released_task_is_next_and_charged_no_crash(queue):
    await queue.join()
    await queue.submit("t1")
    await queue.submit("t2")
    assert await queue.release(await queue.claim_one())
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.epoch, claimed.crashes) == ("t1", 2, 0)


async def test_task_released_for_later_is_promoted_when_due(queue):
    await queue.join()
    await queue.submit()
    assert await queue.release(await queue.claim_one(), delay_ms=3000)
    assert (await queue.claim()).tasks == ()
    assert (await queue.reap()).next_due_ms == 3000
    queue.now_ms += 3000
    assert (await queue.reap()).promoted == ("t1",)
    assert (await queue.claim_one()).id == "t1"


async def test_release_by_a_worker_that_lost_the_task_does_nothing(queue):
    await queue.join("w1")
    await queue.submit()
    late = await queue.claim_one("w1")
    queue.now_ms += 8001
    await queue.reap()
    assert not await queue.release(late, "w1")
    assert await queue.redis.llen(f"rq:queue:{QUEUE}") == 1


async def test_renew_tells_what_the_worker_owns_and_what_is_cancelled(queue):
    await queue.join()
    for task_id in ("t1", "t2"):
        await queue.submit(task_id)
    await queue.claim()
    await queue.redis.hset("agent:task:t2", "cancel", "1")
    lease = await queue.renew()
    assert (lease.own, lease.cancelled) == ({"t1", "t2"}, {"t2"})


async def test_worker_that_owns_tasks_does_not_leave(queue):
    await queue.join()
    await queue.submit()
    claimed = await queue.claim_one()
    assert await scripts.run(queue.redis, leave_call("w1")) == 1
    await queue.finish(claimed)
    assert await scripts.run(queue.redis, leave_call("w1")) == 0
    assert await queue.renew() is None


async def test_suspended_fleet_claims_nothing(queue):
    await queue.join()
    await queue.submit()
    await queue.redis.set("rq:suspended", 1)
    claim = await queue.claim()
    assert claim.is_suspended
    assert claim.tasks == ()


async def test_id_without_a_task_is_dropped_and_told(queue):
    await queue.join()
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "nobody", "not an id", "x" * 500, b"\xff\xfe")
    await queue.submit("t1")
    claim = await queue.claim()
    assert [claimed.id for claimed in claim.tasks] == ["t1"]
    assert len(claim.dropped) == 4
    assert max(map(len, claim.dropped)) == 64
    assert claim.odd == claim.dropped


async def test_id_of_a_task_that_was_cancelled_in_the_queue_is_dropped_and_is_nothing_odd(queue):
    await queue.join()
    await queue.submit("t1")
    await scripts.run(queue.redis, cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    claim = await queue.claim()
    assert (claim.dropped, claim.odd) == (("t1",), ())


async def test_job_of_stock_rq_is_owned_before_it_is_read(queue):
    await queue.join()
    await queue.redis.hset("rq:job:j1", mapping={"data": b"[]", "webhooks": "[1]", "success_callback_name": ""})
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "j1", "j1")
    claim = await queue.claim()
    (claimed,) = claim.tasks
    assert (claimed.origin, claimed.data, claimed.acting_fields) == (Origin.ENQUEUED, b"[]", ("webhooks",))
    assert claim.dropped == ("j1",)
    queue.now_ms += 8001
    assert (await queue.reap()).reaped == ("j1",)


async def test_adopted_job_gets_its_own_deadline(queue):
    await queue.join()
    await queue.redis.hset("rq:job:j1", mapping={"data": b"[]", "description": "worker.run_task({'secret': 1})"})
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "j1")
    claimed = await queue.claim_one()
    task = Task.parse({"input": {}, "task_id": "j1", "deadline_s": 7}, TaskLimits())
    assert await scripts.run(queue.redis, adopt_call(claimed, "w1", task, TIMES)) == queue.now_ms + 7000
    assert b"secret" not in await queue.redis.hget("rq:job:j1", "description")
    assert await scripts.run(queue.redis, adopt_call(claimed, "w2", task, TIMES)) == 0


async def test_job_data_over_the_limit_is_never_fetched(queue):
    await queue.join()
    await queue.redis.hset("rq:job:j1", "data", b"x" * (TIMES.job_bytes + 1))
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "j1")
    claimed = await queue.claim_one()
    assert (claimed.origin, claimed.data) == (Origin.TOO_LONG, b"")


async def test_job_that_is_no_hash_can_still_be_finished(queue):
    await queue.join()
    await queue.redis.set("rq:job:j1", "garbage")
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "j1")
    claimed = await queue.claim_one()
    assert claimed.origin is Origin.MALFORMED
    assert await queue.finish(claimed, state=State.ERROR) is Finished.WRITTEN


async def test_every_key_of_an_ended_task_has_a_time_to_live(queue):
    await queue.join()
    await queue.submit()
    await queue.finish(await queue.claim_one())
    kept_for_good = {b"agent:workers", b"agent:tenants", b"rq:queues"}
    ttls = {key: await queue.redis.pttl(key) for key in await queue.redis.keys("*")}
    assert {key for key, ttl in ttls.items() if ttl < 0} <= kept_for_good


async def test_time_is_the_servers_when_none_is_given(aredis):
    task = Task.parse({"input": {}, "task_id": "t1", "deadline_s": 10}, TaskLimits())
    await scripts.run(aredis, submit_call(task, QUEUE, TIMES))
    seconds, _ = await aredis.time()
    created, deadline = await aredis.hmget("agent:task:t1", "created", "deadline")
    assert abs(int(created) - seconds * 1000) < 3000
    assert int(deadline) - int(created) == 10_000


@pytest.mark.parametrize("field", ["lease_ms", "result_ms", "job_bytes"])
def test_times_must_be_positive(field):
    with pytest.raises(ValueError, match=f"expected {field} to be above 0, got: 0"):
        QueueTimes(**{field: 0})


async def test_what_an_earlier_attempt_used_is_told_to_the_next(queue):
    await queue.join()
    await queue.submit()
    claimed = await queue.claim_one()
    assert claimed.used == Use()
    for _ in range(2):
        assert await scripts.run(queue.redis, use_call("t1", Use(10, 5, 700)))
    await queue.release(claimed)
    assert (await queue.claim_one()).used == Use(20, 10, 1_400)


async def test_use_of_a_task_that_is_not_kept_any_more_leaves_no_key(queue):
    assert not await scripts.run(queue.redis, use_call("gone", Use(10, 5, 700)))
    assert not await queue.redis.exists("agent:task:gone")


@pytest.mark.parametrize(("state", "is_kept"), [(State.SUCCESS, False), (State.ERROR, True), (State.INTERRUPTED, True)])
async def test_input_of_a_task_that_succeeded_is_not_kept(queue, state, is_kept):
    await queue.join()
    await queue.submit(input={"query": "a long question"})
    await queue.finish(await queue.claim_one(), state=state)
    assert (b"a long question" in (await queue.redis.hget("rq:job:t1", "task") or b"")) == is_kept


async def test_sweeper_notes_once_an_hour_what_redis_uses(queue):
    await queue.join()
    hour = queue.now_ms // 3_600_000
    for _ in range(60):
        await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))
        queue.now_ms += 1_800_000
    noted = await queue.redis.hgetall("agent:memory")
    assert sorted(map(int, noted)) == list(range(hour, hour + 30))
    assert all(int(used) > 100_000 for used in noted.values())
    queue.now_ms += 40 * 3_600_000
    await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))
    assert min(map(int, await queue.redis.hgetall("agent:memory"))) == hour + 70 - 47
    assert 0 < await queue.redis.ttl("agent:memory") <= 2 * 86_400
