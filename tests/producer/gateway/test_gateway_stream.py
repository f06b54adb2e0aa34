"""Events over HTTP: every one once and in order, whatever is killed between."""

import asyncio
import json

import httpx
import pytest
from httpx_sse import aconnect_sse
from langgraph.config import get_stream_writer

from langgraph_rq import AsyncClient
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.events import FORGOTTEN_END
from tests.fleet import Number, one_node_graph, worker
from tests.gateways import listening, start_gateway
from tests.installation import ROOT, start_worker
from tests.projects.telling.graphs import STEPS
from tests.projects.telling.graphs import graph as telling
from tests.waiting import until

TELLING = ROOT / "tests/projects/telling/langgraph.json"


@pytest.fixture
async def http(redis_url):
    async with listening(redis_url) as (client, _):
        yield client


async def submit(http, **body) -> str:
    response = await http.post("/tasks", json={"input": {"n": 1}, **body})
    assert response.status_code == 202, response.text
    return f"/tasks/{response.json()['task_id']}/events"


async def read(http, path, last_event_id=None, most=1_000) -> list:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    found = []
    async with aconnect_sse(http, "GET", path, headers=headers) as source:
        async for event in source.aiter_sse():
            found.append(event)
            if event.event == "end" or len(found) == most:
                break
    return found


async def test_stream_tells_everything_up_to_the_result(redis_url, http):
    async def tell(_state):
        get_stream_writer()("half way")
        return {"n": 2}

    path = await submit(http, graph="g", stream=["custom", "updates"])
    async with worker(redis_url, {"g": one_node_graph(tell, Number)}):
        events = await read(http, path)
    assert [event.event for event in events] == ["state", "node", "custom", "updates", "node", "end"]
    assert events[2].json() == {"attempt": 1, "data": "half way"}
    end = events[-1].json()
    assert (end["state"], end["result"]["result"]) == ("success", {"n": 2})


async def test_client_that_comes_back_goes_on_after_its_last_event(redis_url, http):
    path = await submit(http, graph="g", stream=["custom"])
    async with worker(redis_url, {"g": telling}):
        await http.get(path.replace("events", "result"), params={"wait": 20})
    whole = await read(http, path)
    assert len({event.id for event in whole}) == len(whole) > STEPS
    for cut in (1, len(whole) // 2, len(whole) - 1):
        rest = await read(http, path, whole[cut - 1].id)
        assert [event.id for event in rest] == [event.id for event in whole[cut:]]


async def test_client_that_has_seen_the_end_is_told_not_to_come_back(redis_url, http):
    path = await submit(http)
    await http.delete(path.removesuffix("/events"))
    (end,) = await read(http, path)
    assert end.json()["state"] == "cancelled"
    assert (await http.get(path, headers={"Last-Event-ID": end.id})).status_code == 204


async def test_task_whose_events_are_forgotten_tells_its_end(redis_client, http):
    path = await submit(http)
    await http.delete(path.removesuffix("/events"))
    redis_client.delete(f"agent:events:{path.split('/')[2]}")
    for last in (None, "1-0"):
        (end,) = await read(http, path, last)
        assert (end.id, end.json()["result"]["status"]) == (FORGOTTEN_END, "cancelled")
    assert (await http.get(path, headers={"Last-Event-ID": FORGOTTEN_END})).status_code == 204


async def test_silent_stream_shows_that_it_lives(redis_url):
    async with listening(redis_url, heartbeat_s=0.05) as (http, _):
        path = await submit(http)
        async with http.stream("GET", path) as response:
            lines = response.aiter_lines()
            first = [await anext(lines) for _ in range(3)]
    assert first == ["retry: 1000", ": ", ": "]


async def test_last_event_id_that_is_none_is_refused(http):
    path = await submit(http)
    response = await http.get(path, headers={"Last-Event-ID": "yesterday"})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


async def test_gateway_that_ends_closes_its_streams_and_lets_waiting_requests_go(redis_url):
    async with listening(redis_url) as (http, server):
        path = await submit(http)
        streaming = asyncio.create_task(read(http, path))
        waiting = asyncio.create_task(http.get(path.replace("events", "result"), params={"wait": 60}))
        await until(lambda: len(server.server_state.tasks) == 2)
        server.should_exit = True
        assert await asyncio.wait_for(streaming, 10) == []
        assert (await asyncio.wait_for(waiting, 10)).status_code == 202


async def test_many_streams_share_few_connections(redis_url, redis_client):
    async def done(_state):
        return {"n": 2}

    async with AsyncClient(redis_url) as client:
        ids = [receipt.task_id for receipt in await client.submit_many([{"input": {"n": 1}, "graph": "g"}] * 300)]
        before = redis_client.info("clients")["connected_clients"]

        async def follow(task_id):
            return [event.type async for event in client.events(task_id)]

        following = [asyncio.create_task(follow(task_id)) for task_id in ids]
        await until(lambda: redis_client.info("clients")["blocked_clients"] >= 8)
        assert redis_client.info("clients")["connected_clients"] - before < 80
        async with worker(redis_url, {"g": one_node_graph(done, Number)}):
            seen = await asyncio.gather(*following)
    assert seen == [["state", "end"]] * len(ids)


@pytest.mark.slow
async def test_killed_gateway_and_killed_worker_cost_no_event_and_repeat_none(tmp_path):
    with EmbeddedRedis(tcp=True) as redis:
        environment = {"REDIS_URL": redis.url, "LGRQ_LEASE_S": "2"}
        with (
            start_gateway(tmp_path, environment) as doomed_gateway,
            start_worker(tmp_path, environment, "--config", str(TELLING)) as doomed,
        ):
            await asyncio.to_thread(doomed_gateway.wait_until_ready)
            await asyncio.to_thread(doomed.wait_until_ready)
            seen = await _follow_through_kills(redis.url, doomed_gateway, doomed)
        async with AsyncClient(redis.url) as client:
            task_id = json.loads(seen[-1].data)["result"]["task_id"]
            written = [event async for event in client.events(task_id)]
    assert [event.id for event in seen] == [event.id for event in written]
    told = [json.loads(event.data) for event in seen if event.event == "custom"]
    assert [one["data"]["step"] for one in told if one["data"]["node"] == "first"] == list(range(STEPS))
    attempts = [[o["data"]["step"] for o in told if (o["attempt"], o["data"]["node"]) == (n, "second")] for n in (1, 2)]
    assert 0 < len(attempts[0]) < STEPS
    assert attempts == [list(range(len(attempts[0]))), list(range(STEPS))]


async def _follow_through_kills(redis_url, doomed_gateway, doomed) -> list:
    """Read events from one gateway, kill it, go on at another one, kill the worker, and read on to the end."""
    seen: list = []
    async with httpx.AsyncClient(base_url=doomed_gateway.url, timeout=30) as http:
        path = await submit(http, graph="telling", stream=["custom"])
        seen += await read(http, path, most=STEPS + 10)
        doomed_gateway.process.kill()
        with pytest.raises(httpx.TransportError):
            await read(http, path, seen[-1].id)
    async with listening(redis_url) as (http, _):
        seen += await read(http, path, seen[-1].id, most=5)
        doomed.process.kill()
        async with worker(redis_url, {"telling": telling}, checkpoints=True):
            seen += await read(http, path, seen[-1].id)
    return seen
