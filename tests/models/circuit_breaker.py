"""The circuit breaker in plain Python, without Redis: what the scripts must do, call by call, in the server's order."""

from dataclasses import dataclass, field
from hashlib import sha1
from math import floor

from langgraph_rq.shared.breaker.circuit_breaker import (
    Admission,
    BreakerLimits,
    BreakerState,
    BreakerStatus,
    Outcome,
    Transition,
    Verdict,
    Why,
)


@dataclass
class BreakerModel:
    name: str
    limits: BreakerLimits
    state: BreakerState = BreakerState.CLOSED
    why: Why | None = None
    generation: int = 0
    known: bool = False
    changed_at: int = 0
    openings: int = 0
    open_ends_at: int = 0
    cooldown_ends_at: int = 0
    failures: int = 0
    answered: set[str] = field(default_factory=set)
    """Tokens of probes that were answered, of the generation."""
    votes: list[tuple[int, bool]] = field(default_factory=list)
    """Time and failed, of the generation."""
    leases: dict[str, int] = field(default_factory=dict)
    """Token of a probe and the end of its lease."""

    def allow(self, token: str, now: int) -> Admission:
        before = self.state
        refused_until = max(self.open_ends_at, self.cooldown_ends_at)
        if now < refused_until:
            return Admission(Verdict.REJECT, self.generation, refused_until - now, before, before, self.why)
        if self.state is BreakerState.CLOSED:
            return Admission(Verdict.ALLOW, self.generation, 0, before, before, self.why)
        if self.state is BreakerState.OPEN:
            self._become(BreakerState.HALF_OPEN, now)
        live = self._live_leases(now)
        if token not in live and len(live) >= self.limits.probes:
            wait_ms = min(min(live.values()) - now, ms(self.limits.half_open_wait_s))
            return Admission(Verdict.REJECT, self.generation, wait_ms, before, self.state, self.why)
        self.leases = {token: now + ms(self.limits.probe_lease_s)} | live
        return Admission(Verdict.PROBE, self.generation, 0, before, self.state, self.why)

    def report(self, token: str, generation: int, outcome: Outcome, retry_after_ms: int, now: int) -> Transition:
        before, self.known = self.state, True
        if outcome is Outcome.RATE_LIMITED:
            pause_ms = min(retry_after_ms, ms(self.limits.max_cooldown_s))
            self.cooldown_ends_at = max(self.cooldown_ends_at, now + pause_ms)
        if generation == self.generation:
            if self.state is BreakerState.CLOSED:
                self._vote(outcome, now)
            elif self.state is BreakerState.HALF_OPEN:
                is_leased = token in self._live_leases(now)
                self.leases.pop(token, None)
                self._vote_of_probe(token, outcome, now, is_leased=is_leased)
        return Transition(before, self.state, self.generation, self.why, max(0, self.open_ends_at - now))

    def reset(self, now: int) -> Transition:
        before = self.state
        if self.known:
            self.why, self.openings, self.cooldown_ends_at = None, 0, 0
            self._become(BreakerState.CLOSED, now)
        return Transition(before, self.state, self.generation, None, 0)

    def status(self, now: int) -> BreakerStatus | None:
        if not self.known:
            return None
        votes = self._window(now)
        return BreakerStatus(
            name=self.name,
            state=self.state,
            why=self.why,
            generation=self.generation,
            changed_at=self.changed_at,
            open_ends_at=self.open_ends_at,
            cooldown_ends_at=self.cooldown_ends_at,
            failures=self.failures,
            window_calls=len(votes),
            window_failed=sum(votes),
            probes_in_flight=len(self._live_leases(now)),
        )

    def _vote(self, outcome: Outcome, now: int) -> None:
        if outcome is Outcome.QUOTA:
            self._open(Why.QUOTA, now)
        if outcome not in {Outcome.OK, Outcome.FAIL}:
            return
        failed = outcome is Outcome.FAIL
        self.failures = self.failures + 1 if failed else 0
        self.votes.append((now, failed))
        window = self._window(now) or [failed]
        if failed and sum(window) / len(window) >= self.limits.failure_rate:
            if self.failures >= self.limits.failure_threshold:
                self._open(Why.FAILURES, now)
            elif self.limits.window_s and len(window) >= self.limits.min_calls:
                self._open(Why.FAILURE_RATE, now)

    def _vote_of_probe(self, token: str, outcome: Outcome, now: int, *, is_leased: bool) -> None:
        if outcome is Outcome.QUOTA and is_leased:
            self._open(Why.QUOTA, now)
        elif outcome is Outcome.FAIL and is_leased:
            self._open(Why.PROBE_FAILED, now)
        elif outcome in {Outcome.OK, Outcome.IGNORE}:
            self.answered.add(token)
            if len(self.answered) >= self.limits.successes_to_close:
                self.why, self.openings = None, 0
                self._become(BreakerState.CLOSED, now)

    def _open(self, why: Why, now: int) -> None:
        base_ms = min(ms(self.limits.open_s) * 2**self.openings, ms(self.limits.max_open_s))
        digest = sha1(f"{self.name}:{self.generation}".encode(), usedforsecurity=False).hexdigest()
        random = int(digest[:8], 16) / 0xFFFFFFFF
        self.why = why
        self.openings += 1
        self._become(BreakerState.OPEN, now)
        self.open_ends_at = now + floor(base_ms * (1 + self.limits.jitter * (2 * random - 1)))

    def _become(self, state: BreakerState, now: int) -> None:
        self.state, self.generation, self.changed_at = state, self.generation + 1, now
        self.open_ends_at = self.failures = 0
        self.votes, self.leases, self.answered = [], {}, set()

    def _window(self, now: int) -> list[bool]:
        if not self.limits.window_s:
            return []
        step = ms(self.limits.window_s)
        return [failed for at, failed in self.votes if at * 10 // step > now * 10 // step - 10]

    def _live_leases(self, now: int) -> dict[str, int]:
        return {token: ends_at for token, ends_at in self.leases.items() if ends_at > now}


def ms(seconds: float) -> int:
    return round(seconds * 1000)
