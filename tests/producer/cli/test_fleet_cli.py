"""`workers` shows what the fleet is doing and changes nothing."""

import asyncio
import json
from typing import TypedDict

from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.connections.clients import open_sync
from tests.fleet import one_node_graph, worker
from tests.waiting import until


class Empty(TypedDict, total=False):
    n: int


async def run(redis_url, *arguments):
    environment = {"REDIS_URL": redis_url}
    return await asyncio.to_thread(CliRunner().invoke, main, ["workers", *arguments], env=environment)


async def test_every_open_task_is_counted_once(redis_url, client):
    goes_on = asyncio.Event()

    async def wait(_state: Empty):
        await goes_on.wait()

    async with worker(redis_url, {"wait": one_node_graph(wait, Empty)}, concurrency=2) as graph_worker:
        for i in range(5):
            client.submit({"n": i}, graph="wait", user_id="ann")
        await until(lambda: graph_worker.in_flight == 2)
        redis = open_sync(redis_url)
        before = {key: redis.dump(key) for key in redis.keys("agent:task:*")}
        shown = await run(redis_url, "--json")
        table = await run(redis_url)
        assert {key: redis.dump(key) for key in redis.keys("agent:task:*")} == before
        redis.close()
        goes_on.set()
    fleet = json.loads(shown.output)
    (one,) = fleet["workers"]
    assert (one["name"], one["in_flight"], one["state"]) == (graph_worker.name, 2, "busy")
    assert (fleet["pending"], fleet["delayed"], fleet["in_flight"]) == (3, 0, 2)
    assert fleet["runnable"] == {"agent_tasks": 1}
    assert shown.exit_code == table.exit_code == 0
    assert "3 pending, 0 delayed, 2 in flight" in table.output


async def test_fleet_without_a_live_worker_has_its_own_exit_code(redis_url):
    shown = await run(redis_url)
    assert shown.exit_code == 5
    assert "no worker is alive" in shown.output
