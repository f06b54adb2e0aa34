"""One worker of the fleet sweeps; it looks at all open tasks in bounded time and ends those that are overdue."""

import json

import pytest
from redis import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.keys import OPEN
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.worker.fleet.sweeper import Sweeper

TIMES = QueueTimes()


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


def submit(redis, number):
    tasks = [Task.parse({"input": {}, "task_id": f"t{i}"}, TaskLimits()) for i in range(number)]
    scripts.run_many_sync(redis, [submit_call(task, "agent_tasks", TIMES) for task in tasks])


def test_all_open_tasks_are_looked_at_in_twenty_rounds(redis):
    submit(redis, 4_100)
    redis.delete("agent:waiting:agent_tasks:default--")
    sweeper = Sweeper(redis, "w1", TIMES)
    batches = 0
    for _ in range(20):
        while sweeper.sweep_batch():
            batches += 1
        batches += 1
    assert batches == 60
    assert redis.llen("rq:queue:agent_tasks") == 4_100


def test_overdue_tasks_end_in_batches(redis):
    submit(redis, 250)
    redis.zadd(OPEN, {f"t{i}": 1 for i in range(250)})
    sweeper = Sweeper(redis, "w1", TIMES)
    while sweeper.sweep_batch():
        pass
    assert redis.zcard(OPEN) == 0
    documents = redis.mget([f"agent:result:t{i}" for i in range(250)])
    assert {json.loads(document)["status"] for document in documents} == {State.TIMEOUT}


def test_worker_that_does_not_sweep_asks_once_a_round(redis):
    submit(redis, 4_100)
    first, second = Sweeper(redis, "w1", TIMES), Sweeper(redis, "w2", TIMES)
    assert first.sweep_batch()
    assert not second.sweep_batch()
    assert redis.hget("agent:sweeper", "worker") == b"w1"
