"""The gauges of the fleet, read from Redis without changing anything, and the list of all metrics."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq import Client
from langgraph_rq.producer.gateway.probes.fleet_metrics import FleetMetrics
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, allow_call, report_call
from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Charge,
    Payer,
    Request,
    reserve_call,
    settle_call,
)
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.attempts import claim_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.telemetry.metrics import FLEET, GATEWAY, LONGEST, WORKER, Bounded
from tests.gateways import gateway
from tests.installation import ROOT

DOCS = ROOT / "docs/observability.md"
QUEUES = ("agent_tasks_high", "agent_tasks", "agent_tasks_low")
BREAKER = BreakerLimits(failure_threshold=1, window_s=0)
BUDGET = BudgetLimits(daily_tokens=1_000, daily_cost_nano_usd=2 * 10**9)


@pytest.fixture
def fleet(aredis):
    return FleetMetrics(aredis, QUEUES, BREAKER, BUDGET)


@pytest.fixture
async def busy(aredis, redis_url):
    """Three tasks, one of them running, a breaker that is open, and a budget that is used in part."""
    with Client(redis_url) as client:
        client.submit_many([{"input": {}, "user_id": user} for user in ("ann", "bob", "eve")])
    await scripts.run(aredis, renew_call("w1", 60_000, QUEUES, {"assistant": "{}"}, join=True))
    await scripts.run(aredis, claim_call("w1", 1, QUEUES, graph_list(["assistant"]), QueueTimes()))
    admission = await scripts.run(aredis, allow_call("openai/gpt-4o", "t", BREAKER))
    await scripts.run(aredis, report_call("openai/gpt-4o", "t", admission.generation, Outcome.FAIL, BREAKER))
    await scripts.run(aredis, reserve_call("r1", Request(Amount(500, 10**9)), "gpt-4o", Payer(), BUDGET, ttl_ms=60_000))
    await scripts.run(aredis, settle_call("r1", Charge(100, 150, 10**8), "gpt-4o", Payer(), BUDGET))


async def scrape(fleet: FleetMetrics) -> dict[str, float]:
    _, body = await fleet.page()
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return found


async def test_gauges_say_what_waits_runs_and_is_spent(fleet, busy):
    found = await scrape(fleet)
    assert 0 <= found.pop("agent_oldest_task_age_seconds") < 60
    assert found.pop("agent_redis_memory_bytes") > 10**6
    assert found == {
        "agent_redis_up": 1,
        "agent_queue_depth agent_tasks_high": 0,
        "agent_queue_depth agent_tasks": 2,
        "agent_queue_depth agent_tasks_low": 0,
        "agent_tasks_open": 3,
        "agent_tasks_delayed": 0,
        "agent_tasks_running": 1,
        "agent_workers": 1,
        "agent_circuit_breaker_state openai/gpt-4o": 2,
        "agent_token_usage_daily": 250,
        "agent_token_limit_daily": 1_000,
        "agent_cost_usage_daily_usd": 0.1,
        "agent_cost_limit_daily_usd": 2,
    }


async def test_empty_installation_has_gauges_too(fleet):
    found = await scrape(fleet)
    assert (found["agent_workers"], found["agent_oldest_task_age_seconds"], found["agent_queue_depth agent_tasks"]) == (
        0,
        0,
        0,
    )


@pytest.mark.slow
async def test_a_thousand_scrapes_of_the_gateway_change_no_key(redis_url, busy, aredis):
    async def digests() -> dict[bytes, tuple[bytes, int]]:
        keys = [key async for key in aredis.scan_iter(count=1000)]
        return {key: (await aredis.dump(key), await aredis.pexpiretime(key)) for key in keys}

    async with gateway(redis_url) as http:
        first = await http.get("/metrics")
        before = await digests()
        for _ in range(1_000):
            response = await http.get("/metrics")
        assert before
        assert await digests() == before
    assert first.status_code == response.status_code == 200
    assert 'agent_queue_depth{queue="agent_tasks"} 2.0' in response.text


async def test_redis_that_is_away_is_a_metric_and_no_error():
    async with AsyncRedis.from_url("redis://127.0.0.1:1/0", retry=None) as away:
        assert await scrape(FleetMetrics(away, QUEUES, BREAKER, BUDGET)) == {"agent_redis_up": 0}


def test_label_has_a_bounded_set_of_values():
    bounded = Bounded()
    values = {bounded(f"graph {n}") for n in range(3 * LONGEST)}
    assert len(values) == LONGEST + 1
    assert "other" in values
    assert bounded("graph 0") == "graph 0"


@pytest.mark.parametrize("metric", [*WORKER, *FLEET, *GATEWAY], ids=lambda metric: metric.name)
def test_name_says_its_type_and_unit(metric):
    assert metric.name.startswith("agent_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_seconds") >= (metric.kind == "histogram")
    assert not {"task_id", "user", "user_id", "thread"} & {*metric.labels}


def test_every_metric_is_in_the_documentation_and_no_other():
    table = DOCS.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(agent_\w+)` \| (\w+)", table, re.MULTILINE)
    assert dict(documented) == {metric.name: metric.kind for metric in (*WORKER, *FLEET, *GATEWAY)}
