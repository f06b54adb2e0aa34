"""The verbs of the circuit breaker on one Redis with one set of limits, for tests that call several of them."""

from dataclasses import dataclass, field

from redis.asyncio import Redis

from langgraph_rq.shared.breaker.circuit_breaker import (
    Admission,
    BreakerLimits,
    BreakerState,
    BreakerStatus,
    Outcome,
    Transition,
    Verdict,
    allow_call,
    read_all_call,
    report_call,
    reset_call,
)
from langgraph_rq.shared.connections.scripts import run

OPEN_MS = 30_000
STEADY = BreakerLimits(jitter=0)


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


@dataclass
class Caller:
    """Makes calls one at a time, on a clock that only moves when it is told to."""

    redis: Redis
    limits: BreakerLimits
    name: str = "x"
    now_ms: int = 1_800_000_000_000
    calls: list[str] = field(default_factory=list)

    async def allow(self, token: str) -> Admission:
        return await run(self.redis, allow_call(self.name, token, self.limits, now_ms=self.now_ms))

    async def report(self, token: str, generation: int, outcome: Outcome, retry_after_ms: int = 0) -> Transition:
        report = (self.name, token, generation, outcome, self.limits)
        return await run(self.redis, report_call(*report, retry_after_ms=retry_after_ms, now_ms=self.now_ms))

    async def call(self, *outcomes: Outcome) -> Transition:
        """Make calls that end so; answer what the last one saw."""
        for outcome in outcomes:
            self.calls.append(token := f"call-{len(self.calls)}")
            admission = await self.allow(token)
            assert admission.admitted
            transition = await self.report(token, admission.generation, outcome)
        return transition

    async def open(self) -> Transition:
        transition = await self.call(*[Outcome.FAIL] * self.limits.failure_threshold)
        assert transition.after is BreakerState.OPEN
        return transition

    async def half_open(self, token: str) -> Admission:
        """Open it and wait; the call with this token is the first probe."""
        self.now_ms += (await self.open()).open_ms
        admission = await self.allow(token)
        assert admission.verdict is Verdict.PROBE
        return admission
