"""The fleet's Prometheus gauges, read from Redis at each scrape with commands that change nothing.

The gateway serves them at /metrics, so that queue depth and worker count are known even when no worker lives.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState, BreakerStatus, read_all_call
from langgraph_rq.shared.budget.token_budget import BudgetLimits, usage_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.telemetry.metrics import FLEET, LONGEST, build

_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
Sample = tuple[str, tuple[str, ...], float]
"""Name, values of the labels, value."""


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """Reads the gauges of one installation.

    Args:
        redis: A client with raw replies.
        queues: The RQ queues whose depth is reported.
        breaker, budget: The limits that the workers have.
    """

    redis: Redis
    queues: Sequence[str]
    breaker: BreakerLimits
    budget: BudgetLimits

    async def page(self) -> tuple[str, bytes]:
        """Answer a scrape: content type and body. While Redis is away it says just that."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - in the extra api
        from prometheus_client.exposition import CONTENT_TYPE_LATEST  # noqa: PLC0415

        try:
            samples = [("agent_redis_up", (), 1.0), *await self.read()]
        except scripts.ScriptNotLoadedError:  # no worker has been there since it started
            samples = [("agent_redis_up", (), 1.0), ("agent_workers", (), 0.0)]
        except (RedisError, OSError):
            samples = [("agent_redis_up", (), 0.0)]
        registry = CollectorRegistry()
        gauges = {metric.name: build(metric, registry) for metric in FLEET if any(metric.name == s[0] for s in samples)}
        for name, labels, value in samples:
            (gauges[name].labels(*labels) if labels else gauges[name]).set(value)
        return CONTENT_TYPE_LATEST, generate_latest(registry)

    async def read(self) -> list[Sample]:
        """Read all gauges in two round trips. Raises redis.RedisError."""
        memory = await self.redis.info("memory")
        fleet, usage, breakers = await scripts.run_many(
            self.redis, [fleet_call(), usage_call(self.budget), read_all_call(self.breaker, most=LONGEST)]
        )
        for answer in (fleet, usage, breakers):
            if isinstance(answer, Exception):
                raise answer
        queues = {queue.name: queue for queue in fleet.queues if queue.name in self.queues}
        return [
            *(("agent_queue_depth", (name,), queues[name].runnable if name in queues else 0) for name in self.queues),
            ("agent_tasks_open", (), fleet.open),
            ("agent_tasks_delayed", (), fleet.delayed),
            ("agent_tasks_running", (), fleet.owned),
            ("agent_oldest_task_age_seconds", (), max((queue.first_age_s for queue in queues.values()), default=0.0)),
            ("agent_workers", (), len(fleet.workers)),
            *_breakers(breakers),
            *_budget(usage),
            *_memory(memory),
        ]


def _breakers(breakers: Sequence[BreakerStatus]) -> Iterator[Sample]:
    for found in breakers:
        is_over = found.state is BreakerState.OPEN and found.open_ends_at < time.time() * 1000
        state = BreakerState.HALF_OPEN if is_over else found.state
        yield "agent_circuit_breaker_state", (found.name,), _STATES[state]


def _budget(usage: Any) -> Iterator[Sample]:
    yield "agent_token_usage_daily", (), usage.tokens.used + usage.tokens.held
    yield "agent_cost_usage_daily_usd", (), (usage.cost.used + usage.cost.held) / 1e9
    if usage.tokens.limit is not None:
        yield "agent_token_limit_daily", (), usage.tokens.limit
    if usage.cost.limit is not None:
        yield "agent_cost_limit_daily_usd", (), usage.cost.limit / 1e9


def _memory(memory: Mapping[str, Any]) -> Iterator[Sample]:
    yield "agent_redis_memory_bytes", (), memory["used_memory"]
    if memory["maxmemory"]:
        yield "agent_redis_memory_limit_bytes", (), memory["maxmemory"]
