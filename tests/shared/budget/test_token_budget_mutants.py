"""A budget with one rule taken out is caught: the comparison with the model can fail."""

import pytest

from langgraph_rq.shared.budget import token_budget
from tests.models.mutants import assert_caught
from tests.models.token_budget_machine import BudgetMachine

pytestmark = pytest.mark.slow

SCRIPTS = {script.name: script for script in (token_budget.RESERVE, token_budget.SETTLE, token_budget.EXPIRE)}

MUTANTS = {
    "the limit check ignores held": ("reserve", "used + held + requested[unit]", "used + requested[unit]"),
    "the limit check ignores money": ("reserve", "total > limit", 'unit == "tokens" and total > limit'),
    "a single request has no limit": ("reserve", "tokens > limits.request", "false"),
    "a refusal by one scope holds in the others": ("reserve", "is_new and total > limit", "false"),
    "a repeated reserve holds again": ("reserve", 'redis.call("EXISTS", reservation) == 0', "true"),
    "the day does not follow the offset": ("reserve", "(now_ms + utc_offset_ms) / DAY_MS", "now_ms / DAY_MS"),
    "tenants share their users": ("reserve", '":user:" .. user', '":user:" .. user:gsub("^acme:", "")'),
    "settle is not idempotent": ("settle", 'record.state == "settled"', "false"),
    "settle lets nothing go": (
        "settle",
        "{ tokens = -record.tokens, cost = -record.cost }",
        "{ tokens = 0, cost = 0 }",
    ),
    "settle leaves the reservation live": ("settle", 'redis.call("ZREM", reservations, rid)', ""),
    "a late settle is charged on top": ("settle", "{ tokens = tokens - record.tokens,", "{ tokens = tokens,"),
    "a late settle changes nothing": ("expire", '"^held", "expired"', '"^held", "settled"'),
    "what expires is not charged": ("expire", "local used = { tokens = record.tokens,", "local used = { tokens = 0,"),
    "what expires stays held": (
        "expire",
        "{ tokens = -record.tokens, cost = -record.cost }",
        "{ tokens = 0, cost = 0 }",
    ),
    "an alert is raised again and again": ("settle", 'redis.call("HSET", scope.key, "alerted_" .. unit, percent)', ""),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_budget_with_one_rule_taken_out_is_caught(redis_url, mutant):
    verb, original, replacement = MUTANTS[mutant]
    assert_caught(redis_url, BudgetMachine, SCRIPTS[f"shared/budget/{verb}"], original, replacement, examples=1_000)
