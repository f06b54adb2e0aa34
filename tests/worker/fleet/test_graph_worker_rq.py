"""What a worker does with jobs and commands of stock RQ, and what RQ's tools see of it."""

import asyncio

import pytest
from redis import Redis
from rq import Callback, Queue, Retry
from rq.command import send_shutdown_command
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import BaseWorker

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from tests.fleet import PLUS_ONE, Number, ended, one_node_graph, worker
from tests.waiting import until


async def test_job_enqueued_by_stock_rq_is_run(redis_url, client):
    with Redis.from_url(redis_url) as connection:
        queue = Queue("agent_tasks", connection=connection, serializer=JSONSerializer)
        async with worker(redis_url, {"g": PLUS_ONE}):
            queue.enqueue("worker.run_task", {"task_id": "r1", "graph": "g", "input": {"n": 1}}, job_id="r1")
            result = await ended(client, "r1")
            assert (result.status, result.result) == (State.SUCCESS, {"n": 2})
            job = Job.fetch("r1", connection=connection, serializer=JSONSerializer)
    assert job.get_status() == "finished"
    assert "input" not in job.description


@pytest.mark.parametrize(
    ("enqueue", "words"),
    [
        (
            lambda q: q.enqueue("os.system", "touch /tmp/pwned", job_id="r1"),
            "the function langgraph_rq.run_task",
        ),
        (lambda q: q.enqueue("builtins.exec", "1", job_id="r1"), "the function langgraph_rq.run_task"),
        (lambda q: q.enqueue("worker.run_task", {"input": {}, "x": 1}, job_id="r1"), "x: unknown field"),
        (lambda q: q.enqueue("worker.run_task", {"input": {}, "task_id": "r2"}, job_id="r1"), "expected the job id"),
        (lambda q: q.enqueue("worker.run_task", {"input": {}}, 2, job_id="r1"), "expected one argument"),
        (lambda q: q.enqueue("worker.run_task", job_id="r1", kwargs={"input": {}}), "expected one argument"),
        (lambda q: q.enqueue("worker.run_task", {"input": {}}, job_id="r1", retry=Retry(max=3)), "retries_left"),
        (
            lambda q: q.enqueue("worker.run_task", {"input": {}}, job_id="r1", on_success=Callback("os.getcwd")),
            "success_callback_name",
        ),
        (lambda q: q.enqueue("worker.run_task", {"input": {}, "priority": "high"}, job_id="r1"), "its own queue"),
        (lambda q: q.enqueue("worker.run_task", {"input": {}, "graph": "nope"}, job_id="r1"), "no live worker has"),
    ],
)
async def test_foreign_job_is_rejected_with_the_reason(redis_url, client, enqueue, words):
    with Redis.from_url(redis_url) as connection:
        queue = Queue("agent_tasks", connection=connection, serializer=JSONSerializer)
        async with worker(redis_url, {"g": PLUS_ONE}):
            enqueue(queue)
            result = await until(lambda: client.result("r1"))
        job = Job.fetch("r1", connection=connection, serializer=JSONSerializer)
        assert job.get_status() == "failed"
        assert words in job.latest_result().exc_string
    assert result.error.type in {ErrorType.REJECTED, ErrorType.UNKNOWN_GRAPH}
    assert words in result.error.message


async def test_suspended_worker_does_not_spin_while_tasks_wait(redis_url, client, redis_client):
    with Redis.from_url(redis_url) as connection:
        async with worker(redis_url, {"g": PLUS_ONE}) as graph_worker:
            suspend(connection)
            task_id = client.submit({"n": 1}, graph="g").task_id
            await until(lambda: connection.hget(graph_worker.key, "state") == b"suspended")
            before = redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]
            await asyncio.sleep(1)
            assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 50
            resume(connection)
            assert (await ended(client, task_id)).status is State.SUCCESS


async def test_idle_worker_is_shown_as_suspended_until_it_is_resumed(redis_url):
    with Redis.from_url(redis_url) as connection:
        async with worker(redis_url, {"g": PLUS_ONE}) as graph_worker:
            suspend(connection)
            await until(lambda: connection.hget(graph_worker.key, "state") == b"suspended")
            resume(connection)
            await until(lambda: connection.hget(graph_worker.key, "state") == b"idle")


async def test_rqs_own_suspend_and_resume_hold_the_worker(redis_url, client):
    with Redis.from_url(redis_url) as connection:
        async with worker(redis_url, {"g": PLUS_ONE}) as graph_worker:
            suspend(connection)
            task_id = client.submit({"n": 1}, graph="g").task_id
            await until(lambda: connection.hget(graph_worker.key, "state") == b"suspended")
            assert client.status(task_id).state is State.PENDING
            resume(connection)
            assert (await ended(client, task_id)).status is State.SUCCESS
            await until(lambda: connection.hget(graph_worker.key, "state") == b"idle")


async def test_rqs_shutdown_command_ends_the_worker_and_garbage_does_not(redis_url, client, redis_client):
    async with worker(redis_url, {"g": PLUS_ONE}) as graph_worker:
        channel = graph_worker.pubsub_channel_name
        await until(lambda: redis_client.publish(channel, b"garbage") == 1)
        redis_client.publish(channel, '{"command": ["x"]}')
        assert (await ended(client, client.submit({"n": 1}, graph="g").task_id)).status is State.SUCCESS
        send_shutdown_command(redis_client, graph_worker.name)
        await until(lambda: redis_client.zcard("agent:workers") == 0)


async def test_rq_sees_the_worker_its_jobs_and_its_counts(redis_url, client):
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_state):
        entered.set()
        await release.wait()

    async def fail(_state):
        raise ValueError("no")

    graphs = {"g": one_node_graph(slow, Number), "fail": one_node_graph(fail, Number)}
    with Redis.from_url(redis_url) as connection:
        async with worker(redis_url, graphs, concurrency=1) as graph_worker:
            running = client.submit({"n": 1}, graph="g").task_id
            await entered.wait()
            waiting = client.submit({"n": 1}, graph="fail").task_id
            (seen,) = BaseWorker.all(connection=connection, serializer=JSONSerializer)
            queue = Queue("agent_tasks", connection=connection, serializer=JSONSerializer)
            assert (seen.name, seen.get_state()) == (graph_worker.name, "busy")
            assert queue.get_job_ids() == [waiting]
            assert queue.started_job_registry.get_job_ids() == [running]
            release.set()
            await ended(client, waiting)
            assert queue.finished_job_registry.get_job_ids() == [running]
            assert queue.failed_job_registry.get_job_ids() == [waiting]
            assert queue.started_job_registry.get_job_ids() == []
            (seen,) = BaseWorker.all(connection=connection, serializer=JSONSerializer)
            assert (seen.get_state(), seen.successful_job_count, seen.failed_job_count) == ("idle", 1, 1)
        assert BaseWorker.all(connection=connection) == []
