"""Exponential back-off: pure numbers, so no server and no waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_rq.shared.backoff import Backoff


def test_pause_doubles_with_each_failure_up_to_the_cap():
    backoff = Backoff(0.5, 3.0, jitter=0)
    assert [backoff.pause_s(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(failures=st.integers(1, 10**6), jitter=st.floats(0, 0.99))
def test_pause_stays_within_the_jitter_however_many_failures_there_were(failures, jitter):
    exact = Backoff(0.05, 2.0, jitter=0).pause_s(failures)
    assert exact * (1 - jitter) <= Backoff(0.05, 2.0, jitter).pause_s(failures) <= exact * (1 + jitter)


def test_pauses_of_two_clients_differ():
    backoff = Backoff(1.0, 60.0, jitter=0.5)
    assert len({backoff.pause_s(1) for _ in range(20)}) > 1


@pytest.mark.parametrize(("first_s", "longest_s", "jitter"), [(0, 1, 0), (2, 1, 0), (1, 2, 1), (1, 2, -0.1)])
def test_impossible_numbers_are_refused(first_s, longest_s, jitter):
    with pytest.raises(ValueError, match="expected"):
        Backoff(first_s, longest_s, jitter)
