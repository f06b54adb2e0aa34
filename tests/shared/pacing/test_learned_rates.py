"""Rates in the headers of answers: what is read, what is kept, and what a setting changes."""

import pytest

from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.pacing import learned_rates
from langgraph_rq.shared.pacing.learned_rates import combined, learn_call, learned_call, read_headers
from langgraph_rq.shared.pacing.pacing import Pace

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("headers", "pace"),
    [
        ({"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000"}, Pace(500, 30_000)),
        ({"x-ratelimit-limit-tokens": "30000"}, Pace(None, 30_000)),
        ({"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-tokens-limit": "90"}, Pace(50, 90)),
        ({"x-ratelimit-limit-requests": "0"}, None),
        ({"x-ratelimit-limit-requests": "-1", "x-ratelimit-limit-tokens": "1e9"}, None),
        ({"x-ratelimit-limit-requests": "9" * 400}, None),
        ({"x-ratelimit-limit-requests": "\u0663"}, None),
        ({"x-ratelimit-limit-requests": ""}, None),
        ({"x-ratelimit-limit": "10"}, None),
        ({}, None),
    ],
)
def test_rates_are_read_from_known_headers(headers, pace):
    assert read_headers(headers) == pace


def test_rates_are_kept_for_a_day(redis_client):
    assert run_sync(redis_client, learned_call()) == {}
    assert run_sync(redis_client, learn_call("openai/a", Pace(500, None)))
    assert run_sync(redis_client, learn_call("openai/b", Pace(None, 7)))
    assert run_sync(redis_client, learn_call("openai/a", Pace(600, 1)))
    assert run_sync(redis_client, learned_call()) == {"openai/a": Pace(600, 1), "openai/b": Pace(None, 7)}
    assert 0 < redis_client.pttl("agent:pacing") <= DAY_MS


def test_only_so_many_models_are_kept(redis_client, monkeypatch):
    monkeypatch.setattr(learned_rates, "MOST_MODELS", 2)
    assert [run_sync(redis_client, learn_call(name, Pace(1))) for name in ("a", "b", "c", "a")] == [1, 1, 0, 1]
    assert set(run_sync(redis_client, learned_call())) == {"a", "b"}


def test_rates_that_cannot_be_read_are_none(redis_client):
    redis_client.hset("agent:pacing", mapping={"a": "many", "b": "-1 5", "c": "", "d": "0 0"})
    assert run_sync(redis_client, learned_call()) == {"b": Pace(None, 5)}


@pytest.mark.parametrize(
    ("given", "learned", "obeyed"),
    [
        (None, None, None),
        (Pace(5), None, Pace(5)),
        (None, Pace(None, 7), Pace(None, 7)),
        (Pace(5), Pace(6, 7), Pace(5, 7)),
    ],
)
def test_a_setting_goes_before_what_was_learned(given, learned, obeyed):
    assert combined(given, learned) == obeyed
