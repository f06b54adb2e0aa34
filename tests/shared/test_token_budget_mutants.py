"""A budget with one rule taken out is caught: the comparison with the model can fail."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from shared import lua, token_budget
from tests.models.token_budget_machine import BudgetMachine

SCRIPTS = {script.name: script for script in (token_budget.RESERVE, token_budget.SETTLE, token_budget.EXPIRE)}

MUTANTS = {
    "the limit check ignores held": ("reserve", "used + held + requested[unit]", "used + requested[unit]"),
    "the limit check ignores money": (
        "reserve",
        'for _, unit in ipairs({ "tokens", "cost" })',
        'for _, unit in ipairs({ "tokens" })',
    ),
    "a single request has no limit": ("reserve", "requested.tokens > limits.request", "false"),
    "a repeated reserve holds again": ("reserve", 'redis.call("EXISTS", reservation) == 0', "true"),
    "a settle of something unknown is booked": (
        "settle",
        'return { "unknown", 0, 0, {} }',
        "record = { state = 'held', day = '20000', tokens = 0, cost = 0, model = 'm', user = '@anonymous', task = '' }",
    ),
    "settle is not idempotent": ("settle", 'record.state == "settled"', "false"),
    "a late settle charges once more": (
        "settle",
        "used.tokens - record.tokens, cost = used.cost - record.cost }\n  book",
        "used.tokens, cost = used.cost }\n  book",
    ),
    "a settled reservation stays live": ("settle", 'redis.call("ZREM", reservations, rid)', ""),
    "settle lets nothing go": (
        "settle",
        "book(record, { tokens = -record.tokens, cost = -record.cost }, used",
        "book(record, { tokens = 0, cost = 0 }, used",
    ),
    "what expires is not charged": (
        "expire",
        "local used = { tokens = record.tokens, cost = record.cost }",
        "local used = { tokens = 0, cost = 0 }",
    ),
    "what expires stays held": (
        "expire",
        "book(record, { tokens = -record.tokens, cost = -record.cost }, used",
        "book(record, { tokens = 0, cost = 0 }, used",
    ),
    "an expired reservation is forgotten": ("expire", '"state", "expired"', '"state", "settled"'),
    "the day does not follow the offset": ("reserve", "(now_ms + utc_offset_ms) / DAY_MS", "now_ms / DAY_MS"),
    "an alert is raised again and again": ("settle", 'redis.call("HSET", scope.key, "alerted_" .. unit, percent)', ""),
    "a tenant's user is the default tenant's": (
        "reserve",
        "local rid, model, user, task = ARGV[1], ARGV[4], ARGV[5], ARGV[6]",
        "local rid, model, user, task = ARGV[1], ARGV[4], ARGV[5]:gsub('^acme:', ''), ARGV[6]",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_budget_with_one_rule_taken_out_is_caught(redis_url, mutant):
    verb, original, replacement = MUTANTS[mutant]
    name = f"token_budget_{verb}"
    source = SCRIPTS[name].source
    assert source.count(original) == 1
    scripts = {name: lua.make_script(name, source.replace(original, replacement))}
    with Redis.from_url(redis_url) as client, pytest.raises(AssertionError):
        run_state_machine_as_test(
            lambda: BudgetMachine(client, scripts),
            settings=settings(
                max_examples=1000,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                report_multiple_bugs=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
