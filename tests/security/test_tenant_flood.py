"""A tenant floods the whole system; another one's tasks are accepted, start within a second, and stream."""

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import TypedDict

import httpx
import pytest
from httpx_sse import aconnect_sse
from langgraph.config import get_stream_writer

from langgraph_rq import AsyncClient, TenantFullError
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.fleet import one_node_graph, worker
from tests.gateways import listening

ATTACKER, ATTACKER_LINE = make_key("acme")
VICTIM, VICTIM_LINE = make_key("other")
KEYS = f"{ATTACKER_LINE} held_bytes=60000000\n{VICTIM_LINE}\n"
PRIORITIES = ("high", "default", "low")
LARGE = "x" * 10_000
RUN_S = 0.05
"""Of each task, on ten slots: the flood takes the fleet several seconds."""


class State(TypedDict, total=False):
    text: str


async def tell(_state):
    get_stream_writer()("half way")
    await asyncio.sleep(RUN_S)
    return {}


GRAPHS = {"g": one_node_graph(tell, State)}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def attack(http, statuses, name):
    """Submit as fast as the gateway answers, each time as another user."""
    for i in range(1_000_000):
        body = {
            "input": {"text": LARGE},
            "graph": "g",
            "user_id": f"invented-{name}-{i}",
            "priority": PRIORITIES[i % 3],
        }
        statuses.add((await http.post("/tasks", json=body, headers=bearer(ATTACKER))).status_code)


async def run_one(http) -> tuple[float, list[str]]:
    """Run a task of the victim; answers how long it waited (s), and its events."""
    response = await http.post("/tasks", json={"input": {}, "graph": "g", "stream": ["custom"]}, headers=bearer(VICTIM))
    assert response.status_code == 202, response.text
    path = f"/tasks/{response.json()['task_id']}"
    events = []
    async with aconnect_sse(http, "GET", f"{path}/events", headers=bearer(VICTIM)) as source:
        async for event in source.aiter_sse():
            events.append(event)
            if event.event == "end":
                break
    result = events[-1].json()["result"]
    assert result["status"] == "success"
    waited = datetime.fromisoformat(result["started_at"]) - datetime.fromisoformat(result["submitted_at"])
    return waited.total_seconds(), [event.event for event in events]


@pytest.mark.parametrize(
    ("users", "flood_s"),
    [(1_000, 1), pytest.param(3_000, 20, marks=pytest.mark.slow)],
    ids=["shortly", "for twenty seconds"],
)
async def test_flood_of_a_tenant_leaves_another_its_turn(redis_url, users, flood_s):
    statuses: set[int] = set()
    async with (
        AsyncClient(redis_url) as client,
        listening(redis_url, keys=KEYS) as (http, _),
        httpx.AsyncClient(base_url=http.base_url, timeout=20) as attacking,
    ):
        documents = [
            {"input": {"text": LARGE}, "graph": "g", "user_id": f"invented-{i}", "priority": PRIORITIES[1 + i % 2]}
            for i in range(users)
        ]
        with suppress(TenantFullError):
            await client.for_tenant("acme").submit_many(documents)
        async with worker(redis_url, GRAPHS), asyncio.TaskGroup() as group:
            flood = [group.create_task(attack(attacking, statuses, name)) for name in range(4)]
            found, ends_at = [], time.monotonic() + flood_s
            while time.monotonic() < ends_at:
                found.append(await run_one(http))
            for one in flood:
                one.cancel()
        open_tasks = await client.redis.zcard("agent:tenant_open:acme")
    waits_s = sorted(wait_s for wait_s, _ in found)
    assert open_tasks > users // 5, "the flood was over before the victim came"
    assert waits_s[-1] < 1, waits_s
    assert {event for _, events in found for event in events} >= {"state", "custom", "end"}
    assert 403 in statuses, "the attacker used the priority high"
