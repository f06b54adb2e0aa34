"""Jobs that stock RQ enqueued, as its client sees them: results, timeouts, TTLs, descriptions."""

from datetime import timedelta

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from langgraph_rq import Client, State
from tests.waiting import until_sync


@pytest.fixture
def client(installation):
    with Client(installation.redis_url) as client:
        yield client


@pytest.fixture
def rq(installation):
    with Redis.from_url(installation.redis_url, socket_timeout=60) as redis:
        yield Queue("agent_tasks", connection=redis, serializer=JSONSerializer)


def enqueue(rq, graph="nap", seconds=0, *, deadline_s=None, **options):
    task = {"graph": graph, "input": {"code": 4} if graph == "exit" else {"seconds": seconds}}
    task |= {"deadline_s": deadline_s} if deadline_s else {}
    return rq.enqueue("langgraph_rq.run_task", task, **options)


def end(job):
    """Wait for RQ's result of a job, as its client may."""
    result = job.latest_result(timeout=30)
    assert result
    return result


def test_result_of_a_job_of_stock_rq_is_the_result_document(rq, client):
    job = enqueue(rq)
    assert end(job).type is Result.Type.SUCCESSFUL
    document = job.return_value()
    assert (document["status"], document["result"]) == ("success", {"seconds": 0})
    assert document["task_id"] == job.id
    assert client.result(job.id).result == document["result"]
    assert job.get_status() == "finished"
    assert 0 < rq.connection.ttl(f"rq:results:{job.id}") <= 3_600


def test_result_of_a_failed_job_of_stock_rq_says_why(rq):
    job = enqueue(rq, "exit")
    result = end(job)
    assert (result.type, job.get_status(), job.return_value()) == (Result.Type.FAILED, "failed", None)
    assert result.return_value["error"]["type"] == "graph_error"
    assert "SystemExit: 4" in result.exc_string


def test_cancelled_job_of_stock_rq_has_a_result_too(rq, client):
    job = enqueue(rq, seconds=60)
    until_sync(lambda: client.status(job.id).state is State.RUNNING)
    client.cancel(job.id)
    assert end(job).return_value["status"] == "cancelled"
    assert job.get_status() == "canceled"


def test_task_of_our_own_clients_is_not_kept_twice(rq, client):
    task_id = client.submit({"seconds": 0}, graph="nap").task_id
    client.wait(task_id, timeout_s=30)
    assert not rq.connection.exists(f"rq:results:{task_id}")


def test_timeout_of_a_job_is_its_deadline(rq):
    job = enqueue(rq, seconds=60, job_timeout=1)
    error = end(job).return_value["error"]
    assert (error["type"], error["message"]) == ("timeout", "the deadline of 1 s passed")


@pytest.mark.parametrize(
    ("deadline_s", "job_timeout", "kept_s"), [(None, None, 180), (600, None, 600), (600, 300, 300), (60, 300, 60)]
)
def test_shorter_one_of_timeout_and_deadline_holds_but_for_the_default_of_rq(rq, deadline_s, job_timeout, kept_s):
    job = enqueue(rq, deadline_s=deadline_s, job_timeout=job_timeout)
    end(job)
    created, deadline = rq.connection.hmget(f"agent:task:{job.id}", "created", "deadline")
    assert int(deadline) - int(created) == kept_s * 1000
    assert Job.fetch(job.id, rq.connection, JSONSerializer).timeout == kept_s


@pytest.mark.parametrize(("graph", "kept_s"), [("nap", 50), ("exit", 500)])
def test_result_and_failure_ttl_hold(rq, graph, kept_s):
    job = enqueue(rq, graph, result_ttl=50, failure_ttl=500)
    end(job)
    for key in ("agent:result", "rq:job", "rq:results"):
        assert kept_s - 20 < rq.connection.ttl(f"{key}:{job.id}") <= kept_s
    registry = rq.failed_job_registry if graph == "exit" else rq.finished_job_registry
    assert registry.get_expiration_time(job).timestamp() == pytest.approx(rq.connection.time()[0] + kept_s, abs=20)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"job_timeout": -1}, "job_timeout: expected 1 to 86,400 seconds, got: -1"),
        ({"job_timeout": 90_000}, "job_timeout: expected 1 to 86,400 seconds, got: 90000"),
        ({"result_ttl": -1}, "result_ttl: expected 1 to 604,800 seconds, got: -1"),
        ({"result_ttl": 0}, "result_ttl: expected 1 to 604,800 seconds, got: 0"),
        ({"failure_ttl": -1}, "failure_ttl: expected 1 to 604,800 seconds, got: -1"),
    ],
)
def test_option_that_is_not_done_here_is_refused_by_name(rq, client, option, name):
    error = client.wait(enqueue(rq, **option).id, timeout_s=30).error
    assert (error.type, error.message) == ("rejected", name)


def test_description_of_the_client_is_kept_and_that_of_rq_is_not(rq):
    own, given_by_rq = enqueue(rq, description="nightly report"), enqueue(rq)
    end(own), end(given_by_rq)
    shown = [rq.connection.hget(f"rq:job:{job.id}", "description").decode() for job in (own, given_by_rq)]
    assert shown == ["nightly report", f"nap {given_by_rq.id}"]


def test_job_that_is_enqueued_for_later_runs_without_a_scheduler_process(rq):
    task = {"graph": "nap", "input": {"seconds": 0}}
    job = rq.enqueue_in(timedelta(seconds=1), "langgraph_rq.run_task", task)
    assert job.get_status() == "scheduled"
    assert end(job).type is Result.Type.SUCCESSFUL
    assert rq.scheduled_job_registry.get_job_count(cleanup=False) == 0
