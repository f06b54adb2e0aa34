"""A budget with one rule taken out is caught: the comparison with the model can fail."""

import pytest

from langgraph_rq.shared.budget import token_budget
from tests.models.mutants import assert_caught
from tests.models.token_budget_machine import BudgetMachine

pytestmark = pytest.mark.slow

SCRIPTS = {script.name: script for script in (token_budget.RESERVE, token_budget.SETTLE, token_budget.EXPIRE)}

MUTANTS = {
    "the limit check ignores held": ("reserve", "used + held + scope", "used + scope"),
    "the limit check ignores used": ("reserve", "fits(unit, limit - used)", "fits(unit, limit)"),
    "the limit check ignores money": (
        "reserve",
        "if limit and not fits(",
        'if limit and unit == "tokens" and not fits(',
    ),
    "a single request has no limit": ("reserve", 'not fits("tokens", limits.request)', "false"),
    "what was set shrinks like a guess": ("reserve", "not is_guess or tokens < least", "tokens < least"),
    "a guess shrinks to nothing": ("reserve", "math.min((64), output.tokens)", "math.min(1, output.tokens)"),
    "a guess does not shrink": ("reserve", "not is_guess or tokens < least", "true"),
    "a guess shrinks without its price": ("reserve", "output.cost = math.floor(price * output.tokens)", ""),
    "what is held is refused": ("reserve", 'no("busy"', 'no("refused"'),
    "calls that come later leave no room": ("reserve", " + scope.kept[unit] + requested", " + requested"),
    "a call waits for itself": ("reserve", "first and first ~= rid and", "first and"),
    "the first in wait is kept room for ever": ("reserve", "tonumber(ends_at) > now_ms", "true"),
    "the first in wait is the last that came": ("reserve", "may_wait and not scope.is_kept", "may_wait"),
    "a repeated reserve holds again": ("reserve", "local is_new = not record", "local is_new = true"),
    "the day does not follow the offset": ("reserve", "(now_ms + limits.utc_offset_ms) / ", "now_ms / "),
    "tenants share their users": ("reserve", '":user:" .. record.user', '":user:" .. record.user:gsub("^acme:", "")'),
    "tenants have no budget": ("reserve", '":tenant:" .. record.tenant', '":tenant:"'),
    "settle is not idempotent": ("settle", 'record.state == "settled"', "false"),
    "settle lets nothing go": (
        "settle",
        "{ tokens = -record.tokens, cost = -record.cost }",
        "{ tokens = 0, cost = 0 }",
    ),
    "settle leaves the reservation live": ("settle", 'redis.call("ZREM", reservations, rid)', ""),
    "a late settle is charged on top": ("settle", 'outcome = "corrected"', 'outcome = "corrected" record.tokens = 0'),
    "a late settle changes nothing": ("expire", 'record.cost = "expired"', 'record.cost = "settled"'),
    "what is lost is not booked": ("settle", "limits, alerts, true)", "limits, alerts, false)"),
    "estimates are learned": ("settle", "if is_call and estimated == 0", "if is_call"),
    "a day's first calls are not learned": ("settle", "calls_of_day <= (200) or", ""),
    "what expires is not charged": ("expire", "= charge_of(record, limits)", "= { tokens = 0, cost = 0 }"),
    "the mean is charged above what is held": (
        "expire",
        "math.min(output, math.ceil(stats[2] / stats[1]))",
        "stats[2]",
    ),
    "what expires is charged without its input": ("expire", "tokens = record.input_tokens + mean", "tokens = mean"),
    "the worst is charged like an estimate": ("expire", 'limits.hold ~= "estimate"', "false"),
    "what expires stays held": (
        "expire",
        "{ tokens = -record.tokens, cost = -record.cost }",
        "{ tokens = 0, cost = 0 }",
    ),
    "an alert is raised again and again": ("settle", '"HSET", scope.key, "alerted_"', '"HSET", scope.key, "nothing_"'),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_budget_with_one_rule_taken_out_is_caught(redis_url, mutant):
    verb, original, replacement = MUTANTS[mutant]
    assert_caught(
        redis_url, BudgetMachine, SCRIPTS[f"shared/budget/scripts/{verb}"], original, replacement, examples=1_000
    )
