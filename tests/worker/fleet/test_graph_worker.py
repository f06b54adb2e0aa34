"""What a worker does with tasks, whatever they or Redis do to it."""

import asyncio
import json
import pickle
import threading
import time
import zlib

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.tasks import State
from tests.fleet import PLUS_ONE, Number, ended, one_node_graph, worker
from tests.waiting import until


async def test_task_is_run_and_its_result_has_the_documented_fields(redis_url, client):
    async with worker(redis_url, {"plus one": PLUS_ONE}) as graph_worker:
        task = client.submit({"n": 1}, graph="plus one", user_id="ann")
        result = await ended(client, task.task_id)
    assert (result.status, result.result, result.error) == (State.SUCCESS, {"n": 2}, None)
    assert result.submitted_at <= result.started_at <= result.ended_at
    assert result.metadata.model_dump(exclude={"queued_ms", "run_ms"}) == {
        "graph": "plus one",
        "model": None,
        "complexity": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": 0.0,
        "usage_estimated": False,
        "attempts": 1,
        "fallback_used": False,
        "downgraded": False,
        "dropped_question_of": None,
        "question_dropped_by": None,
        "not_written": None,
        "next": None,
        "continues": None,
        "cancel_reason": None,
        "worker": graph_worker.name,
    }


async def test_result_can_be_read_by_any_language_and_is_forgotten(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}):
        task_id = client.submit({"n": 1}, graph="g").task_id
        await ended(client, task_id)
    document = json.loads(redis_client.get(f"agent:result:{task_id}"))
    assert document["schema"] == 1
    assert document["result"] == {"n": 2}
    assert 3500 < redis_client.ttl(f"agent:result:{task_id}") <= 3600


async def test_tasks_run_at_once_up_to_the_concurrency(redis_url, client):
    running, most, release = 0, 0, asyncio.Event()

    async def wait(_state):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    async with worker(redis_url, {"g": one_node_graph(wait, Number)}, concurrency=5):
        ids = [
            receipt.task_id for receipt in client.submit_many([{"input": {"n": i}, "graph": "g"} for i in range(12)])
        ]
        await until(lambda: running == 5)
        release.set()
        for task_id in ids:
            await ended(client, task_id)
    assert most == 5


async def test_blocking_node_does_not_stall_the_others(redis_url, client):
    blocked, release = threading.Event(), threading.Event()

    def block(_state):
        blocked.set()
        release.wait()

    async with worker(redis_url, {"block": one_node_graph(block, Number), "g": PLUS_ONE}):
        slow = client.submit({"n": 1}, graph="block").task_id
        await asyncio.to_thread(blocked.wait)
        quick = client.submit({"n": 1}, graph="g").task_id
        assert (await ended(client, quick)).status is State.SUCCESS
        release.set()
        assert (await ended(client, slow)).status is State.SUCCESS


async def test_failing_graph_ends_its_task_with_the_reason(redis_url, client):
    async def fail(_state):
        raise ValueError("no such ticket")

    async with worker(redis_url, {"g": one_node_graph(fail, Number)}):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)
    assert result.error.message == "ValueError: no such ticket"


async def test_node_that_raises_a_cancellation_fails_its_task_only(redis_url, client):
    async def leave(_state):
        raise asyncio.CancelledError

    async with worker(redis_url, {"leave": one_node_graph(leave, Number), "g": PLUS_ONE}):
        assert (await ended(client, client.submit({"n": 1}, graph="leave").task_id)).status is State.ERROR
        assert (await ended(client, client.submit({"n": 1}, graph="g").task_id)).status is State.SUCCESS


async def test_deadline_ends_a_running_task_as_timeout(redis_url, client):
    async def hang(_state):
        await asyncio.Event().wait()

    async with worker(redis_url, {"g": one_node_graph(hang, Number)}):
        result = await ended(client, client.submit({"n": 1}, graph="g", deadline_s=0.3).task_id)
    assert (result.status, result.error.type) == (State.TIMEOUT, ErrorType.TIMEOUT)
    assert result.error.message == "the deadline of 0.3 s passed"


async def test_task_whose_deadline_passed_in_the_queue_is_not_run(redis_url, client):
    ran = []

    async def run(state):
        ran.append(state)

    task_id = client.submit({"n": 1}, graph="g", deadline_s=0.01).task_id
    await until(lambda: time.time() > client.status(task_id).deadline_at.timestamp())
    async with worker(redis_url, {"g": one_node_graph(run, Number)}):
        assert (await ended(client, task_id)).status is State.TIMEOUT
    assert ran == []


async def test_timeout_raised_by_a_node_is_the_graphs_error(redis_url, client):
    async def impatient(_state):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    async with worker(redis_url, {"g": one_node_graph(impatient, Number)}):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)


async def test_interrupt_ends_the_task_with_its_payload(redis_url, client):
    async def ask(_state):
        return {"n": interrupt({"question": "how many?"})}

    async with worker(redis_url, {"g": one_node_graph(ask, Number)}, checkpoints=True):
        result = await ended(client, client.submit({"n": 1}, graph="g", thread_id="th").task_id)
    assert result.status is State.INTERRUPTED
    (pending,) = result.result["__interrupt__"]
    assert pending["value"] == {"question": "how many?"}


async def test_thread_remembers_and_a_task_without_one_leaves_nothing_for_long(redis_url, client, redis_client):
    async def count(state):
        return {"n": state.get("n", 0) + 1}

    graph = StateGraph(Number).add_node("count", count).add_edge(START, "count").add_edge("count", END).compile()
    async with worker(redis_url, {"g": graph}, checkpoints=True):
        for expected in (1, 2):
            result = await ended(client, client.submit({}, graph="g", thread_id="th").task_id)
            assert result.result == {"n": expected}
        alone = client.submit({}, graph="g").task_id
        assert (await ended(client, alone)).result == {"n": 1}
        keys = redis_client.keys(f"agent:thread_*{alone}*")
        await until(lambda: keys and all(0 < redis_client.ttl(key) <= 60 for key in keys))
    assert max(redis_client.ttl(key) for key in redis_client.keys("agent:thread_*:th")) > 3600


async def test_graph_that_this_worker_lacks_goes_to_the_one_that_has_it(redis_url, client, redis_client):
    async with worker(redis_url, {"other": PLUS_ONE}):
        task_id = client.submit({"n": 1}, graph="other", task_id="t").task_id
        await ended(client, task_id)
        async with worker(redis_url, {"g": PLUS_ONE}, times=QueueTimes(lease_ms=1000)) as second:
            await until(lambda: redis_client.zscore("agent:graphs", "g"))
            result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert (result.status, result.metadata.worker) == (State.SUCCESS, second.name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps(("worker.run_task", None, ({},), {})), "expected JSON, got a pickle"),
        (zlib.compress(pickle.dumps(("worker.run_task", None, ({},), {}))), "expected JSON, got a pickle"),
        (zlib.compress(b"[" + b" " * 50_000_000 + b"]"), "at most 8,064,000 bytes inflated"),
        (b"x\x9cgarbage", "cannot be decompressed"),
        (b"{", "expected JSON"),
        (b"[1, 2]", "expected [function, instance, args, kwargs]"),
        (b"", "expected JSON"),
        (
            b'["worker.run_task", null, ["' + b"x" * 4_100_000 + b'"], {}]',
            "at most 4,064,000 bytes",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_garbage_is_rejected_and_the_worker_goes_on(redis_url, client, redis_client, data, words):
    async with worker(redis_url, {"g": PLUS_ONE}):
        redis_client.hset("rq:job:bad", "data", data)
        redis_client.rpush("rq:queue:agent_tasks", "bad")
        result = await until(lambda: client.result("bad"))
        assert (await ended(client, client.submit({"n": 1}, graph="g").task_id)).status is State.SUCCESS
    assert result.error.type is ErrorType.REJECTED
    assert words in result.error.message


async def test_idle_worker_blocks_and_does_not_poll(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}, times=QueueTimes(lease_ms=60_000)):
        await ended(client, client.submit({"n": 1}, graph="g").task_id)
        await until(lambda: redis_client.info("clients")["blocked_clients"] == 5)
        commands = []
        for _ in range(3):  # one of them may have the renewal that follows the subscription
            before = redis_client.info("stats")["total_commands_processed"]
            await asyncio.sleep(1.0)  # the observation itself, not a wait for something
            commands.append(redis_client.info("stats")["total_commands_processed"] - before)
        assert min(commands) <= 2 + 14  # the two INFO; if it falls into this second, each blocking command again
        started = time.monotonic()
        await ended(client, client.submit({"n": 1}, graph="g").task_id)
        assert time.monotonic() - started < 1.0


async def test_worker_drains_what_runs_when_asked_to_stop(redis_url, client):
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(state):
        entered.set()
        await release.wait()
        return {"n": state["n"] + 1}

    async with worker(redis_url, {"g": one_node_graph(slow, Number)}) as graph_worker:
        first = client.submit({"n": 1}, graph="g").task_id
        await entered.wait()
        graph_worker.stop()
        second = client.submit({"n": 1}, graph="g").task_id
        release.set()
        assert (await ended(client, first)).result == {"n": 2}
    assert client.status(second).state is State.PENDING


async def test_worker_hands_back_what_does_not_end_within_the_drain_time(redis_url, client, redis_client):
    entered = asyncio.Event()

    async def hang(_state):
        entered.set()
        await asyncio.Event().wait()

    async with worker(redis_url, {"g": one_node_graph(hang, Number)}, drain_s=0.1):
        task_id = client.submit({"n": 1}, graph="g").task_id
        await entered.wait()
    assert client.status(task_id).state is State.PENDING
    assert redis_client.hget(f"agent:task:{task_id}", "crashes") is None
    assert redis_client.zcard("agent:workers") == 0
    async with worker(redis_url, {"g": PLUS_ONE}):
        assert (await ended(client, task_id)).result == {"n": 2}


async def test_worker_that_was_reaped_cancels_what_it_runs_and_rejoins_under_a_new_name(
    redis_url, client, redis_client
):
    started = []

    async def once(state):
        started.append(state)
        if len(started) == 1:
            await asyncio.Event().wait()
        return {"n": state["n"] + 1}

    async with worker(redis_url, {"g": one_node_graph(once, Number)}, times=QueueTimes(lease_ms=1000)) as graph_worker:
        name = graph_worker.name
        task_id = client.submit({"n": 1}, graph="g").task_id
        await until(lambda: started)
        # What another worker's reap does to one that was silent for too long.
        pipeline = redis_client.pipeline()
        pipeline.zrem("agent:workers", name).delete(f"agent:own:{name}")
        pipeline.hset(f"agent:task:{task_id}", "state", "pending").lpush("rq:queue:agent_tasks", task_id)
        pipeline.execute()
        result = await ended(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2)
    assert result.metadata.worker != name


async def test_task_whose_claim_was_never_heard_of_is_given_back(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}, times=QueueTimes(lease_ms=1000)) as graph_worker:
        await until(lambda: redis_client.info("clients")["blocked_clients"] == 5)
        redis_client.hset(
            "agent:task:lost",
            mapping={
                "state": "running",
                "epoch": 1,
                "owner": graph_worker.name,
                "queue": "agent_tasks",
                "created": 1,
                "deadline": 4_000_000_000_000,
            },
        )
        job = json.dumps(["worker.run_task", None, [{"task_id": "lost", "graph": "g", "input": {"n": 1}}], {}])
        redis_client.hset("rq:job:lost", "data", job)
        redis_client.sadd(f"agent:own:{graph_worker.name}", "lost")
        result = await until(lambda: client.result("lost"))
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2)


async def test_task_whose_claim_is_answered_late_is_not_given_back(redis_url, client, redis_client):
    times = QueueTimes(lease_ms=1000)
    runs = []

    async def once(state):
        runs.append(state)
        await asyncio.sleep(1.5)
        return {"n": state["n"] + 1}

    async with worker(redis_url, {"g": one_node_graph(once, Number)}, times=times) as graph_worker:
        await until(lambda: redis_client.info("clients")["blocked_clients"] == 5)
        run, proceed = scripts.run, asyncio.Event()

        async def answer_late(redis, call):
            answer = await run(redis, call)
            if call.script.name == "shared/queue/scripts/claim" and answer.tasks:
                await proceed.wait()
            return answer

        scripts.run = answer_late
        try:
            task_id = client.submit({"n": 1}, graph="g").task_id
            await until(lambda: graph_worker._unknown == {task_id})
            await asyncio.sleep(0.6)  # two more renewals
        finally:
            scripts.run = run
        proceed.set()
        result = await ended(client, task_id)
    assert (result.status, result.metadata.attempts, len(runs)) == (State.SUCCESS, 1, 1)


async def test_task_claimed_just_as_the_worker_is_told_to_end_at_once_is_handed_back(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}, drain_s=0) as graph_worker:
        await until(lambda: redis_client.info("clients")["blocked_clients"] == 5)
        start = graph_worker._running.start

        def start_and_stop(claimed, name):
            start(claimed, name)
            graph_worker.stop()

        graph_worker._running.start = start_and_stop
        task_id = client.submit({"n": 1}, graph="g").task_id
        await until(lambda: redis_client.zcard("agent:workers") == 0)
    assert client.status(task_id).state in {State.PENDING, State.SUCCESS}
    assert redis_client.keys("agent:own:*") == []


async def test_worker_that_rejoined_hears_commands_under_its_new_name(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}, times=QueueTimes(lease_ms=1000)) as graph_worker:
        name = graph_worker.name
        await until(lambda: redis_client.zscore("agent:workers", name))
        redis_client.zrem("agent:workers", name)
        await until(lambda: graph_worker.name != name and redis_client.zcard("agent:workers") == 1)
        await until(lambda: redis_client.publish(graph_worker.pubsub_channel_name, b'{"command": "shutdown"}') == 1)
        await until(lambda: redis_client.zcard("agent:workers") == 0)


async def test_garbage_in_redis_does_not_end_the_lease(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}, times=QueueTimes(lease_ms=1000)) as graph_worker:
        last = await until(lambda: redis_client.zscore("agent:workers", graph_worker.name))
        redis_client.zadd("agent:open", {b"\xff": 1})
        redis_client.hset(b"agent:task:\xff", mapping={"state": "pending", "place": "odd", "queue": "q", "user": "u"})
        # By then it has seen the garbage, which it does not look at before its lease has held for a second.
        await until(lambda: redis_client.zscore("agent:workers", graph_worker.name) > last + 3_000)
        assert (await ended(client, client.submit({"n": 1}, graph="g").task_id)).status is State.SUCCESS


async def test_burst_ends_when_the_queues_are_empty(redis_url, client):
    ids = [r.task_id for r in client.submit_many([{"input": {"n": i}, "graph": "g"} for i in range(50)])]
    async with worker(redis_url, {"g": PLUS_ONE}, burst=True, concurrency=7):
        await until(lambda: all(client.result(task_id) for task_id in ids))
