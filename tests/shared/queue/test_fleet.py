"""The reader of the fleet agrees with `claim` on which workers are live."""

from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.queue.attempts import claim_call
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import Task

GRAPHS = graph_list(["assistant"])
NOW = 1_800_000_000_000


async def test_worker_is_live_until_its_lease_ends_and_may_claim_exactly_as_long(aredis):
    await run(aredis, renew_call("w", 1_000, ["q"], {}, join=True, now_ms=NOW))
    for now_ms, is_live in ((NOW + 999, True), (NOW + 1_000, False)):
        fleet = await run(aredis, fleet_call(now_ms=now_ms))
        claim = await run(aredis, claim_call("w", 1, ["q"], GRAPHS, QueueTimes(), now_ms))
        assert [worker.name for worker in fleet.workers] == ["w"] * is_live
        assert claim.has_lease is is_live


async def test_tasks_of_a_dead_worker_are_pending_and_still_owned(aredis):
    await run(aredis, renew_call("w", 1_000, ["q"], {"assistant": "{}"}, join=True, now_ms=NOW))
    await run(aredis, submit_call(Task(task_id="t", input={}), "q", QueueTimes(), NOW))
    await run(aredis, claim_call("w", 1, ["q"], GRAPHS, QueueTimes(), NOW))
    live, dead = [await run(aredis, fleet_call(now_ms=NOW + ms)) for ms in (999, 1_000)]
    assert (live.pending, live.in_flight, live.owned) == (0, 1, 1)
    assert (dead.pending, dead.in_flight, dead.owned) == (1, 0, 1)


async def test_queue_says_how_long_its_first_task_has_waited(aredis):
    for task_id, user, created in (("a", "ann", NOW), ("b", "bob", NOW + 500)):
        task = Task(task_id=task_id, input={}, user_id=user, graph="g")
        await run(aredis, submit_call(task, "q", QueueTimes(), created))
    (queue,) = (await run(aredis, fleet_call(now_ms=NOW + 2_000))).queues
    assert (queue.name, queue.runnable, queue.first_age_s) == ("q", 2, 2.0)
