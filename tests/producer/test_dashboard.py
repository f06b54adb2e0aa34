import asyncio
import json
import pickle
import zlib
from base64 import b64encode

import pytest
from langgraph.types import interrupt
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.producer.dashboard import door
from tests import fleet
from tests.dashboards import dashboard_app

PASSWORD = "correct horse"


def basic(user, password):
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def browser(redis_url):
    with Redis.from_url(redis_url) as client, dashboard_app(client, "unix://***@/redis.sock", PASSWORD) as app:
        browser = app.test_client()
        browser.environ_base["HTTP_AUTHORIZATION"] = basic("admin", PASSWORD)["Authorization"]
        yield browser


@pytest.fixture
def client_of_fleet(redis_url):
    with Client(redis_url) as client:
        yield client


@pytest.mark.parametrize("headers", [{}, basic("admin", ""), basic("admin", "wrong"), basic("root", PASSWORD)])
def test_nothing_is_shown_without_the_password(browser, headers, monkeypatch):
    monkeypatch.setattr(door, "_DELAY_S", 0.01)
    del browser.environ_base["HTTP_AUTHORIZATION"]
    for path in ["/", "/0/view/workers", "/0/data/queues.json", "/static/js/polyfills.js", "/nothing"]:
        assert browser.get(path, headers=headers).status_code == 401, path


async def test_queues_workers_a_finished_and_a_failed_job_are_shown(browser, redis_url):
    def node(state):
        if state["fails"]:
            raise ValueError("the reason is said")
        return state

    with Client(redis_url) as client:
        async with fleet.worker(redis_url, {"assistant": fleet.one_node_graph(node)}, burst=False):
            good = client.submit({"fails": False}, user_id="ann")
            bad = client.submit({"fails": True})
            await asyncio.to_thread(lambda: list(client.wait_each([good.task_id, bad.task_id], 20)))
            workers = browser.get("/0/data/workers.json").json["workers"]
    assert [worker["successful_job_count"] for worker in workers] == [1]
    queues = {queue["name"]: queue for queue in browser.get("/0/data/queues.json").json["queues"]}
    assert queues["agent_tasks"]["finished_job_registry_count"] == 1
    assert queues["agent_tasks"]["failed_job_registry_count"] == 1
    finished = browser.get(f"/0/data/job/{good.task_id}.json").json
    assert (finished["status"], finished["description"]) == ("success", f"assistant {good.task_id}")
    failed = browser.get(f"/0/data/job/{bad.task_id}.json").json
    assert failed["status"] == "error"
    assert "the reason is said" in failed["exc_info"]


async def test_errors_are_masked_and_the_state_is_that_of_the_task(browser, redis_url, client_of_fleet):
    def node(state):
        if state["asks"]:
            return interrupt("may I?")
        raise ValueError("no mailbox of ann@example.com")

    async with fleet.worker(redis_url, {"assistant": fleet.one_node_graph(node)}, burst=False, checkpoints=True):
        given = [client_of_fleet.submit({"asks": asks}).task_id for asks in (True, False)]
        await asyncio.to_thread(lambda: list(client_of_fleet.wait_each(given, 20)))
    asked, failed = (browser.get(f"/0/data/job/{task_id}.json").json for task_id in given)
    listed = browser.get("/0/data/jobs/agent_tasks/failed/8/asc/1.json").json["jobs"]
    assert (asked["status"], failed["status"]) == ("interrupted", "error")
    assert [one["exc_info"].count("[email]") for one in (failed, *listed)] == [1, 1]
    assert "ann@example.com" not in str([failed, *listed])


def test_job_whose_task_is_unreadable_keeps_the_status_of_rq(browser, redis_client):
    fields = {"data": "[]", "created_at": "2026-11-22T00:00:00.000000Z", "status": "failed", "origin": "agent_tasks"}
    redis_client.hset("rq:job:one", mapping=fields)
    redis_client.set("agent:task:one", "of another type")
    assert browser.get("/0/data/job/one.json").json["status"] == "failed"


class Trap:
    """Pickled data that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(browser, redis_url, tmp_path):
    sprung = tmp_path / "sprung"
    payload = pickle.dumps(Trap(sprung))
    with Redis.from_url(redis_url) as raw:
        fields = {
            "data": zlib.compress(payload),
            "meta": payload,
            "result": b64encode(payload),
            "created_at": "2026-11-22T00:00:00.000000Z",
            "status": "finished",
            "origin": "agent_tasks",
            "description": "trap",
        }
        raw.hset("rq:job:trap", mapping=fields)
        raw.xadd("rq:results:trap", {"type": 1, "return_value": b64encode(payload)})
        raw.zadd("rq:finished:agent_tasks", {"trap": 4102444800})
        raw.sadd("rq:queues", "rq:queue:agent_tasks")
        raw.sadd("rq:workers", "rq:worker:one")
        raw.hset("rq:worker:one", mapping={"birth": "2026-11-22T00:00:00.000000Z", "current_job": "trap"})
    assert [job["id"] for job in browser.get("/0/data/jobs/agent_tasks/finished/8/asc/1.json").json["jobs"]] == ["trap"]
    for path in [
        "/",
        "/0/view/workers",
        "/0/view/job/trap",
        "/0/data/job/trap.json",
        "/0/data/workers.json",
        "/0/view/jobs/agent_tasks/finished/8/asc/1",
    ]:
        assert browser.get(path).status_code in {200, 422}
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/job/one/delete"),
        ("POST", "/job/one/requeue"),
        ("POST", "/queue/agent_tasks/failed/empty"),
        ("POST", "/queue/agent_tasks/compact"),
        ("GET", "/requeue/agent_tasks"),
    ],
)
def test_nothing_can_be_changed(browser, redis_client, method, path):
    redis_client.hset("rq:job:one", mapping={"status": "failed", "data": json.dumps([])})
    before = redis_client.dump("rq:job:one")
    assert browser.open(path, method=method).status_code == 405
    assert redis_client.dump("rq:job:one") == before
