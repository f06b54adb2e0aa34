"""What a worker says of its health: liveness is about its loop only, readiness about whether it can claim."""

import asyncio
import json
import time

import httpx
import pytest

from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.telemetry.health import STUCK_S, Health, serve_health
from langgraph_rq.worker.telemetry.metrics_server import MetricsServer
from tests.fleet import one_node_graph, worker
from tests.waiting import until


async def nothing(_state):
    return {}


@pytest.fixture
def server():
    server = MetricsServer("127.0.0.1", 0)
    server.start()
    yield server
    server.stop()


async def get(server, path) -> httpx.Response:
    return await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{server.port}{path}", timeout=20)


async def test_worker_that_works_is_alive_and_ready(redis_url, server):
    async with worker(redis_url, {"g": one_node_graph(nothing)}) as one:
        with serve_health(server, one, redis_url):
            await until(lambda: one.is_held)
            assert (await get(server, "/health")).json() == {"status": "ok"}
            ready = await get(server, "/ready")
            assert (ready.status_code, ready.json()) == (200, {"ready": True, "problems": []})


async def test_worker_without_redis_is_alive_but_not_ready_and_recovers_by_itself(server):
    with EmbeddedRedis() as redis:
        async with worker(redis.url, {"g": one_node_graph(nothing)}) as one:
            with serve_health(server, one, redis.url):
                await until(lambda: one.is_held)
                redis.kill()
                missing = await get(server, "/ready")
                assert (missing.status_code, missing.json()["ready"]) == (503, False)
                assert "Redis does not answer" in missing.json()["problems"]
                assert (await get(server, "/health")).status_code == 200
                await asyncio.to_thread(redis.start)

                async def is_ready():
                    return (await get(server, "/ready")).status_code == 200

                await until(is_ready, timeout_s=20)  # 5 s are promised where there is a core for it


async def test_worker_that_drains_is_not_ready(redis_url, server):
    async with worker(redis_url, {"g": one_node_graph(nothing)}) as one:
        with serve_health(server, one, redis_url):
            one.stop()
            assert "the worker drains" in (await get(server, "/ready")).json()["problems"]
            assert (await get(server, "/health")).status_code == 200


async def test_stuck_loop_is_seen_from_outside_and_a_loop_that_turns_again_too(redis_url):
    health = Health(redis_url, lambda: True, lambda: False, stuck_s=0.2)
    with health.watch():
        assert health.health()[0] == 200
        time.sleep(0.3)  # noqa: ASYNC251 - this is the fault: a loop that does not turn
        status, _, body = health.health()
        assert (status, json.loads(body)["status"]) == (503, "stuck")
        await until(lambda: health.health()[0] == 200)


async def test_lease_that_may_be_over_is_not_ready(redis_url):
    health = Health(redis_url, lambda: False, lambda: False)
    with health.watch():
        assert json.loads(health.ready()[2])["problems"] == ["the lease may be over"]


async def test_redis_that_became_a_replica_is_not_ready(redis_url):
    health = Health(redis_url, lambda: True, lambda: False)
    with EmbeddedRedis(tcp=True) as primary, open_sync(redis_url) as redis, health.watch():
        host, port = primary.url.removeprefix("redis://").removesuffix("/0").split(":")
        redis.replicaof(host, port)
        try:
            assert json.loads(health.ready()[2])["problems"] == ["Redis is a replica"]
        finally:
            redis.replicaof("NO", "ONE")


def test_stuck_loop_is_told_within_half_a_minute():
    assert STUCK_S + 1 < 30


async def test_worker_without_a_port_serves_nothing(redis_url):
    async with worker(redis_url, {"g": one_node_graph(nothing)}) as one:
        with serve_health(None, one, redis_url):
            pass
