"""Workers that serve different graphs: each gets what it can run, at once, and nothing else waits for it."""

import time
from contextlib import AsyncExitStack

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.schema import SCHEMA
from langgraph_rq.shared.tasks import State
from tests.fleet import ended, one_node_graph, worker
from tests.waiting import until

BRIEF = QueueTimes(lease_ms=2_000)


async def nothing(_state: dict) -> None:
    """Do nothing."""


GRAPH = one_node_graph(nothing)


async def test_task_of_either_graph_ends_at_its_worker_at_the_first_attempt(redis_url, client):
    async with AsyncExitStack() as stack:
        workers = {name: await stack.enter_async_context(worker(redis_url, {name: GRAPH})) for name in ("a", "b")}
        await until(lambda: all(one.is_held for one in workers.values()))
        tasks = [(name, client.submit({}, graph=name).task_id) for name in "ab" * 10]
        for name, task_id in tasks:
            result = await ended(client, task_id)
            assert (result.metadata.worker, result.metadata.attempts) == (workers[name].name, 1)


async def test_idle_worker_is_woken_by_its_side_queue(redis_url, client, redis_client):
    slow = QueueTimes(lease_ms=60_000)  # the next renewal, which names side queues too, is far away
    async with worker(redis_url, {"a": GRAPH}, times=slow), worker(redis_url, {"b": GRAPH}, times=slow):
        await until(lambda: redis_client.pubsub_numsub("agent:side_queues")[0][1] == 2)
        for name in "abab":
            began = time.monotonic()
            await ended(client, client.submit({}, graph=name).task_id)
            assert time.monotonic() - began < 10


async def test_task_of_a_newer_schema_waits_for_a_newer_worker_and_makes_no_attempt(redis_url, client, redis_client):
    task_id = client.submit({}, graph="a").task_id
    data = redis_client.hget(f"rq:job:{task_id}", "task")
    redis_client.hset(f"rq:job:{task_id}", "task", data.replace('"schema":1', f'"schema":{SCHEMA + 1}'))
    async with worker(redis_url, {"a": GRAPH}):
        await until(lambda: (client.status(task_id).reason or "").startswith("waits for a worker that can run it"))
        redis_client.hset(f"rq:job:{task_id}", "task", data)  # as if the newer worker had come
        result = await ended(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)


async def test_tasks_wait_for_the_next_worker_of_their_graph_while_others_run(redis_url, client, redis_client):
    async with worker(redis_url, {"a": GRAPH}, times=BRIEF):
        async with worker(redis_url, {"b": GRAPH}, times=BRIEF) as leaving:
            await until(lambda: leaving.is_held)
        waiting = [client.submit({}, graph="b", user_id=f"user{i}").task_id for i in range(5)]
        for _ in range(3):
            assert (await ended(client, client.submit({}, graph="a").task_id)).status is State.SUCCESS
        assert {client.status(task_id).state for task_id in waiting} == {State.PENDING}
        async with worker(redis_url, {"b": GRAPH}, times=BRIEF):
            for task_id in waiting:
                result = await ended(client, task_id)
                assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert redis_client.hlen("agent:in_flight") == 0


async def test_job_of_stock_rq_finds_the_worker_that_serves_its_graph(redis_url, client):
    async with worker(redis_url, {"a": GRAPH}) as one, worker(redis_url, {"b": GRAPH}) as two:
        await until(lambda: one.is_held and two.is_held)
        with Redis.from_url(redis_url) as connection:
            queue = Queue("agent_tasks", connection=connection, serializer=JSONSerializer)
            for i in range(10):
                task = {"task_id": f"r{i}", "graph": "ab"[i % 2], "input": {}}
                queue.enqueue("worker.run_task", task, job_id=f"r{i}")
        for i in range(10):
            await until(lambda i=i: client.result(f"r{i}"))
            result = client.result(f"r{i}")
            assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
            assert result.metadata.worker == (one, two)[i % 2].name


async def test_task_whose_graph_no_worker_has_ends_at_its_deadline_and_says_so(redis_url, client):
    async with worker(redis_url, {"a": GRAPH}, times=BRIEF):
        async with worker(redis_url, {"b": GRAPH}, times=BRIEF) as leaving:
            await until(lambda: leaving.is_held)
        task_id = client.submit({}, graph="b", deadline_s=2).task_id
        late = client.submit({}, graph="a", deadline_s=4).task_id
        result = await ended(client, task_id)
        assert (await ended(client, late)).status is State.SUCCESS
    assert (result.status, result.error.type) == (State.TIMEOUT, ErrorType.UNKNOWN_GRAPH)
    assert result.error.message == "no live worker served the graph 'b' when the deadline of 2 s passed"
    assert result.metadata.attempts == 0
