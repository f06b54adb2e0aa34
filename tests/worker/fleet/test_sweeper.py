"""One worker of the fleet sweeps; it looks at all open tasks in bounded time and ends those that are overdue."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from langgraph_rq import AsyncClient, Client
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.queue.keys import OPEN
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.shared.telemetry.audit import STREAM, Audit
from langgraph_rq.worker.fleet.sweeper import Sweeper
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from tests.fleet import worker
from tests.waiting import until

TIMES = QueueTimes()


class Done(TypedDict):
    done: bool


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


def test_overdue_task_is_logged_and_counted_as_failed_under_its_graph(redis, lines):
    submit(redis, 1)
    redis.zadd(OPEN, {"t0": 1})
    metrics = WorkerMetrics(lambda: 0)
    with metrics.listen():
        Sweeper(redis, "w1", TIMES).sweep_batch()
    (failed,) = lines.named("task.failed")
    told = {"task_id": "t0", "graph": "assistant", "state": "timeout", "error": "unknown_graph"}
    assert told.items() <= failed.items()
    counted = metrics.registry.get_sample_value
    assert counted("agent_requests_total", {"graph": "assistant", "state": "timeout"}) == 1
    assert counted("agent_errors_total", {"type": "unknown_graph"}) == 1


def test_tools_of_rq_show_why_an_overdue_task_has_failed(redis):
    submit(redis, 1)
    redis.zadd(OPEN, {"t0": 1})
    Sweeper(redis, "w1", TIMES).sweep_batch()
    job = Job.fetch("t0", redis, serializer=JSONSerializer)
    assert job.get_status() == "failed"
    assert job.latest_result().exc_string.startswith("unknown_graph: no live worker served the graph 'assistant'")
    assert job.latest_result().return_value is None  # our own clients read the document


def test_end_of_an_overdue_task_is_in_the_audit_log(redis):
    submit(redis, 2)
    redis.zadd(OPEN, {"t0": 1})
    redis.hset("agent:task:t0", mapping={"input_tokens": 7, "cost_nano_usd": 30})
    scripts.run_sync(redis, cancel_call("t1", State.CANCELLED, b"{}", TIMES))
    sweeper = Sweeper(redis, "w1", TIMES, audit=Audit("a key of the tests"))
    sweeper.sweep_batch()
    sweeper._end(["t1"], State.TIMEOUT)  # its user was quicker
    ended, again, fenced = [entry for _, entry in redis.xrange(STREAM)]
    details = json.loads(ended[b"details"])
    assert (ended[b"action"], ended[b"task"], details["actor"]) == (b"ended", b"t0", "w1")
    told = {"outcome": "timeout", "error": "unknown_graph", "attempts": 0, "input_tokens": 7, "cost_nano_usd": 30}
    assert told.items() <= details.items()
    assert (again[b"action"], fenced[b"action"], fenced[b"task"]) == (b"ended", b"fenced", b"t1")


def test_end_that_two_sweepers_found_is_logged_once_and_one_takes_its_audit_entry_back(redis, lines):
    submit(redis, 1)
    first, second = (Sweeper(redis, name, TIMES, audit=Audit("a key of the tests")) for name in ("w1", "w2"))
    for sweeper in (first, second):
        sweeper._end(["t0"], State.TIMEOUT)
    assert len(lines.named("task.failed")) == 1
    recorded = [(entry[b"action"], json.loads(entry[b"details"])["actor"]) for _, entry in redis.xrange(STREAM)]
    assert recorded == [(b"ended", "w1"), (b"ended", "w2"), (b"fenced", "w2")]


def test_worker_that_does_not_sweep_asks_once_a_round(redis):
    submit(redis, 4_100)
    first, second = Sweeper(redis, "w1", TIMES), Sweeper(redis, "w2", TIMES)
    assert first.sweep_batch()
    assert not second.sweep_batch()
    assert redis.hget("agent:sweeper", "worker") == b"w1"


def test_checkpoints_of_tasks_without_thread_that_began_and_ended_while_they_waited_are_to_go(redis):
    fields = {"plain": {}, "threaded": {"thread_id": "th"}, "answer": {"resume": {"answers": {"q": 1}, "origin": "o"}}}
    for name, more in fields.items():
        task = Task.parse({"input": {}, "task_id": name, **more}, TaskLimits())
        scripts.run_sync(redis, submit_call(task, "agent_tasks", TIMES))
        redis.hset(f"agent:task:{name}", "started", 1)
    submit(redis, 1)  # it has not begun
    for name in (*fields, "t0"):
        scripts.run_sync(redis, cancel_call(name, State.CANCELLED, b"{}", TIMES))
    spent = []
    sweeper = Sweeper(redis, "w1", TIMES, on_spent=spent.extend)
    sweeper.sweep_batch()
    sweeper.sweep_batch()
    assert spent == ["plain"]


async def test_checkpoints_of_a_task_that_is_cancelled_while_it_waits_go_once_it_can_not_be_continued(redis_url, redis):
    def fail(_state):
        raise ConnectionError("for now")

    graph = StateGraph(Done).add_node("first", lambda _state: {"done": True}).add_node("second", fail)
    graph = graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()
    async with worker(redis_url, {"g": graph}, checkpoints=True):
        with Client(redis_url) as client:
            task_id = client.submit({"done": False}, graph="g", max_attempts=9).task_id
            await until(lambda: "its next attempt" in (client.status(task_id).reason or ""), 30)
            client.cancel(task_id)
            key = f"agent:thread_index:TASK--{task_id}"
            assert redis.ttl(key) > 86_400
            await until(lambda: 0 < redis.ttl(key) <= 86_400, 30)


async def test_checkpoints_of_a_task_without_thread_have_a_minute_left_once_its_success_is_seen(redis_url, redis):
    graph = StateGraph(Done).add_node("only", lambda _state: {"done": True}).add_edge(START, "only").compile()
    async with worker(redis_url, {"g": graph}, checkpoints=True), AsyncClient(redis_url) as client:
        receipt = await client.submit({"done": False}, graph="g")
        await client.wait(receipt.task_id, timeout_s=30)
    keys = [f"agent:thread_{what}:TASK--{receipt.task_id}" for what in ("state", "index")]
    assert [0 < redis.ttl(key) <= 60 for key in keys] == [True, True]


async def test_task_whose_id_an_earlier_one_had_with_checkpoints_ends_all_the_same(redis_url, redis):
    graph = StateGraph(Done).add_node("only", lambda _state: {"done": True}).add_edge(START, "only").compile()
    redis.hset("agent:thread_state:TASK--again", mapping={"t": 5, "c0::old": "left"})
    async with worker(redis_url, {"g": graph}, checkpoints=True), AsyncClient(redis_url) as client:
        await client.submit({"done": False}, graph="g", task_id="again")
        result = await client.wait("again", timeout_s=30)
    assert (result.status, result.result) == (State.SUCCESS, {"done": True})


@pytest.mark.parametrize("waits", [False, True], ids=["none_waits", "another_waits"])
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
async def test_thread_that_was_prolonged_under_its_tasks_is_kept_no_longer_after_them(redis_url, redis, fails, waits):
    goes_on = asyncio.Event()

    async def wait(_state):
        await goes_on.wait()
        assert not fails
        return {"done": True}

    graph = StateGraph(Done).add_node("only", wait).add_edge(START, "only").add_edge("only", END).compile()
    keys = [f"agent:thread_{what}:th" for what in ("state", "index")]
    async with open_async(redis_url) as saved, AsyncClient(redis_url) as client:
        saver = ThreadSaver(saved, ttl_s=60, token=token_of, is_beside_tasks=True)
        async with worker(redis_url, {"g": graph}, checkpointer=saver):
            await client.submit({"done": False}, graph="g", task_id="t", thread_id="th")
            await until(lambda: redis.exists(*keys) == len(keys), 30)
            if waits:
                at = datetime.now(UTC) + timedelta(hours=1)
                await client.submit({"done": False}, graph="g", thread_id="th", run_at=at)
            Sweeper(redis, "", TIMES).sweep_batch()
            assert redis.ttl(keys[0]) > 3_000
            goes_on.set()
            await client.wait("t", timeout_s=30)
    assert [redis.ttl(key) > 61 for key in keys] == [waits, waits]
    assert redis.exists(*keys) == len(keys)
