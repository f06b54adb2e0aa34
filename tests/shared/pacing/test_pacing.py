"""Pacing: how many calls go out, and when those that are too early come back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.pacing.pacing import BURST_MS, LONGEST_WAIT_MS, Pace, pace_call

NOW_MS = 1_800_000_000_000
MINUTE_MS = 60_000


def ask(redis_client, pace, at_ms, tokens=1, name="x"):
    return run_sync(redis_client, pace_call(name, pace, tokens, now_ms=NOW_MS + at_ms))


def test_a_seconds_worth_goes_out_at_once_and_the_rest_at_the_rate(redis_client):
    pace = Pace(calls_per_minute=600)
    waits = [ask(redis_client, pace, 0) for _ in range(14)]
    assert waits == [0] * 11 + [100, 200, 300]
    assert [ask(redis_client, pace, at_ms) for at_ms in (100, 200, 300)] == [0, 0, 0]


def test_waiting_callers_come_back_one_by_one(redis_client):
    pace, waiting, granted = Pace(calls_per_minute=600), dict.fromkeys(range(100), 0), []
    asks = 0
    while waiting:
        caller = min(waiting, key=waiting.__getitem__)
        at_ms, asks = waiting[caller], asks + 1
        wait_ms = ask(redis_client, pace, at_ms)
        if wait_ms:
            waiting[caller] = at_ms + wait_ms
        else:
            granted.append(at_ms)
            del waiting[caller]
    assert max(granted) <= 9_000
    assert asks <= 200


def test_large_call_goes_out_and_makes_the_next_ones_wait(redis_client):
    pace = Pace(tokens_per_minute=60_000)
    assert ask(redis_client, pace, 0, tokens=30_000) == 0
    assert ask(redis_client, pace, 0, tokens=1) == 30_000 - BURST_MS
    assert ask(redis_client, pace, 29_000, tokens=1) == 0


def test_tighter_of_two_rates_decides(redis_client):
    pace = Pace(calls_per_minute=6_000, tokens_per_minute=60_000)
    assert [ask(redis_client, pace, 0, tokens=2_000) for _ in range(2)] == [0, 1_000]


def test_models_are_paced_apart_and_their_keys_are_forgotten(redis_client):
    pace = Pace(calls_per_minute=1)
    assert [ask(redis_client, pace, 0, name=name) for name in ("a", "b")] == [0, 0]
    assert 0 < redis_client.pttl("agent:pace:a") <= 2 * MINUTE_MS


def test_no_wait_is_longer_than_a_minute(redis_client):
    pace = Pace(calls_per_minute=1)
    assert max(ask(redis_client, pace, 0) for _ in range(20)) == LONGEST_WAIT_MS


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_rate_that_cannot_work_is_refused(value):
    with pytest.raises(ValueError, match="expected calls_per_minute to be a whole number of 1 or more"):
        Pace(calls_per_minute=value)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.one_of(st.none(), st.integers(1, 6_000)),
    tokens=st.one_of(st.none(), st.integers(1, 100_000)),
    asks=st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 500)), min_size=1, max_size=30),
)
def test_no_span_of_time_lets_more_pass_than_its_rate_and_a_burst(redis_client, calls, tokens, asks):
    redis_client.delete("agent:pace:x")
    pace = Pace(calls, tokens)
    now_ms, passed = 0, []
    for pause_ms, size in asks:
        now_ms += pause_ms
        if (calls or tokens) and ask(redis_client, pace, now_ms, size) == 0:
            passed.append((now_ms, size))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span_ms = passed[last][0] - passed[first][0] + BURST_MS
            before = passed[first:last]  # the last one may be of any size
            if calls:
                assert len(before) <= span_ms * calls / MINUTE_MS + 0.01
            if tokens:
                assert sum(size for _, size in before) <= span_ms * tokens / MINUTE_MS + 0.01
