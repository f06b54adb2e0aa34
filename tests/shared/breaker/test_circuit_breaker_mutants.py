"""A breaker with one rule taken out is caught: the comparison with the model can fail."""

import pytest

from langgraph_rq.shared.connections import scripts
from tests.models.circuit_breaker_machine import BreakerMachine
from tests.models.mutants import assert_caught

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # some rules are found late

MUTANTS = {
    "a report of an older generation votes": (
        "report",
        "local votes = admitted_under == generation",
        "local votes = true",
    ),
    "a dead prober keeps its slot": ("allow", "redis.call('ZREMRANGEBYSCORE', probes_key, '-inf', now_ms)", ""),
    "a probe fails after its lease": ("report", "elseif lease_ends_at > now_ms then", "else"),
    "an answer after the lease is lost": (
        "report",
        "if outcome == 'ok' or outcome == 'ignore' then\n      if redis",
        "if lease_ends_at > now_ms and (outcome == 'ok' or outcome == 'ignore') then\n      if redis",
    ),
    "an answer reported twice counts twice": ("report", "redis.call('HSETNX', key, 'good:' .. token, 1) == 1", "true"),
    "any number of probes": ("allow", "redis.call('ZCARD', probes_key) >= max_probes", "false"),
    "a cancelled probe keeps its slot": ("report", "redis.call('ZREM', probes_key, token)", ""),
    "the open time does not double": ("report", "open_ms * 2 ^ openings", "open_ms"),
    "the open time does not vary": ("report", "(1 + jitter * (2 * random - 1))", "1"),
    "a shorter pause shortens the cooldown": ("report", "and pause_ends_at > cooldown_ends_at then", "then"),
    "the cooldown has no cap": ("report", "math.min(pause_ms, max_cooldown_ms)", "pause_ms"),
    "the window does not count": ("report", "if failed / calls < failure_rate then", "if false then"),
    "the window never ends": ("report", "if tonumber(at) ~= bucket then", "if not at then"),
    "a success does not end the row of failures": ("report", "redis.call('HSET', key, 'failures', 0)", ""),
    "a new generation inherits the counts": ("report", "redis.call('DEL', key, probes_key)", ""),
    "reset lets calls in flight vote": ("reset", "tonumber(generation or 0) + 1", "0"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_breaker_with_one_rule_taken_out_is_caught(redis_url, mutant):
    verb, original, replacement = MUTANTS[mutant]
    assert_caught(
        redis_url, BreakerMachine, scripts.load_script(f"shared/breaker/{verb}"), original, replacement, examples=2_000
    )
