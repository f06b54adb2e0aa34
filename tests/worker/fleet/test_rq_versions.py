"""Clients of RQ of four versions, and django-rq and rq-exporter, each in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from langgraph_rq import Client, State
from tests.installation import ROOT, clean_environment
from tests.waiting import until_sync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

VERSIONS = ("rq==1.16.2", "rq==2.6.1", "rq==2.12.0", "rq==3.0.0")
DJANGO = ("rq==2.12.0", "django-rq==4.2.0", "rq-exporter==3.1.0")
PROGRAM = ROOT / "tests/programs/rq_client.py"


@pytest.fixture(scope="module", params=VERSIONS)
def python(request) -> Path:
    return environment_of(request.param)


@pytest.fixture(scope="module")
def django() -> Path:
    return environment_of(*DJANGO)


@pytest.fixture
def client(installation):
    with Client(installation.redis_url) as client:
        yield client


@pytest.fixture
def suspended(installation):
    """Workers that claim nothing; `resume` lets them go on."""
    with Redis.from_url(installation.redis_url) as redis:
        suspend(redis)
        yield redis
        resume(redis)


def environment_of(*requirements: str) -> Path:
    """Install once into a folder of this checkout, and return its Python."""
    folder = ROOT / ".data" / "rq-clients" / "-".join(requirements).replace("==", "-")
    python, done = folder / "bin/python", folder / ".installed"
    if not done.exists():
        uv = Path(sys.executable).parent / "uv"
        run(uv, "venv", "--quiet", "--clear", folder)
        run(uv, "pip", "install", "--quiet", "--python", python, *requirements)
        done.touch()
    return python


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def rq(python, installation):
    return lambda *action: json.loads(run(python, PROGRAM, installation.redis_url, *action))


def submit_three(client: Client) -> list[str]:
    return [client.submit({"seconds": 0}, graph="nap").task_id for _ in range(3)]


def test_success_has_its_result_description_and_ttl(rq):
    seen = rq("succeed")
    assert 0 < seen.pop("ttl") <= 50
    assert seen == {"status": "finished", "value": {"seconds": 0}, "description": "nightly", "is_listed": True}


def test_requeued_job_is_failed_again(rq):
    seen = rq("requeue")
    assert (seen["status"], seen["is_listed"]) == ("failed", True)
    assert "SystemExit: 4" in seen["why"]


def test_job_under_an_ended_id_answers_as_it_ended(rq):
    assert rq("enqueue_again") == {"status": "finished", "value": {"seconds": 0}}


def test_timeout_ends_the_job(rq):
    seen = rq("time_out")
    assert seen["status"] == "failed"
    assert "the deadline of 1 s passed" in seen["why"]


def test_job_for_later_needs_no_scheduler(rq):
    assert rq("enqueue_later") == {"status": "finished"}


def test_emptied_queue_is_cancelled_as_a_whole(rq, client, suspended):
    ids = submit_three(client)
    assert rq("show", *ids) == {"statuses": ["deferred"] * 3, "listed": 1, "deferred": sorted(ids)}
    assert rq("empty") == {"removed": 1}
    after = client.submit({"seconds": 0}, graph="nap").task_id
    resume(suspended)
    assert [client.wait(id_, timeout_s=60).status for id_ in ids] == [State.CANCELLED] * 3
    assert client.wait(after, timeout_s=60).status is State.SUCCESS


@pytest.mark.parametrize("action", ["delete", "cancel"])
def test_job_that_is_removed_takes_no_other_with_it(rq, client, suspended, action):
    first, *others = submit_three(client)
    rq(action, first)
    resume(suspended)
    assert client.wait(first, timeout_s=60).status is State.CANCELLED
    assert [client.wait(id_, timeout_s=60).status for id_ in others] == [State.SUCCESS] * 2


def test_worker_of_stock_rq_that_takes_a_task_leaves_no_failed_entry(python, installation, client, suspended):
    task_id = client.submit({"seconds": 0}, graph="nap").task_id
    suspended.delete("rq:suspended")  # the stock worker obeys it too: whichever comes first takes the task
    command = (python.parent / "rq", "worker", "--burst", "--url", installation.redis_url, "agent_tasks")
    run(*command, OBJC_DISABLE_INITIALIZE_FORK_SAFETY="YES")
    assert client.wait(task_id, timeout_s=60).status is State.SUCCESS
    assert suspended.zscore("rq:failed:agent_tasks", task_id) is None


EXPORT = """
import sys
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from redis import Redis
from rq_exporter.collector import RQCollector

registry = CollectorRegistry()
registry.register(RQCollector(Redis.from_url(sys.argv[1])))
print(generate_latest(registry).decode())
"""
REQUEUE_ALL = """
import sys
import django
from django.conf import settings

settings.configure(
    RQ_QUEUES={"agent_tasks": {"URL": sys.argv[1], "SERIALIZER": "rq.serializers.JSONSerializer"}},
    INSTALLED_APPS=["django_rq"],
)
django.setup()
import django_rq
from rq.registry import FailedJobRegistry

queue = django_rq.get_queue("agent_tasks")
registry = FailedJobRegistry(queue=queue)
for job_id in registry.get_job_ids():
    registry.requeue(job_id)
print(queue.count)
"""


def test_exporter_counts_what_waits(django, installation, client, suspended):
    submit_three(client)
    shown = run(django, "-c", EXPORT, installation.redis_url)
    assert 'rq_jobs{queue="agent_tasks",status="queued"} 1.0' in shown
    assert 'rq_jobs{queue="agent_tasks",status="deferred"} 3.0' in shown
    assert 'state="suspended"' in shown or 'state="idle"' in shown


def test_jobs_that_django_rq_requeues_are_failed_again(django, installation, client):
    task_id = client.submit({"code": 4}, graph="exit").task_id
    assert client.wait(task_id, timeout_s=60).status is State.ERROR
    run(django, "-c", REQUEUE_ALL, installation.redis_url)
    with Redis.from_url(installation.redis_url) as redis:
        until_sync(lambda: redis.zscore("rq:failed:agent_tasks", task_id), 30)
        assert redis.hget(f"rq:job:{task_id}", "status") == b"failed"
