"""The verbs of the circuit breaker on one Redis with one set of limits, for tests that call several of them."""

from dataclasses import dataclass

from redis.asyncio import Redis

from langgraph_rq.shared.breaker.circuit_breaker import (
    Admission,
    BreakerLimits,
    BreakerStatus,
    Outcome,
    Transition,
    allow_call,
    read_all_call,
    report_call,
    reset_call,
)
from langgraph_rq.shared.connections.scripts import run


@dataclass(frozen=True, slots=True)
class Breakers:
    """All breakers in `redis`; `name` says which."""

    redis: Redis
    limits: BreakerLimits

    async def allow(self, name: str, token: str) -> Admission:
        return await run(self.redis, allow_call(name, token, self.limits))

    async def report(
        self, name: str, token: str, generation: int, outcome: Outcome, *, retry_after_ms: int = 0
    ) -> Transition:
        call = report_call(name, token, generation, outcome, self.limits, retry_after_ms=retry_after_ms)
        return await run(self.redis, call)

    async def states(self) -> list[BreakerStatus]:
        return await run(self.redis, read_all_call(self.limits))

    async def reset(self, name: str) -> Transition:
        return await run(self.redis, reset_call(name))
