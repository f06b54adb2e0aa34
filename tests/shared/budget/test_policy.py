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
from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Charge,
    Hold,
    Payer,
    Refused,
    Request,
    Unreadable,
)
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


async def test_field_that_is_missing_is_the_callers_own(aredis):
    await run(aredis, set_limit_call(LIMITS, "user", tokens=200))
    await aredis.hdel("agent:budget:policy", "global", "hold", "utc_offset_s")
    await ask(aredis, 1, limits=BudgetLimits(daily_tokens=7, hold=Hold.WORST, utc_offset_s=3600))
    changed = BudgetLimits(
        daily_tokens=7, daily_cost_nano_usd=None, user_daily_tokens=200, hold=Hold.WORST, utc_offset_s=3600
    )
    assert await run(aredis, read_policy_call()) == Policy(changed)


@pytest.mark.parametrize("offset", ["2h", "", "1e3", "90000", "-43201", "0x10"])
async def test_offset_that_cannot_be_read_is_the_callers_own(aredis, offset):
    east = BudgetLimits(daily_tokens=1000, utc_offset_s=3600)
    budget = Budget(aredis, east)
    await ask(aredis, 10, limits=east)
    await aredis.hset("agent:budget:policy", "utc_offset_s", offset)
    before = await budget.usage()
    await ask(aredis, 10, limits=east, rid="t1:1:2")
    await budget.settle("t1:1:1", Charge(10, 0), "gpt-4o", ANN)
    await budget.expire(now_ms=int((time.time() + 120) * 1000))
    usage = await budget.usage()
    assert (usage.day, usage.resets_at_ms) == (before.day, before.resets_at_ms)
    assert (usage.tokens.used, usage.tokens.held) == (20, 0)
    assert (await run(aredis, reset_used_call(east, "global"))).tokens == 20
    policy = await run(aredis, read_policy_call(east))
    assert (policy.limits, policy.unreadable) == (east, {"utc_offset_s": offset})


BROKEN = ["50,000 -", "1e3 -", "5", "- - -", "0 -", "-5 -", f"{2**53} -", "", "= =", "\xff -"]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("field", ["global", "tenant", "user", "task", "user:ann", "tenant:default"])
async def test_no_call_starts_on_a_limit_that_cannot_be_read(aredis, field, value):
    if ":" in field and value == "= =":
        value = "x ="
    await ask(aredis, 1)
    await aredis.hset("agent:budget:policy", field, value)
    refused = await ask(aredis, 1, rid="t1:1:2")
    assert isinstance(refused, Unreadable)
    assert refused.field == field
    assert f"field {field} of agent:budget:policy" in str(refused)
    assert "budget set " + field.partition(":")[0] in str(refused)
    # What was held before is booked all the same.
    budget = Budget(aredis, LIMITS)
    assert (await budget.settle("t1:1:1", Charge(1, 0), "gpt-4o", ANN)).outcome == "settled"
    policy = await run(aredis, read_policy_call(LIMITS))
    assert (policy.limits, list(policy.unreadable)) == (LIMITS, [field])


@pytest.mark.parametrize("value", ["100k", "5 5", "-1", ""])
async def test_no_call_starts_on_a_request_limit_that_cannot_be_read(aredis, value):
    await ask(aredis, 1)
    await aredis.hset("agent:budget:policy", "request", value)
    assert (await ask(aredis, 1, rid="t1:1:2")).field == "request"
    await run(aredis, set_limit_call(LIMITS, "request", tokens=5))
    assert not isinstance(await ask(aredis, 1, rid="t1:1:3"), Unreadable)


async def test_unreadable_limit_of_another_user_concerns_nobody_else(aredis):
    await ask(aredis, 1)
    await aredis.hset("agent:budget:policy", "user:bob", "many")
    assert not isinstance(await ask(aredis, 1, rid="t1:1:2"), Unreadable)
    assert (await Budget(aredis, LIMITS).usage(payer=Payer(user_id="bob"))).unreadable == "user:bob"


async def test_unreadable_limit_for_all_does_not_concern_a_user_with_one_of_its_own(aredis):
    await run(aredis, set_limit_call(LIMITS, "user", ANN, tokens=50, cost_nano_usd=None))
    await aredis.hset("agent:budget:policy", "user", "many")
    assert not isinstance(await ask(aredis, 50), Refused | Unreadable)
    assert isinstance(await ask(aredis, 50, Payer(user_id="bob"), rid="t2:1:1"), Unreadable)


@pytest.mark.parametrize("hold", ["wrst", "", "estimates"])
async def test_hold_that_cannot_be_read_is_the_strict_one(aredis, hold):
    await ask(aredis, 90)
    await aredis.hset("agent:budget:policy", "hold", hold)
    assert (await run(aredis, read_policy_call())).limits.hold is Hold.WORST
    request = Request(Amount(1), Amount(9))
    await Budget(aredis, LIMITS).reserve("t1:1:2", request, "gpt-4o", Payer())
    await Budget(aredis, LIMITS).expire(now_ms=int((time.time() + 120) * 1000))
    assert (await Budget(aredis, LIMITS).usage()).tokens.used == 100


async def test_limit_of_a_single_user_follows_in_what_it_was_not_given(aredis):
    change = await run(aredis, set_limit_call(LIMITS, "user", ANN, cost_nano_usd=5))
    assert change == Change(None, Limit(100, 5))
    await run(aredis, set_limit_call(LIMITS, "user", tokens=300))
    assert not isinstance(await ask(aredis, 300), Refused)
    assert isinstance(await ask(aredis, 301, rid="t1:1:2"), Refused)
    assert (await run(aredis, read_policy_call())).own == {"user:ann": Limit(300, 5)}
    assert (await Budget(aredis, LIMITS).usage(payer=ANN)).tokens.limit == 300
    change = await run(aredis, set_limit_call(LIMITS, "user", ANN, tokens=50, is_raise=True))
    assert change == Change(Limit(300, 5), Limit(350, 5))
    await run(aredis, set_limit_call(LIMITS, "user", tokens=900))
    assert (await run(aredis, read_policy_call())).own == {"user:ann": Limit(350, 5)}


async def test_limit_is_not_raised_beyond_what_is_exact(aredis):
    await run(aredis, set_limit_call(LIMITS, "global", tokens=2**53 - 5))
    change = await run(aredis, set_limit_call(LIMITS, "global", tokens=4, is_raise=True))
    assert change.after == Limit(2**53 - 1, 10**9)
    with pytest.raises(NotALimitError, match=r"at most 2\*\*53 - 1, got: 9007199254740991 \+ 1"):
        await run(aredis, set_limit_call(LIMITS, "global", tokens=1, cost_nano_usd=1, is_raise=True))
    assert (await run(aredis, read_policy_call())).limits.daily_cost_nano_usd == 10**9


@pytest.mark.parametrize(("scope", "payer"), [("global", None), ("user", ANN), ("request", None)])
async def test_limit_that_cannot_be_read_is_set_and_not_raised(aredis, scope, payer):
    await ask(aredis, 1)
    await aredis.hset("agent:budget:policy", f"{scope}:ann" if payer else scope, "50,000")
    with pytest.raises(NotALimitError, match="set it instead"):
        await run(aredis, set_limit_call(LIMITS, scope, payer, tokens=1, is_raise=True))
    change = await run(aredis, set_limit_call(LIMITS, scope, payer, tokens=7))
    assert change.after.tokens == 7
    policy = await run(aredis, read_policy_call())
    assert not policy.unreadable
    assert policy.limits.daily_cost_nano_usd == 10**9


@pytest.mark.parametrize("percents", ["", "none", "200 50", "\xff"])
async def test_odd_alert_percents_raise_nothing_odd(aredis, percents):
    await ask(aredis, 90)
    await aredis.hset("agent:budget:policy", "alert_percents", percents)
    assert (await Budget(aredis, LIMITS).settle("t1:1:1", Charge(45, 45), "gpt-4o", ANN)).outcome == "settled"
    assert (await Budget(aredis, LIMITS).usage(payer=ANN)).tokens.used == 90


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(NotALimitError, match="in tokens"):
        set_limit_call(LIMITS, "request", cost_nano_usd=5)
    with pytest.raises(NotALimitError, match="a tenant or a user"):
        set_limit_call(LIMITS, "global", ANN, tokens=5)
    with pytest.raises(ValueError, match="expected tokens to be an integer from 1"):
        set_limit_call(LIMITS, "global", tokens=0)
