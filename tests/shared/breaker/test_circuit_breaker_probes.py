"""Half open: which calls are probes, and how a probe ends."""

import asyncio

from langgraph_rq.shared.breaker.circuit_breaker import (
    Admission,
    BreakerLimits,
    BreakerState,
    Outcome,
    Transition,
    Verdict,
    Why,
)
from tests.breakers import OPEN_MS, STEADY, Breakers, Caller


async def test_first_call_after_the_open_time_is_a_probe_and_sees_the_transition(aredis):
    caller = Caller(aredis, STEADY)
    await caller.open()
    caller.now_ms += OPEN_MS
    admission = await caller.allow("a")
    assert admission == Admission(Verdict.PROBE, 2, 0, BreakerState.OPEN, BreakerState.HALF_OPEN, Why.FAILURES)
    assert admission.transition.changed
    assert not (await caller.allow("b")).transition.changed


async def test_good_probe_closes_it(aredis):
    caller = Caller(aredis, STEADY)
    probe = await caller.half_open("probe")
    closed = await caller.report("probe", probe.generation, Outcome.OK)
    assert closed == Transition(BreakerState.HALF_OPEN, BreakerState.CLOSED, 3, why=None, open_ms=0)
    assert (await caller.allow("a")).verdict is Verdict.ALLOW


async def test_each_failed_probe_doubles_the_open_time_up_to_its_limit(aredis):
    caller = Caller(aredis, STEADY)
    transition, open_times_s = await caller.open(), []
    for _ in range(6):
        open_times_s.append(transition.open_ms / 1000)
        caller.now_ms += transition.open_ms
        transition = await caller.call(Outcome.FAIL)
        assert transition.why is Why.PROBE_FAILED
    assert open_times_s == [30, 60, 120, 240, 300, 300]


async def test_breakers_that_opened_together_probe_apart(aredis):
    waits_ms = [(await Caller(aredis, BreakerLimits(), name=f"model-{i}").open()).open_ms for i in range(20)]
    assert len(set(waits_ms)) == 20
    assert all(27_000 <= wait_ms <= 33_000 for wait_ms in waits_ms)
    assert max(waits_ms) - min(waits_ms) > 3000


async def test_half_open_breaker_admits_one_of_a_hundred_concurrent_askers(aredis):
    breaker = Breakers(aredis, BreakerLimits(open_s=0.001))
    await breaker.report("x", "a", 0, Outcome.QUOTA)
    admissions = await asyncio.gather(*(breaker.allow("x", f"asker-{i}") for i in range(100)))
    assert [admission.admitted for admission in admissions].count(True) == 1
    assert [admission.transition.changed for admission in admissions].count(True) == 1


async def test_who_is_refused_while_half_open_asks_again_within_a_second(aredis):
    caller = Caller(aredis, STEADY)
    await caller.half_open("probe")
    assert (await caller.allow("a")).wait_ms == 1000
    caller.now_ms += 64_900
    assert (await caller.allow("a")).wait_ms == 100


async def test_dead_prober_is_replaced_when_its_lease_ends(aredis):
    caller = Caller(aredis, STEADY)
    await caller.half_open("dead")
    caller.now_ms += 64_999
    assert (await caller.allow("next")).verdict is Verdict.REJECT
    caller.now_ms += 1
    assert (await caller.allow("next")).verdict is Verdict.PROBE


async def test_probe_that_fails_after_its_lease_has_no_vote(aredis):
    caller = Caller(aredis, STEADY)
    late = await caller.half_open("late")
    caller.now_ms += 65_000
    assert not (await caller.report("late", late.generation, Outcome.FAIL)).changed
    await caller.allow("next")
    assert not (await caller.report("late", late.generation, Outcome.FAIL)).changed


async def test_probe_that_is_answered_after_its_lease_closes_it(aredis):
    caller = Caller(aredis, STEADY)
    late = await caller.half_open("late")
    caller.now_ms += 65_000
    await caller.allow("next")
    assert (await caller.report("late", late.generation, Outcome.OK)).after is BreakerState.CLOSED


async def test_probe_that_is_answered_after_its_lease_counts_once(aredis):
    caller = Caller(aredis, BreakerLimits(successes_to_close=2))
    late = await caller.half_open("late")
    caller.now_ms += 65_000
    for _ in range(3):
        assert not (await caller.report("late", late.generation, Outcome.OK)).changed
    next_one = await caller.allow("next")
    assert (await caller.report("next", next_one.generation, Outcome.OK)).after is BreakerState.CLOSED


async def test_probe_that_lost_its_answer_gets_it_again(aredis):
    caller = Caller(aredis, STEADY)
    await caller.half_open("probe")
    caller.now_ms += 1000
    assert await caller.allow("probe") == Admission(
        Verdict.PROBE, 2, 0, BreakerState.HALF_OPEN, BreakerState.HALF_OPEN, Why.FAILURES
    )
    caller.now_ms += 64_000
    assert (await caller.allow("next")).verdict is Verdict.PROBE


async def test_several_probes_and_successes_may_be_asked_for(aredis):
    caller = Caller(aredis, BreakerLimits(probes=2, successes_to_close=3))
    generation = (await caller.half_open("a")).generation
    assert (await caller.allow("b")).admitted
    assert not (await caller.allow("c")).admitted
    assert not (await caller.report("a", generation, Outcome.OK)).changed
    assert (await caller.allow("c")).admitted
    assert not (await caller.report("b", generation, Outcome.OK)).changed
    assert (await caller.report("c", generation, Outcome.OK)).after is BreakerState.CLOSED


async def test_repeated_report_of_a_probe_counts_once(aredis):
    caller = Caller(aredis, BreakerLimits(successes_to_close=2))
    generation = (await caller.half_open("a")).generation
    for _ in range(3):
        assert not (await caller.report("a", generation, Outcome.OK)).changed


async def test_cancelled_probe_gives_its_slot_back(aredis):
    caller = Caller(aredis, STEADY)
    probe = await caller.half_open("probe")
    assert not (await caller.report("probe", probe.generation, Outcome.CANCEL)).changed
    assert (await caller.allow("next")).verdict is Verdict.PROBE


async def test_probe_with_a_bad_request_closes_it_since_it_was_answered(aredis):
    caller = Caller(aredis, STEADY)
    probe = await caller.half_open("probe")
    assert (await caller.report("probe", probe.generation, Outcome.IGNORE)).after is BreakerState.CLOSED


async def test_rate_limited_probe_gives_its_slot_back_after_the_cooldown(aredis):
    caller = Caller(aredis, STEADY)
    probe = await caller.half_open("probe")
    assert not (await caller.report("probe", probe.generation, Outcome.RATE_LIMITED, retry_after_ms=500)).changed
    assert (await caller.allow("next")).wait_ms == 500
    caller.now_ms += 500
    assert (await caller.allow("next")).verdict is Verdict.PROBE
