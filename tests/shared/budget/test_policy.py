"""The fleet's limits in Redis: what the first process sets, what a person changes, and who obeys."""

import time

import pytest

from langgraph_rq.shared.budget.policy import (
    Change,
    Limit,
    NotALimitError,
    Policy,
    read_policy_call,
    remove_limit_call,
    reset_used_call,
    set_limit_call,
)
from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Charge, Hold, Payer, Refused, Request
from langgraph_rq.shared.connections.scripts import run
from tests.budget import Budget

LIMITS = BudgetLimits(daily_tokens=1000, user_daily_tokens=100, daily_cost_nano_usd=10**9)
ANN = Payer(user_id="ann", task_id="t1")


async def ask(redis, tokens, payer=ANN, limits=LIMITS, rid="t1:1:1"):
    return await Budget(redis, limits).reserve(rid, Request(Amount(tokens)), "gpt-4o", payer)


async def test_limits_of_the_first_caller_are_the_fleets(aredis):
    assert await run(aredis, read_policy_call()) is None
    await ask(aredis, 50)
    assert await run(aredis, read_policy_call()) == Policy(LIMITS)
    assert isinstance(await ask(aredis, 101, limits=BudgetLimits(), rid="t1:1:2"), Refused)
    assert (await Budget(aredis, BudgetLimits()).usage(payer=ANN)).tokens.limit == 100


@pytest.mark.parametrize(
    "limits",
    [
        BudgetLimits(),
        BudgetLimits(request_tokens=None, daily_tokens=None, alert_percents=()),
        BudgetLimits(task_tokens=1, tenant_daily_cost_nano_usd=2, utc_offset_s=-3600, hold=Hold.WORST),
    ],
)
async def test_policy_keeps_every_limit(aredis, limits):
    await ask(aredis, 1, limits=limits)
    assert await run(aredis, read_policy_call()) == Policy(limits)


async def test_changed_limit_holds_at_the_next_call(aredis):
    assert isinstance(await ask(aredis, 101), Refused)
    change = await run(aredis, set_limit_call(BudgetLimits(), "user", tokens=200))
    assert change == Change(Limit(100), Limit(200))
    assert not isinstance(await ask(aredis, 101), Refused)


async def test_raised_limit_grows_by_the_amount(aredis):
    change = await run(aredis, set_limit_call(LIMITS, "global", tokens=500, cost_nano_usd=7, is_raise=True))
    assert change.after == Limit(1500, 10**9 + 7)
    unlimited = await run(aredis, set_limit_call(LIMITS, "task", tokens=500, is_raise=True))
    assert unlimited.after == Limit(None)


async def test_limit_of_a_single_user_goes_before_the_one_for_all(aredis):
    await run(aredis, set_limit_call(LIMITS, "user", ANN, tokens=300))
    assert not isinstance(await ask(aredis, 300), Refused)
    assert isinstance(await ask(aredis, 101, Payer(user_id="bob"), rid="t2:1:1"), Refused)
    assert (await run(aredis, read_policy_call())).own == {"user:ann": Limit(300)}
    change = await run(aredis, remove_limit_call(LIMITS, "user", ANN))
    assert change == Change(Limit(300), Limit(100))


async def test_limit_of_a_single_tenant_holds_for_all_its_users(aredis):
    acme = Payer("acme", "ann")
    await run(aredis, set_limit_call(LIMITS, "tenant", acme, tokens=60))
    assert (await ask(aredis, 61, Payer("acme", "bob"))).scope == "tenant"
    assert not isinstance(await ask(aredis, 61, Payer("other", "bob")), Refused)
    assert (await run(aredis, read_policy_call())).own == {"tenant:acme": Limit(60)}


async def test_limit_can_be_taken_away(aredis):
    await run(aredis, set_limit_call(LIMITS, "request", tokens=None))
    await run(aredis, set_limit_call(LIMITS, "user", tokens=None))
    assert not isinstance(await ask(aredis, 900), Refused)
    assert (await run(aredis, read_policy_call())).limits.request_tokens is None


async def test_reset_forgets_what_was_used_and_keeps_what_is_held(aredis):
    budget = Budget(aredis, LIMITS)
    await ask(aredis, 90)
    await budget.settle("t1:1:1", Charge(90, 0, 5), "gpt-4o", ANN)
    await ask(aredis, 10, rid="t1:1:2")
    assert await run(aredis, reset_used_call(LIMITS, "user", ANN)) == Amount(90, 5)
    usage = await budget.usage(payer=ANN)
    assert (usage.tokens.used, usage.tokens.held, usage.tokens.alerts) == (0, 10, ())
    assert (await budget.usage()).tokens.used == 90


async def test_raised_limit_raises_its_alerts_again(aredis):
    budget = Budget(aredis, LIMITS)
    await ask(aredis, 95)
    first = await budget.settle("t1:1:1", Charge(95, 0), "gpt-4o", ANN)
    assert [alert.percent for alert in first.alerts] == [50, 80, 95]
    await run(aredis, set_limit_call(LIMITS, "user", tokens=200))
    assert (await budget.usage(payer=ANN)).tokens.alerts == ()
    await ask(aredis, 5, rid="t1:1:2")
    second = await budget.settle("t1:1:2", Charge(5, 0), "gpt-4o", ANN)
    assert [(alert.percent, alert.limit) for alert in second.alerts] == [(50, 200)]


async def test_reset_between_a_charge_and_its_correction_leaves_nothing_below_zero(aredis):
    budget = Budget(aredis, LIMITS)
    await ask(aredis, 90)
    await budget.expire(now_ms=int((time.time() + 120) * 1000))
    await run(aredis, reset_used_call(LIMITS, "user", ANN))
    (models,) = await aredis.keys("agent:budget:*:models")
    await aredis.delete(models)
    for settled in (1, 2):
        await budget.settle("t1:1:1", Charge(10, 0), "gpt-4o", ANN)
        assert (await budget.usage(payer=ANN)).tokens.used == 0
        assert await aredis.hget(models, "gpt-4o") == b"10 0 0 0 0 0", settled


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(NotALimitError, match="in tokens"):
        set_limit_call(LIMITS, "request", cost_nano_usd=5)
    with pytest.raises(NotALimitError, match="a tenant or a user"):
        set_limit_call(LIMITS, "global", ANN, tokens=5)
    with pytest.raises(ValueError, match="expected tokens to be an integer from 1"):
        set_limit_call(LIMITS, "global", tokens=0)
