"""What callers of the circuit breaker can rely on, one behaviour per test."""

import asyncio
import time
from random import Random

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import (
    INDEX_KEY,
    KEEP_MS,
    Admission,
    BreakerLimits,
    BreakerState,
    Outcome,
    Transition,
    Verdict,
    Why,
    allow_call,
    outcome_of,
    read_call,
    report_call,
    reset_call,
)
from langgraph_rq.shared.connections.scripts import run, run_many
from tests.breakers import OPEN_MS, STEADY, Breakers, Caller

DAY_MS = 24 * 60 * 60 * 1000
CLASSIC = BreakerLimits(jitter=0, window_s=0)


async def test_calls_to_an_unknown_provider_are_allowed_and_leave_no_trace(aredis):
    assert await Breakers(aredis, STEADY).allow("x", "a") == Admission(
        Verdict.ALLOW, generation=0, wait_ms=0, before=BreakerState.CLOSED, state=BreakerState.CLOSED, why=None
    )
    assert await aredis.keys() == []


async def test_five_failures_in_a_row_open_it(aredis):
    caller = Caller(aredis, STEADY)
    assert not (await caller.call(*[Outcome.FAIL] * 4)).changed
    assert await caller.call(Outcome.FAIL) == Transition(
        BreakerState.CLOSED, BreakerState.OPEN, 1, Why.FAILURES, OPEN_MS
    )


async def test_failures_in_a_row_do_not_open_it_while_most_of_the_window_succeeded(aredis):
    caller = Caller(aredis, STEADY)
    assert not (await caller.call(*[Outcome.OK] * 6, *[Outcome.FAIL] * 5)).changed
    assert (await caller.call(Outcome.FAIL)).why is Why.FAILURES


async def test_window_forgets_what_is_older_than_its_length(aredis):
    caller = Caller(aredis, STEADY)
    await caller.call(*[Outcome.OK] * 50)
    caller.now_ms += 10_000
    assert (await caller.call(*[Outcome.FAIL] * 5)).changed


async def test_failed_half_of_twenty_calls_opens_it_without_a_row(aredis):
    caller = Caller(aredis, STEADY)
    assert not (await caller.call(*[Outcome.OK, Outcome.FAIL] * 9, Outcome.OK)).changed
    assert (await caller.call(Outcome.FAIL)).why is Why.FAILURE_RATE


async def test_success_never_opens_it(aredis):
    caller = Caller(aredis, STEADY)
    assert not (await caller.call(*[Outcome.FAIL, Outcome.OK] * 10)).changed


async def test_without_a_window_only_failures_in_a_row_count(aredis):
    caller = Caller(aredis, CLASSIC)
    assert not (await caller.call(*[*[Outcome.FAIL] * 4, Outcome.OK] * 20)).changed
    assert not (await caller.call(*[Outcome.FAIL] * 4)).changed
    assert (await caller.call(Outcome.FAIL)).why is Why.FAILURES


async def test_one_error_in_ten_never_opens_it(aredis):
    random, limits = Random(20261123), BreakerLimits()
    outcomes = [Outcome.FAIL if random.random() < 0.1 else Outcome.OK for _ in range(4000)]
    for first in range(0, 4000, 200):
        calls = []
        for i, outcome in enumerate(outcomes[first : first + 200], first):
            now_ms = 1_800_000_000_000 + 10 * i
            calls += [
                allow_call("x", f"{i}", limits, now_ms=now_ms),
                report_call("x", f"{i}", 0, outcome, limits, now_ms=now_ms),
            ]
        answers = await run_many(aredis, calls)
        assert all(admission.verdict is Verdict.ALLOW for admission in answers[::2])
        assert not any(transition.changed for transition in answers[1::2])
    assert outcomes.count(Outcome.FAIL) > 350


async def test_open_breaker_refuses_and_says_how_long(aredis):
    caller = Caller(aredis, STEADY)
    await caller.open()
    caller.now_ms += OPEN_MS - 1
    assert await caller.allow("a") == Admission(
        Verdict.REJECT, 1, 1, BreakerState.OPEN, BreakerState.OPEN, Why.FAILURES
    )


async def test_closed_again_it_starts_with_the_first_open_time(aredis):
    caller = Caller(aredis, STEADY)
    caller.now_ms += (await caller.open()).open_ms
    caller.now_ms += (await caller.call(Outcome.FAIL)).open_ms
    assert (await caller.call(Outcome.OK)).after is BreakerState.CLOSED
    assert (await caller.open()).open_ms == OPEN_MS


@pytest.mark.parametrize("outcome", [Outcome.IGNORE, Outcome.CANCEL, Outcome.RATE_LIMITED])
async def test_call_without_a_vote_neither_counts_nor_ends_a_row_of_failures(aredis, outcome):
    caller = Caller(aredis, STEADY)
    await caller.call(*[outcome] * 20, *[Outcome.FAIL] * 4, outcome)
    assert (await caller.call(Outcome.FAIL)).changed


async def test_report_of_an_older_generation_has_no_vote(aredis):
    caller = Caller(aredis, CLASSIC)
    slow = [await caller.allow(f"slow-{i}") for i in range(10)]
    probe = await caller.half_open("probe")
    await caller.report("probe", probe.generation, Outcome.OK)
    for i, admission in enumerate(slow):
        assert not (await caller.report(f"slow-{i}", admission.generation, Outcome.FAIL)).changed
        assert not (await caller.report(f"slow-{i}", admission.generation, Outcome.QUOTA)).changed


async def test_rate_limited_provider_is_left_alone_by_everybody_and_stays_closed(aredis):
    caller = Caller(aredis, STEADY)
    assert not (await caller.report("a", 0, Outcome.RATE_LIMITED, retry_after_ms=7000)).changed
    caller.now_ms += 6999
    assert await caller.allow("b") == Admission(
        Verdict.REJECT, 0, 1, BreakerState.CLOSED, BreakerState.CLOSED, why=None
    )
    caller.now_ms += 1
    assert (await caller.allow("b")).verdict is Verdict.ALLOW


async def test_cooldown_is_only_ever_extended_and_has_a_limit(aredis):
    caller = Caller(aredis, STEADY)
    await caller.report("a", 0, Outcome.RATE_LIMITED, retry_after_ms=7000)
    await caller.report("b", 0, Outcome.RATE_LIMITED, retry_after_ms=3000)
    assert (await caller.allow("c")).wait_ms == 7000
    await caller.report("a", 0, Outcome.RATE_LIMITED, retry_after_ms=DAY_MS)
    assert (await caller.allow("c")).wait_ms == 120_000


async def test_late_rate_limit_still_cools_down(aredis):
    caller = Caller(aredis, STEADY)
    await caller.open()
    await caller.report("late", 0, Outcome.RATE_LIMITED, retry_after_ms=40_000)
    assert (await caller.allow("a")).wait_ms == 40_000


async def test_spent_quota_opens_it_at_once(aredis):
    assert await Caller(aredis, STEADY).call(Outcome.QUOTA) == Transition(
        BreakerState.CLOSED, BreakerState.OPEN, 1, Why.QUOTA, OPEN_MS
    )


async def test_one_of_many_concurrent_reporters_sees_the_opening(aredis):
    breaker = Breakers(aredis, BreakerLimits())
    seen = await asyncio.gather(*(breaker.report("x", f"call-{i}", 0, Outcome.FAIL) for i in range(50)))
    assert [transition.changed for transition in seen].count(True) == 1


async def test_each_transition_is_seen_by_exactly_one_concurrent_caller(aredis):
    limits = BreakerLimits(failure_threshold=2, window_s=0, open_s=0.001, max_open_s=0.001, jitter=0)
    breaker, random, transitions = Breakers(aredis, limits), Random(20261123), []

    async def keep_calling(caller):
        for i in range(30):
            token = f"{caller}-{i}"
            admission = await breaker.allow("x", token)
            transitions.append(admission.transition)
            if admission.admitted:
                outcome = random.choice([Outcome.OK, Outcome.FAIL])
                transitions.append(await breaker.report("x", token, admission.generation, outcome))

    await asyncio.gather(*map(keep_calling, range(20)))
    [status] = await breaker.states()
    seen = sorted(transition.generation for transition in transitions if transition.changed)
    assert seen == list(range(1, status.generation + 1))
    assert len(seen) > 20


async def test_asking_and_reporting_send_nothing_of_the_callers_clock(aredis, monkeypatch):
    def calls():
        return [
            call.command
            for call in (
                allow_call("x", "a", STEADY),
                report_call("x", "a", 0, Outcome.FAIL, STEADY),
                reset_call("x"),
                read_call("x", STEADY),
            )
        ]

    right_time, right = time.time, calls()
    monkeypatch.setattr(time, "time", lambda: right_time() + 3600)
    monkeypatch.setattr(time, "time_ns", lambda: int((right_time() + 3600) * 1e9))
    assert calls() == right
    breaker = Breakers(aredis, STEADY)
    assert (await breaker.report("x", "a", 0, Outcome.QUOTA)).open_ms == OPEN_MS
    monkeypatch.undo()
    assert OPEN_MS - 1000 < (await breaker.allow("x", "b")).wait_ms <= OPEN_MS


async def test_many_calls_share_a_round_trip(aredis):
    calls = [
        allow_call("x", "a", STEADY),
        report_call("x", "a", 0, Outcome.QUOTA, STEADY),
        allow_call("x", "b", STEADY),
    ]
    allowed, opened, refused = await run_many(aredis, calls)
    assert (allowed.admitted, opened.changed, refused.admitted) == (True, True, False)


async def test_breakers_of_different_names_do_not_touch_each_other(aredis):
    await Caller(aredis, STEADY, name="x").half_open("a")
    assert (await Caller(aredis, STEADY, name="probes:x").allow("a")).verdict is Verdict.ALLOW


async def test_reset_closes_it_and_calls_in_flight_have_no_vote(aredis):
    caller, breaker = Caller(aredis, CLASSIC), Breakers(aredis, CLASSIC)
    probe = await caller.half_open("probe")
    assert await breaker.reset("x") == Transition(BreakerState.HALF_OPEN, BreakerState.CLOSED, 3, why=None, open_ms=0)
    assert not (await caller.report("probe", probe.generation, Outcome.QUOTA)).changed
    assert (await caller.allow("a")).verdict is Verdict.ALLOW
    assert (await caller.open()).open_ms == OPEN_MS


async def test_reset_ends_a_cooldown(aredis):
    breaker = Breakers(aredis, STEADY)
    await breaker.report("x", "a", 0, Outcome.RATE_LIMITED, retry_after_ms=60_000)
    await breaker.reset("x")
    assert (await breaker.allow("x", "b")).admitted


async def test_reset_of_an_unknown_breaker_leaves_it_unknown(aredis):
    breaker = Breakers(aredis, STEADY)
    assert not (await breaker.reset("x")).changed
    assert await breaker.states() == []
    assert await aredis.keys() == []


async def test_states_tell_why_and_until_when_by_name(aredis):
    breaker = Breakers(aredis, STEADY)
    await breaker.report("openai/gpt-4o", "a", 0, Outcome.FAIL)
    await breaker.report("openai/gpt-4o", "b", 0, Outcome.RATE_LIMITED, retry_after_ms=5000)
    await breaker.report("azure/gpt-4o", "a", 0, Outcome.QUOTA)
    azure, openai = await breaker.states()
    assert (azure.name, azure.state, azure.why, azure.generation) == ("azure/gpt-4o", BreakerState.OPEN, Why.QUOTA, 1)
    assert azure.open_ends_at - azure.changed_at == OPEN_MS
    assert (openai.name, openai.state, openai.why, openai.failures) == ("openai/gpt-4o", BreakerState.CLOSED, None, 1)
    assert (openai.window_calls, openai.window_failed) == (1, 1)
    assert openai.cooldown_ends_at > azure.changed_at


async def test_reading_changes_nothing(aredis):
    caller = Caller(aredis, STEADY)
    await caller.open()
    caller.now_ms += OPEN_MS
    before = await aredis.hgetall("agent:breaker:x")
    assert (await run(aredis, read_call("x", STEADY, now_ms=caller.now_ms))).state is BreakerState.OPEN
    assert await aredis.hgetall("agent:breaker:x") == before


async def test_every_key_is_forgotten_a_day_after_its_last_use(aredis):
    caller = Caller(aredis, STEADY)
    await caller.half_open("probe")
    ttls_ms = {key: await aredis.pttl(key) for key in await aredis.keys()}
    assert set(ttls_ms) == {b"agent:breaker:x", b"agent:breaker_probes:x", INDEX_KEY.encode()}
    assert all(KEEP_MS - 1000 < ttl_ms < KEEP_MS + 70_000 for ttl_ms in ttls_ms.values())


async def test_open_time_longer_than_a_day_is_not_forgotten(aredis):
    breaker = Breakers(aredis, BreakerLimits(open_s=864_000, max_open_s=864_000, jitter=0))
    await breaker.report("x", "a", 0, Outcome.QUOTA)
    await breaker.report("y", "a", 0, Outcome.OK)
    assert await aredis.pttl("agent:breaker:x") > 10 * DAY_MS
    assert await aredis.pttl(INDEX_KEY) > 10 * DAY_MS


async def test_forgotten_breakers_leave_the_index(aredis):
    caller = Caller(aredis, STEADY, name="old")
    await caller.call(Outcome.OK)
    await aredis.delete("agent:breaker:old")
    assert await Breakers(aredis, STEADY).states() == []
    await Caller(aredis, STEADY, name="new", now_ms=caller.now_ms + 2 * DAY_MS).call(Outcome.OK)
    assert await aredis.zrange(INDEX_KEY, 0, -1) == [b"new"]


async def test_hash_of_a_busy_breaker_stays_small(aredis):
    caller = Caller(aredis, STEADY)
    for _ in range(300):
        await caller.call(Outcome.OK, Outcome.OK, Outcome.FAIL)
        caller.now_ms += 777
    assert await aredis.hlen("agent:breaker:x") <= 20


async def test_breaker_works_when_the_memory_of_redis_is_full(aredis):
    await aredis.config_set("maxmemory", 1)
    try:
        await Caller(aredis, STEADY).half_open("probe")
        assert (await Breakers(aredis, STEADY).reset("x")).changed
    finally:
        await aredis.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (200, None, Outcome.OK),
        (400, None, Outcome.IGNORE),
        (401, "invalid_api_key", Outcome.IGNORE),
        (402, None, Outcome.QUOTA),
        (404, None, Outcome.IGNORE),
        (408, None, Outcome.FAIL),
        (413, None, Outcome.IGNORE),
        (422, None, Outcome.IGNORE),
        (429, "rate_limit_exceeded", Outcome.RATE_LIMITED),
        (429, "insufficient_quota", Outcome.QUOTA),
        (500, None, Outcome.FAIL),
        (503, None, Outcome.FAIL),
        (529, "overloaded_error", Outcome.FAIL),
    ],
)
def test_http_answers_are_classed_by_who_is_at_fault(status, code, outcome):
    assert outcome_of(status, code) is outcome


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"failure_threshold": 0}, "expected failure_threshold to be a whole number from 1 to 1,000,000, got: 0"),
        ({"probes": 1.5}, "expected probes to be a whole number from 1 to 1,000,000, got: 1.5"),
        ({"failure_rate": 50}, "expected failure_rate to be a number from 0.001 to 1, got: 50"),
        ({"open_s": float("nan")}, "expected open_s to be a number from 0.001 to 31,536,000, got: nan"),
        ({"window_s": -1}, "expected window_s to be 0 or a number from 0.001 to 31,536,000, got: -1"),
        ({"open_s": 400}, "expected max_open_s to be at least open_s (400), got: 300.0"),
        ({"probe_lease_s": "65"}, "expected probe_lease_s to be a number from 0.001 to 31,536,000, got: '65'"),
    ],
)
def test_limits_that_cannot_work_are_refused_by_name(limits, message):
    with pytest.raises(ValueError, match=r"^expected") as refused:
        BreakerLimits(**limits)
    assert str(refused.value) == message
