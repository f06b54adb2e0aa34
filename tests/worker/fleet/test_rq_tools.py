"""RQ's own tools and producers beside ours: `rq info`, rq-dashboard, `Queue.enqueue`, from processes of their own."""

import re
import subprocess
import sys
from base64 import b64encode

import pytest
from redis import Redis

from langgraph_rq import Client, State
from tests.dashboards import dashboard_app
from tests.installation import clean_environment
from tests.waiting import until_sync

PASSWORD = "secret"
ENQUEUE = """
import sys
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

queue = Queue("agent_tasks", connection=Redis.from_url(sys.argv[1]), serializer=JSONSerializer)
queue.enqueue("worker.run_task", {"graph": "nap", "input": {"seconds": 0}}, job_id="from-stock-rq")
"""
ENQUEUE_FOREIGN = """
import os, sys
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

redis = Redis.from_url(sys.argv[1])
Queue("agent_tasks", connection=redis).enqueue("worker.run_task", {"input": {}}, job_id="pickled")
queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
queue.enqueue("os.system", "touch " + sys.argv[2], job_id="foreign")
"""


@pytest.fixture
def client(installation):
    with Client(installation.redis_url) as client:
        yield client


@pytest.fixture
def dashboard(installation):
    with Redis.from_url(installation.redis_url) as redis, dashboard_app(redis, "redis", PASSWORD) as app:
        browser = app.test_client()
        browser.environ_base["HTTP_AUTHORIZATION"] = f"Basic {b64encode(f'admin:{PASSWORD}'.encode()).decode()}"
        yield browser


def run_script(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", script, *arguments], env=clean_environment({}), check=True)


def finish_one(client: Client) -> str:
    task_id = client.submit({"seconds": 0}, graph="nap").task_id
    assert client.wait(task_id, timeout_s=30).status is State.SUCCESS
    return task_id


def worker_name(installation) -> str:
    return installation.worker.events("worker.started")[0]["worker"]


def test_rq_info_shows_the_worker_and_the_queues(installation, client):
    finish_one(client)
    shown = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", installation.redis_url, "--raw"],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    queue, worker = (
        next(line for line in shown if line.startswith(word)) for word in ("queue agent_tasks ", "worker ")
    )
    assert re.match(r"queue agent_tasks 0, \d+ executing, [1-9]\d* finished", queue)
    assert worker.startswith(f"worker {worker_name(installation)} ")
    assert re.search(r"agent_tasks_high, agent_tasks, agent_tasks_low\. jobs: [1-9]\d* finished", worker)


def test_dashboard_shows_the_worker(installation, dashboard, client):
    finish_one(client)
    (shown,) = dashboard.get("/0/data/workers.json").json["workers"]
    assert shown["name"] == worker_name(installation)
    assert shown["queues"] == ["agent_tasks_high", "agent_tasks", "agent_tasks_low"]


def test_dashboard_counts_what_is_queued_and_what_runs(dashboard, client):
    def counts() -> dict:
        queues = dashboard.get("/0/data/queues.json").json["queues"]
        return next(queue for queue in queues if queue["name"] == "agent_tasks")

    task_id = client.submit({"seconds": 60}, graph="nap", deadline_s=3).task_id
    assert until_sync(lambda: counts()["started_job_registry_count"])
    client.wait(task_id, timeout_s=30)
    assert counts()["count"] == 0
    assert counts()["failed_job_registry_count"] >= 1


def test_dashboard_lists_finished_jobs_and_shows_one(dashboard, client):
    task_id = finish_one(client)
    listed = dashboard.get("/0/data/jobs/agent_tasks/finished/5000/desc/1.json").json["jobs"]
    shown = dashboard.get(f"/0/data/job/{task_id}.json").json
    assert task_id in {job["id"] for job in listed}
    assert (shown["status"], shown["description"]) == ("success", f"nap {task_id}")


def test_dashboard_shows_why_a_job_failed(dashboard, client):
    task_id = client.submit({"code": 4}, graph="exit").task_id
    client.wait(task_id, timeout_s=30)
    assert "graph_error: SystemExit: 4" in dashboard.get(f"/0/data/job/{task_id}.json").json["exc_info"]


def test_stock_rq_enqueues_from_another_process(installation, client):
    run_script(ENQUEUE, installation.redis_url)
    assert client.wait("from-stock-rq", timeout_s=30).result == {"seconds": 0}


def test_pickled_and_foreign_jobs_are_rejected_with_the_reason(installation, client, tmp_path):
    victim = tmp_path / "was-here"
    run_script(ENQUEUE_FOREIGN, installation.redis_url, str(victim))
    pickled, foreign = (client.wait(job, timeout_s=30) for job in ("pickled", "foreign"))
    assert (pickled.status, pickled.error.type) == (foreign.status, foreign.error.type) == ("error", "rejected")
    assert "serializer=rq.serializers.JSONSerializer" in pickled.error.message
    assert 'expected the function langgraph_rq.run_task, got: "os.system"' in foreign.error.message
    assert not victim.exists()
    with Redis.from_url(installation.redis_url) as redis:
        assert redis.hget("rq:job:foreign", "status") == b"failed"
        assert redis.zscore("rq:failed:agent_tasks", "foreign")
