"""What the budget promises, one behaviour per test; the machine in test_token_budget_model.py looks for the rest."""

import asyncio
from datetime import date

import pytest

from langgraph_rq.shared.budget.policy import remove_limit_call, set_limit_call
from langgraph_rq.shared.budget.token_budget import (
    ALERTS,
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Payer,
    Refused,
    Request,
    Reservation,
    reserve_call,
    settle_call,
    usage_call,
)
from langgraph_rq.shared.connections.scripts import run, run_sync
from tests.budget import ANN, DAY, MINUTE, NOON, Budget, hold, settle, spend


async def test_settle_frees_what_was_held_and_books_what_was_used(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 9000, 90)
    held = await budget.usage(DAY)
    assert (held.tokens.used, held.tokens.held, held.tokens.remaining) == (0, 9000, 991_000)
    settlement = await settle(budget, "t1:1:1", 1000, 500, 15)
    assert (settlement.outcome, settlement.overshoot) == ("settled", Amount(0))
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.tokens.held, usage.cost.used, usage.cost.held) == (1500, 0, 15, 0)


async def test_refusal_says_which_limit_what_is_used_and_when_it_resets(aredis):
    budget = Budget(aredis, BudgetLimits(request_tokens=None))
    await spend(budget, "t1:1:1", 1_000_000)
    refusal = await hold(budget, "t1:1:2", 12_400)
    assert refusal == Refused(
        "t1:1:2", "global", "tokens", 1_000_000, 1_000_000, 0, 12_400, NOON + 43_200_000, refusal.stats
    )
    assert refusal.remaining == 0
    assert str(refusal) == (
        "daily token budget spent: 1,000,000 of 1,000,000 used, 12,400 requested; resets at 2024-10-05T00:00Z"
    )


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        (
            "request_tokens",
            900,
            "request too large: 901 tokens requested, 900 allowed; shorten the input, lower ",
        ),
        ("task_tokens", 900, "task's token budget spent: 300 of 900 used, 200 held, 901 requested"),
        (
            "task_cost_nano_usd",
            10**9,
            "task's cost budget spent: $0.03 of $1.00 used, $0.0000002 held, $1.50 requested",
        ),
        (
            "user_daily_tokens",
            900,
            "user's daily token budget spent: 300 of 900 used, 200 held, 901 requested; resets at ",
        ),
        (
            "user_daily_cost_nano_usd",
            10**9,
            "user's daily cost budget spent: $0.03 of $1.00 used, $0.0000002 held, $1.5",
        ),
        (
            "daily_tokens",
            900,
            "daily token budget spent: 300 of 900 used, 200 held, 901 requested; resets at 2024-10-05T",
        ),
        (
            "daily_cost_nano_usd",
            10**9,
            "daily cost budget spent: $0.03 of $1.00 used, $0.0000002 held, $1.50 requested; r",
        ),
    ],
)
async def test_each_limit_refuses_in_its_own_words(aredis, limit, value, message):
    budget = Budget(aredis, BudgetLimits(**{limit: value}))
    await spend(budget, "t1:1:1", 300, 30_000_000)
    await hold(budget, "t1:1:2", 200, 200)
    assert str(await hold(budget, "t1:1:3", 901, 1_500_000_000)).startswith(message)


async def test_refusal_that_no_new_day_lifts_comes_before_one_that_it_lifts(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100, user_daily_tokens=100, task_tokens=100))
    await spend(budget, "t1:1:1", 100)
    assert [
        (await hold(budget, f"x:1:{n}", 1, payer=payer)).scope
        for n, payer in enumerate([ANN, Payer(user_id="ann"), Payer()])
    ] == ["task", "user", "global"]


async def test_refused_reservation_holds_nothing_in_any_scope(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100, task_tokens=200))
    assert isinstance(await hold(budget, "t1:1:1", 150), Refused)
    assert await aredis.keys("*") == [b"agent:budget:policy"]


async def test_reserving_the_same_attempt_again_holds_once(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    assert await hold(budget, "t1:1:1", 60) == await hold(budget, "t1:1:1", 60)


async def test_reservation_tells_how_full_the_tightest_limit_is(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=1000, daily_cost_nano_usd=1000, user_daily_tokens=400))
    assert (await hold(budget, "t1:1:1", 100, 100)).fill_permille == 250
    await settle(budget, "t1:1:1", 50, 0, 990)
    assert (await hold(budget, "t1:1:2", 1, 1)).fill_permille == 991


async def test_settling_again_changes_nothing(aredis):
    budget = Budget(aredis, BudgetLimits())
    await spend(budget, "t1:1:1", 500)
    assert (await settle(budget, "t1:1:1", 400, 0, 0)).outcome == "repeated"
    assert (await budget.usage(DAY)).tokens.used == 500


async def test_settling_a_reservation_that_redis_lost_books_it_once(aredis):
    budget = Budget(aredis, BudgetLimits(task_tokens=1000))
    assert (await settle(budget, "t1:1:1", 500, 0, 5)).outcome == "lost"
    assert (await settle(budget, "t1:1:1", 500, 0, 5)).outcome == "repeated"
    for usage in (await budget.usage(DAY), await budget.usage(DAY, ANN)):
        assert (usage.tokens.used, usage.tokens.held, usage.cost.used) == (500, 0, 5)
    assert min([await aredis.pttl(key) for key in await aredis.keys("*") if key != b"agent:budget:policy"]) > 0


async def test_settling_nothing_for_a_lost_reservation_leaves_no_key(aredis):
    assert (await settle(Budget(aredis), "t1:1:1", 0, 0, 0)).outcome == "lost"
    assert await aredis.keys("*") == []


async def test_call_that_used_more_than_it_reserved_is_booked_in_full(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    await hold(budget, "t1:1:1", 100, 10)
    assert (await settle(budget, "t1:1:1", 90, 30, 14)).overshoot == Amount(20, 4)
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.tokens.remaining, usage.cost.used) == (120, 0, 14)
    assert isinstance(await hold(budget, "t1:1:2", 1), Refused)


async def test_reservation_handed_back_leaves_no_trace_in_the_usage(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100, 10)
    await settle(budget, "t1:1:1", 0, 0, 0)
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.tokens.held, usage.models) == (0, 0, ())


async def test_tenant_has_a_limit_over_all_of_its_users(aredis):
    budget = Budget(aredis, BudgetLimits(tenant_daily_tokens=100))
    await spend(budget, "t1:1:1", 60, payer=Payer("acme", "ann"))
    assert (await hold(budget, "t2:1:1", 41, payer=Payer("acme", "bob"))).scope == "tenant"
    assert isinstance(await hold(budget, "t3:1:1", 100, payer=Payer("other", "bob")), Reservation)


async def test_new_day_starts_with_a_full_budget_and_leaves_the_old_one_alone(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    midnight = NOON + 43_200_000
    await hold(budget, "t1:1:1", 100, now_ms=midnight - 1)
    assert isinstance(await hold(budget, "t1:1:2", 100, now_ms=midnight - 1), Busy)
    assert isinstance(await hold(budget, "t1:1:2", 100, now_ms=midnight), Reservation)
    await settle(budget, "t1:1:1", 70, 0, 0)
    old, new = await budget.usage(DAY), await budget.usage(now_ms=midnight)
    assert (old.tokens.used, old.tokens.held) == (70, 0)
    assert (new.day, new.tokens.used, new.tokens.held) == (date(2024, 10, 5), 0, 100)


@pytest.mark.parametrize("offset_h", [-12, -5, 1, 14])
async def test_day_begins_at_midnight_of_the_set_offset(aredis, offset_h):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100, utc_offset_s=offset_h * 3600))
    resets_at_ms = (await budget.usage(now_ms=NOON)).resets_at_ms
    assert (resets_at_ms + offset_h * 3_600_000) % 86_400_000 == 0
    assert NOON < resets_at_ms <= NOON + 86_400_000
    await spend(budget, "t1:1:1", 100)
    assert (await hold(budget, "t1:1:2", 100, now_ms=resets_at_ms - 1)).resets_at_ms == resets_at_ms
    assert isinstance(await hold(budget, "t1:1:2", 100, now_ms=resets_at_ms), Reservation)


async def test_task_keeps_its_budget_over_midnight(aredis):
    budget = Budget(aredis, BudgetLimits(task_tokens=100))
    await spend(budget, "t1:1:1", 80)
    refusal = await hold(budget, "t1:1:2", 21, now_ms=NOON + 86_400_000)
    assert (refusal.scope, refusal.remaining, refusal.resets_at_ms) == ("task", 20, None)


async def test_without_a_test_clock_the_server_says_the_day(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100, now_ms=None)
    before, _ = await aredis.time()
    usage = await budget.usage()
    assert usage.tokens.held == 100
    assert 0 < usage.resets_at_ms - before * 1000 <= 86_400_000
    assert (await budget.expire()).charged == ()


async def test_usage_tells_models_and_directions_apart(aredis):
    budget = Budget(aredis, BudgetLimits())
    for n, (model, input_tokens, output_tokens, estimated) in enumerate(
        [("gpt-4o", 100, 20, False), ("gpt-4o", 10, 2, True), ("text-embedding-3-small", 50, 0, False)]
    ):
        await hold(budget, f"t1:1:{n}", 200, 2000, model=model)
        await settle(budget, f"t1:1:{n}", input_tokens, output_tokens, 7, model=model, is_estimated=estimated)
    chat, embedding = (await budget.usage(DAY)).models
    assert (chat.model, chat.input_tokens, chat.output_tokens, chat.cost_nano_usd) == ("gpt-4o", 110, 22, 14)
    assert (chat.calls, chat.estimated_calls) == (2, 1)
    assert (embedding.model, embedding.input_tokens, embedding.output_tokens) == ("text-embedding-3-small", 50, 0)


async def test_anonymous_users_of_a_tenant_share_one_budget(aredis):
    budget = Budget(aredis, BudgetLimits(user_daily_tokens=100))
    await spend(budget, "t1:1:1", 100, payer=Payer(task_id="t1"))
    assert (await hold(budget, "t2:1:1", 1, payer=Payer(task_id="t2"))).scope == "user"
    assert isinstance(await hold(budget, "t3:1:1", 1, payer=Payer("acme", task_id="t3")), Reservation)


async def test_user_ids_may_be_any_text(aredis):
    budget = Budget(aredis, BudgetLimits())
    for n, user in enumerate(["", "a:b\n", "*", "é" * 256, "\ud800"]):
        payer = Payer(user_id=user)
        await spend(budget, f"t1:1:{n}", n + 1, payer=payer)
        assert (await budget.usage(DAY, payer)).tokens.used == n + 1


async def test_each_alert_is_told_to_one_caller_and_written_once(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=1000, user_daily_cost_nano_usd=500))
    for n in range(50):
        await hold(budget, f"t1:1:{n}", 20, 10)
    settlements = await asyncio.gather(*(settle(budget, f"t1:1:{n}", 20, 0, 10) for n in range(50)))
    alerts = [(alert.scope, alert.subject, alert.unit, alert.percent) for one in settlements for alert in one.alerts]
    assert sorted(alerts) == sorted(
        (scope, subject, unit, percent)
        for scope, subject, unit in [("global", "", "tokens"), ("user", "ann", "cost")]
        for percent in (50, 80, 95, 100)
    )
    assert await aredis.xlen(ALERTS) == len(alerts)
    assert (await budget.usage(DAY)).tokens.alerts == (50, 80, 95, 100)


async def test_alert_is_not_raised_again_after_a_charge_was_corrected(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    await hold(budget, "t1:1:1", 60)
    assert [alert.percent for alert in (await budget.expire(now_ms=NOON + MINUTE)).alerts] == [50]
    await settle(budget, "t1:1:1", 1, 0, 0)
    assert (await spend(budget, "t1:1:2", 60)).alerts == ()


async def test_concurrent_reservations_fill_the_budget_exactly(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=1005))
    answers = await asyncio.gather(*(hold(budget, f"t{n}:1:1", 20) for n in range(90)))
    assert sum(isinstance(answer, Reservation) for answer in answers) == 50
    assert (await budget.usage(DAY)).tokens.held == 1000


async def test_amounts_are_exact_up_to_the_largest_limit(aredis):
    most = 2**53 - 1
    budget = Budget(aredis, BudgetLimits(request_tokens=None, daily_tokens=most, daily_cost_nano_usd=most))
    await hold(budget, "t1:1:1", most - 1, most - 1)
    assert (await hold(budget, "t1:1:2", 2, now_ms=NOON - 3_000)).remaining == 1
    assert (await hold(budget, "t1:1:3", 1, 1)).fill_permille == 1000
    assert (await settle(budget, "t1:1:1", most - 1, 0, most - 1)).alerts[-1].used == most - 1
    await budget.expire(now_ms=NOON + MINUTE)
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.cost.used, usage.tokens.held) == (most, most, 0)


async def test_every_key_has_a_ttl_and_outlives_its_reservations(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=1000, task_tokens=1000))
    await spend(budget, "t1:1:1", 600)
    await hold(budget, "t1:1:2", 100)
    await hold(budget, "t1:1:3", 100, now_ms=NOON - 1)
    await budget.expire(now_ms=NOON + MINUTE - 1)
    days = {key.decode(): await aredis.pttl(key) / 86_400_000 for key in await aredis.keys("*")}
    assert days.pop("agent:budget:policy") < 0
    assert days == pytest.approx(
        {
            "agent:budget:20000:global": 8,
            "agent:budget:20000:user:ann": 8,
            "agent:budget:model_stats": 30,
            "agent:budget:20000:models": 8,
            "agent:budget:task:t1": 2,
            "agent:budget:alerts": 7,
            "agent:budget:reservations": 8,
            "agent:budget:reservation:t1:1:1": 10 / 1440,
            "agent:budget:reservation:t1:1:2": 7,
            "agent:budget:reservation:t1:1:3": 1 / 24,
        },
        rel=0.01,
    )


async def test_late_settle_does_not_bring_back_a_day_that_redis_forgot(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100)
    await aredis.delete("agent:budget:20000:global", "agent:budget:20000:user:ann")
    assert (await settle(budget, "t1:1:1", 50, 0, 0)).outcome == "settled"
    assert not await aredis.exists("agent:budget:20000:global", "agent:budget:20000:user:ann")


async def test_tasks_are_kept_only_where_a_task_limit_is_set(aredis):
    await spend(Budget(aredis, BudgetLimits()), "t1:1:1", 100)
    assert await aredis.keys("agent:budget:task:*") == []


async def test_calls_are_booked_with_memory_full(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100)
    await aredis.config_set("maxmemory", 1)
    try:
        assert (await settle(budget, "t1:1:1", 50, 0, 0)).outcome == "settled"
        await spend(budget, "t1:1:2", 50)
    finally:
        await aredis.config_set("maxmemory", 0)


def test_calls_run_on_a_sync_client_that_decodes(redis_client):
    limits = BudgetLimits(daily_tokens=100)
    reserve = reserve_call("t1:1:1", Request(Amount(60)), "gpt-4o", ANN, limits, ttl_ms=MINUTE, now_ms=NOON)
    assert run_sync(redis_client, reserve).fill_permille == 600
    settle = settle_call("t1:1:1", Charge(60, 0), "gpt-4o", ANN, limits)
    assert run_sync(redis_client, settle).alerts[0].percent == 50
    assert run_sync(redis_client, usage_call(limits, DAY)).models[0].model == "gpt-4o"


async def test_default_tenant_is_booked_only_while_it_has_a_limit(aredis):
    budget, payer = Budget(aredis, BudgetLimits(daily_tokens=1000)), Payer(user_id="ann")
    tenant = "agent:budget:20000:tenant:default"

    async def reserve(rid):
        return await budget.reserve(rid, Request(Amount(100)), "gpt-4o", payer, now_ms=NOON)

    await reserve("a")
    assert not await aredis.exists(tenant)
    await run(aredis, set_limit_call(BudgetLimits(), "tenant", payer, tokens=150))
    await reserve("b")
    assert isinstance(await reserve("c"), Busy)
    await budget.settle("a", Charge(90, 0), "gpt-4o", payer, now_ms=NOON)
    assert await aredis.hmget(tenant, "used_tokens", "held_tokens") == [None, b"100"]
    await run(aredis, remove_limit_call(BudgetLimits(), "tenant", payer))
    # What was booked while there was a limit is settled after it.
    await budget.settle("b", Charge(90, 0), "gpt-4o", payer, now_ms=NOON)
    assert await aredis.hmget(tenant, "used_tokens", "held_tokens") == [b"90", b"0"]
    assert (await budget.usage(DAY)).tokens.used == 180
