"""Random histories of a breaker: after every step Redis and the plain-Python model must agree."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis import Redis

from langgraph_rq.shared.breaker.circuit_breaker import (
    Admission,
    BreakerLimits,
    BreakerState,
    Outcome,
    allow_call,
    read_call,
    report_call,
    reset_call,
)
from langgraph_rq.shared.connections.scripts import Call, Script, run_sync
from tests.models.circuit_breaker import BreakerModel

LIMITS = st.builds(
    BreakerLimits,
    failure_threshold=st.integers(1, 4),
    window_s=st.sampled_from([0, 10, 0.7]),
    min_calls=st.integers(1, 6),
    failure_rate=st.sampled_from([0.3, 0.5, 1]),
    open_s=st.just(5),
    max_open_s=st.sampled_from([5, 12, 300]),
    jitter=st.sampled_from([0, 0.1, 0.9]),
    probes=st.integers(1, 3),
    successes_to_close=st.integers(1, 3),
    probe_lease_s=st.just(3),
    max_cooldown_s=st.just(6),
)


class BreakerMachine(RuleBasedStateMachine):
    """`scripts` replaces scripts by mutants, by name."""

    def __init__(self, redis: Redis, scripts: Mapping[str, Script]) -> None:
        super().__init__()
        self.redis, self.scripts = redis, scripts
        self.tokens = count()
        self.now = 1_800_000_000_000
        self.admissions: list[tuple[str, Admission]] = []
        self.transitions = self.resets = 0

    @initialize(name=st.sampled_from(["a", "b", "c"]), limits=LIMITS)
    def start_with_an_unknown_breaker(self, name: str, limits: BreakerLimits) -> None:
        self.limits, self.model = limits, BreakerModel(name, limits)
        self.redis.delete(*read_call(name, limits).keys)

    @rule()
    def ask(self) -> None:
        self._allow(f"call-{next(self.tokens)}")

    @precondition(lambda self: self.admissions)
    @rule(data=st.data())
    def ask_again_with_a_known_token(self, data: st.DataObject) -> None:
        self._allow(self._some_admission(data)[0])

    @precondition(lambda self: self.admissions)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), retry_after_s=st.integers(0, 8))
    def report_in_any_order_and_more_than_once(self, data: st.DataObject, outcome: Outcome, retry_after_s: int) -> None:
        token, admission = self._some_admission(data)
        self._report(token, admission.generation, outcome, retry_after_s * 1000)

    @rule(outcomes=st.lists(st.sampled_from([Outcome.OK, Outcome.FAIL, Outcome.FAIL]), min_size=1, max_size=6))
    def call_one_after_another(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            token = f"call-{next(self.tokens)}"
            admission = self._allow(token)
            if admission.admitted:
                self._report(token, admission.generation, outcome, 0)

    @precondition(lambda self: self.model.state is not BreakerState.CLOSED)
    @rule(askers=st.integers(1, 4))
    def ask_when_nothing_but_probes_is_in_the_way(self, askers: int) -> None:
        self.now = max(self.now, self.model.open_ends_at, self.model.cooldown_ends_at)
        for _ in range(askers):
            self.ask()

    @precondition(lambda self: self.admissions)
    @rule(pauses_s=st.lists(st.integers(1, 8), min_size=1, max_size=3))
    def provider_asks_for_pauses(self, pauses_s: list[int]) -> None:
        token, admission = self.admissions[-1]
        for pause_s in pauses_s:
            self._report(token, admission.generation, Outcome.RATE_LIMITED, pause_s * 1000)

    @rule(ms=st.sampled_from([1, 69, 70, 999, 1000, 2999, 3000, 9000, 10_000, 60_000]))
    def wait(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.limits.window_s and self.model.state is BreakerState.CLOSED)
    @rule(windows=st.integers(1, 3))
    def call_again_when_the_window_has_ended(self, windows: int) -> None:
        self.call_one_after_another([Outcome.OK])
        self.now += windows * round(self.limits.window_s * 1000)
        self.call_one_after_another([Outcome.OK])

    @rule(ms=st.sampled_from([-1, 0]))
    def wait_for_the_next_deadline(self, ms: int) -> None:
        deadlines = [self.model.open_ends_at, self.model.cooldown_ends_at, *self.model.leases.values()]
        self.now = min((at + ms for at in deadlines if at > self.now), default=self.now)

    @rule()
    def reset(self) -> None:
        self.resets += self.model.known
        answer = self._run(reset_call(self.model.name, now_ms=self.now))
        assert answer == self.model.reset(self.now)

    @invariant()
    def a_reader_sees_what_the_model_holds(self) -> None:
        assert self._run(read_call(self.model.name, self.limits, now_ms=self.now)) == self.model.status(self.now)

    @invariant()
    def each_transition_was_seen_by_one_caller(self) -> None:
        assert self.transitions + self.resets == self.model.generation

    def _some_admission(self, data: st.DataObject) -> tuple[str, Admission]:
        calls_ago = data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 8]), label="calls ago")
        return self.admissions[max(-1 - calls_ago, -len(self.admissions))]

    def _allow(self, token: str) -> Admission:
        answer = self._run(allow_call(self.model.name, token, self.limits, now_ms=self.now))
        assert answer == self.model.allow(token, self.now)
        self.transitions += answer.transition.changed
        if answer.admitted:
            self.admissions.append((token, answer))
        return answer

    def _report(self, token: str, generation: int, outcome: Outcome, retry_after_ms: int) -> None:
        report = (self.model.name, token, generation, outcome, self.limits)
        answer = self._run(report_call(*report, retry_after_ms=retry_after_ms, now_ms=self.now))
        assert answer == self.model.report(token, generation, outcome, retry_after_ms, self.now)
        self.transitions += answer.changed

    def _run(self, call: Call[Any]) -> Any:
        return run_sync(self.redis, call._replace(script=self.scripts.get(call.script.name, call.script)))
