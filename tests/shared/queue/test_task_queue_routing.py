"""Routing: workers that serve different graphs share a queue, and none gets a task that it cannot run."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished, Missing
from langgraph_rq.shared.queue.attempts import adopt_call
from langgraph_rq.shared.queue.keys import bell_key, graph_part, side_queue
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, missing_worker_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis

SIDE = side_queue(QUEUE, "report")


@pytest.fixture
async def queue(aredis):
    """Worker `both` serves two graphs, `one` serves triage only."""
    queue = QueueOnRedis(aredis)
    await queue.join("both", {"triage": "{}", "report": "{}"})
    await queue.join("one", {"triage": "{}"})
    return queue


async def alone(queue, worker):
    """Let all others die."""
    queue.now_ms += 8001
    await queue.renew(worker, join=True)


async def claim_ids(queue, worker, n=10, queues=(QUEUE, SIDE)):
    return [claimed.id for claimed in (await queue.claim(worker, n, queues)).tasks]


async def test_task_that_every_worker_can_run_goes_to_its_queue(queue):
    await queue.submit(graph="triage")
    assert await queue.field("queue") == QUEUE.encode()
    assert await claim_ids(queue, "one", queues=(QUEUE,)) == ["t1"]


async def test_task_that_not_all_workers_can_run_goes_to_a_queue_of_its_graph(queue):
    await queue.submit(graph="report")
    assert await queue.redis.lrange(f"rq:queue:{SIDE}", 0, -1) == [b"t1"]
    assert await queue.redis.hget("rq:job:t1", "origin") == SIDE.encode(), "RQ's cancel looks there"
    assert await queue.redis.sismember("rq:queues", f"rq:queue:{SIDE}")
    (claimed,) = (await queue.claim("both", queues=(QUEUE, SIDE))).tasks
    assert (claimed.id, claimed.queue, claimed.attempts) == ("t1", SIDE, 1)
    assert await queue.finish(claimed, "both") is Finished.WRITTEN
    assert await queue.redis.keys("rq:wip:*") == []


async def test_graph_that_every_live_worker_serves_by_now_goes_to_the_queue_again(queue):
    await alone(queue, "both")
    await queue.submit(graph="report")
    assert await queue.field("queue") == QUEUE.encode()


async def test_worker_puts_a_task_aside_that_it_cannot_run_and_charges_nothing(queue):
    await alone(queue, "both")
    await queue.submit(graph="report")
    await alone(queue, "one")
    claim = await queue.claim("one")
    assert (claim.tasks, claim.put_aside) == ((), 1)
    assert (await queue.field("queue"), await queue.field("epoch")) == (SIDE.encode(), b"0")
    await queue.join("both", {"triage": "{}", "report": "{}"})
    (claimed,) = (await queue.claim("both", queues=(QUEUE, SIDE))).tasks
    assert (claimed.id, claimed.attempts) == ("t1", 1)


async def test_task_that_is_put_aside_leaves_its_turn_to_the_users_next(queue):
    await alone(queue, "both")
    for i in range(3):
        await queue.submit(f"r{i}", graph="report", user_id="ann")
    await queue.submit("t", graph="triage", user_id="ann")
    await alone(queue, "one")
    assert await claim_ids(queue, "one", 1) == ["t"]
    await queue.join("both", {"triage": "{}", "report": "{}"})
    assert await claim_ids(queue, "both") == ["r0", "r1", "r2"]


async def test_claim_puts_at_most_64_tasks_aside(queue):
    await alone(queue, "both")
    for i in range(100):
        await queue.submit(f"r{i}", graph="report", user_id=f"user{i}")
    await queue.submit("t", graph="triage", user_id="zoe")
    await alone(queue, "one")
    first, second = await queue.claim("one"), await queue.claim("one")
    assert (first.put_aside, first.tasks) == (64, ())
    assert (second.put_aside, [task.id for task in second.tasks]) == (36, ["t"])


async def test_users_take_turns_on_a_side_queue_and_the_cap_holds_there(queue):
    queue.times = QueueTimes(user_tasks=1)
    for task_id, user in (("a0", "ann"), ("a1", "ann"), ("b0", "bob")):
        await queue.submit(task_id, graph="report", user_id=user)
    claims = (await queue.claim("both", queues=(QUEUE, SIDE))).tasks
    assert [claimed.id for claimed in claims] == ["a0", "b0"]
    await queue.finish(claims[0], "both")
    assert await claim_ids(queue, "both") == ["a1"]


async def test_claim_that_leaves_tasks_on_a_side_queue_rings_no_bell_that_nobody_waits_for(queue):
    for i in range(3):
        await queue.submit(f"t{i}", graph="report", user_id=f"user{i}")
    assert len((await queue.claim("both", 1, (SIDE,))).tasks) == 1
    assert await queue.redis.llen(f"rq:queue:{SIDE}") > 0
    assert not await queue.redis.exists(bell_key(SIDE))


async def test_released_task_comes_back_to_its_side_queue(queue):
    await queue.submit(graph="report")
    (claimed,) = (await queue.claim("both", queues=(SIDE,))).tasks
    await queue.release(claimed, "both")
    assert await queue.redis.lrange(f"rq:queue:{SIDE}", 0, -1) == [b"t1"]


async def test_crashed_task_of_a_graph_that_is_gone_waits_for_the_next_worker_that_has_it(queue):
    await alone(queue, "both")
    await queue.submit(graph="report")
    assert await claim_ids(queue, "both") == ["t1"]
    await alone(queue, "one")
    await queue.reap("one")
    assert await claim_ids(queue, "one") == []
    await queue.join("both2", {"report": "{}"})
    (claimed,) = (await queue.claim("both2", queues=(QUEUE, SIDE))).tasks
    assert (claimed.id, claimed.attempts, claimed.crashes) == ("t1", 2, 1)


async def test_cancelled_task_is_ended_by_any_worker(queue):
    await alone(queue, "both")
    await queue.submit(graph="report")
    (claimed,) = (await queue.claim("both")).tasks
    await scripts.run(queue.redis, cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    await queue.release(claimed, "both")
    await alone(queue, "one")
    (again,) = (await queue.claim("one")).tasks
    assert again.is_cancelled


async def test_job_of_stock_rq_is_put_aside_once_it_is_read(queue):
    await queue.redis.hset("rq:job:j1", mapping={"data": b"[]"})
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "j1")
    claimed = await queue.claim_one("one")
    task = Task.parse({"input": {}, "task_id": "j1", "graph": "report", "user_id": "ann"}, TaskLimits())
    for expected in (-1, 0):
        call = adopt_call(claimed, "one", task, TIMES, is_served=False, now_ms=queue.now_ms)
        assert await scripts.run(queue.redis, call) == expected
    assert await queue.redis.exists("agent:own:one", "agent:in_flight") == 0
    (again,) = (await queue.claim("both", queues=(QUEUE, SIDE))).tasks
    assert (again.id, again.epoch, again.attempts) == ("j1", 2, 1)
    assert await queue.redis.hgetall("agent:in_flight") == {b"default--ann": b"1"}


async def test_task_of_an_older_producer_whose_hash_names_no_graph_is_put_aside_too(queue):
    await alone(queue, "both")
    await queue.submit(graph="report", user_id="ann")
    await queue.redis.hdel("agent:task:t1", "graph")
    await queue.join("one", {"triage": "{}"})
    claimed = await queue.claim_one("one")
    task = Task.parse({"input": {}, "task_id": "t1", "graph": "report", "user_id": "ann"}, TaskLimits())
    assert await scripts.run(queue.redis, adopt_call(claimed, "one", task, TIMES, is_served=False)) == -1
    assert await queue.redis.exists("agent:in_flight") == 0
    (again,) = (await queue.claim("both", queues=(QUEUE, SIDE))).tasks
    assert (again.id, again.attempts) == ("t1", 1)


async def test_renewal_names_the_workers_side_queues_that_hold_tasks(queue):
    assert (await queue.renew("both")).side_queues == ()
    await queue.submit(graph="report")
    assert (await queue.renew("both")).side_queues == (SIDE,)
    assert (await queue.renew("one")).side_queues == ()


async def test_task_added_to_a_side_queue_is_announced(queue):
    async with queue.redis.pubsub() as channel:
        await channel.subscribe("agent:side_queues")
        await channel.get_message(timeout=5)
        await queue.submit("t", graph="triage")
        await queue.submit("r", graph="report")
        assert (await channel.get_message(ignore_subscribe_messages=True, timeout=5))["data"] == SIDE.encode()


async def test_submit_and_status_tell_why_no_live_worker_could_run_a_task(queue):
    async def reasons(task_id, queue_name=QUEUE, graph="report"):
        submission = await queue.submit(task_id, queue_name, graph=graph)
        return submission.missing, await scripts.run(queue.redis, missing_worker_call(task_id, queue.now_ms))

    assert await reasons("t1") == (None, None)
    assert await reasons("t2", "other") == (Missing.QUEUE, "no live worker reads the queue other")
    await alone(queue, "one")
    await queue.reap("one")
    explained = "no live worker of the queue agent_tasks serves the graph 'report'"
    assert await reasons("t3") == (Missing.GRAPH, explained)
    assert await reasons("t4", graph="triage") == (None, None)
    queue.now_ms += 8001
    assert await reasons("t5") == (Missing.WORKER, "no worker is alive")
    await scripts.run(queue.redis, cancel_call("t5", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    assert await scripts.run(queue.redis, missing_worker_call("t5", queue.now_ms)) is None


async def test_side_queue_that_rq_emptied_is_swept(queue):
    for i in range(2):
        await queue.submit(f"r{i}", graph="report", user_id="ann")
    await queue.redis.delete(f"rq:queue:{SIDE}")
    await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))
    assert set(await claim_ids(queue, "both")) == {"r0", "r1"}


async def test_ended_tasks_do_not_stay_in_a_queue_that_no_worker_reads(queue):
    for i in range(6):
        await queue.submit(f"r{i}", graph="report", user_id=f"user{i % 2}")
    for i in reversed(range(6)):
        await scripts.run(queue.redis, cancel_call(f"r{i}", State.CANCELLED, b"{}", TIMES, queue.now_ms))
    await queue.redis.srem("rq:queues", f"rq:queue:{QUEUE}")  # the script takes any one
    await scripts.run(queue.redis, sweep_call(now_ms=queue.now_ms))
    left = f"rq:queue:{SIDE}", *(f"agent:waiting:{SIDE}:default--user{i}" for i in range(2))
    assert await queue.redis.exists(*left) == 0


@pytest.mark.parametrize("graph", ["my graph", "a:b", "a,b", "%s", "a--b", "----", "sü/ß*"])
async def test_graph_may_have_any_name(queue, graph):
    await queue.join("both", {graph: "{}"})
    await queue.submit(graph=graph)
    side = side_queue(QUEUE, graph)
    assert side != QUEUE
    assert not set(":,\n *") & set(graph_part(graph))
    assert "--" not in graph_part(graph), "a user's key begins behind it, with a tenant and two dashes"
    assert (await queue.renew("both")).side_queues == (side,)
    assert await claim_ids(queue, "both", queues=(QUEUE, side)) == ["t1"]


def test_graphs_of_different_names_have_different_queues():
    names = ["a--b", "a-%2Db", "a-%252Db", "a b", "a%20b", "a---b", "a-%2D-b"]
    assert len({graph_part(name) for name in names}) == len(names)
