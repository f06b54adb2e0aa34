"""`status`: where a task is, what it costs, what it waits for, and why it failed or what it asks."""

import asyncio
import json

import pytest
from click.testing import CliRunner
from langgraph.types import interrupt
from redis import Redis

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Use
from langgraph_rq.shared.queue.attempts import use_call
from tests.fleet import Number, one_node_graph, worker
from tests.waiting import until


async def ask(_state):
    return {"n": interrupt({"how many": ["one", "two"]})}


async def fail(state):
    raise ValueError(f"no such number as {state['n']}")


@pytest.fixture
def shown(redis_url):
    """Return what `status` shows, as {name: value}; with --json as it is."""

    def run(task_id, *options):
        done = CliRunner().invoke(main, ["status", task_id, *options], env={"REDIS_URL": redis_url})
        assert done.exit_code == 0, done.output
        if options:
            return json.loads(done.stdout)
        return {line[:9].strip(): line[11:].strip() for line in done.stdout.splitlines()}

    return run


async def test_running_task_shows_its_graph_user_thread_node_and_cost(redis_url, client, shown):
    goes_on = asyncio.Event()

    async def wait(_state):
        await goes_on.wait()

    async with worker(redis_url, {"g": one_node_graph(wait, Number)}) as graph_worker:
        given = {"graph": "g", "user_id": "ann", "thread_id": "t-1", "stream": ["updates"]}
        task_id = client.submit({"n": 1}, **given).task_id
        parked = client.submit({"n": 1}, **given).task_id
        with Redis.from_url(redis_url) as redis:
            scripts.run_sync(redis, use_call(task_id, Use(600, 20, 5_000_000)))
        await until(lambda: graph_worker.in_flight and shown(task_id).get("node"))
        running, waiting = shown(task_id), shown(parked)
        goes_on.set()
        await asyncio.to_thread(client.wait, parked, 20)
    expected = {"state": "running", "graph": "g", "user": "ann", "thread": "t-1", "node": "node"}
    assert expected.items() <= running.items()
    assert running["cost"] == "$0.005000 (600 tokens in, 20 out)"
    assert waiting["waits"] == "waits for an earlier task of its thread"
    ended = shown(task_id)
    assert ended["state"] == "success"
    assert {"node", "error", "waits", "asks"}.isdisjoint(ended)


async def test_task_that_failed_shows_why(redis_url, client, shown):
    async with worker(redis_url, {"g": one_node_graph(fail, Number)}):
        task_id = client.submit({"n": 7}, graph="g").task_id
        await asyncio.to_thread(client.wait, task_id, 20)
    expected = {"error": "graph_error: ValueError: no such number as 7", "node": "node"}
    assert expected.items() <= shown(task_id).items()
    assert shown(task_id, "--json")["error"]["type"] == "graph_error"


async def test_interrupted_task_shows_its_question_and_the_id_that_answers_it(redis_url, client, shown):
    async with worker(redis_url, {"g": one_node_graph(ask, Number)}, checkpoints=True):
        task_id = client.submit({"n": 1}, graph="g").task_id
        result = await asyncio.to_thread(client.wait, task_id, 20)
    (question,) = result.result["__interrupt__"]
    assert shown(task_id)["asks"] == '{"how many":["one","two"]}'
    assert shown(task_id)[""] == f"id {question['id']}"
    assert [one["id"] for one in shown(task_id, "--json")["questions"]] == [question["id"]]


def test_users_and_threads_of_a_tenant_are_shown_under_their_own_names(client):
    tenant = client.for_tenant("acme")
    task_id = tenant.submit({"n": 1}, user_id="ann", thread_id="t-1").task_id
    found = tenant.status(task_id)
    assert (found.graph, found.user_id, found.thread_id) == ("assistant", "ann", "t-1")
    other = tenant.status(tenant.submit({"n": 1}).task_id)
    assert (other.user_id, other.thread_id) == (None, None)
