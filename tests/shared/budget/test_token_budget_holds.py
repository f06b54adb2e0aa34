"""What a reservation holds: guesses that shrink, calls that wait for room, and what calls of a model teach about it."""

import pytest

from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Hold,
    Payer,
    Refused,
    Request,
    Reservation,
)
from tests.budget import ANN, DAY, MINUTE, NOON, Budget, hold, settle, spend


async def test_reservation_past_its_time_is_charged_its_input_while_its_model_is_unknown(aredis):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100, 10, output=4096, output_cost=9)
    assert (await budget.expire(now_ms=NOON + MINUTE - 1)).charged == ()
    assert (await budget.expire(now_ms=NOON + MINUTE)).charged == ("t1:1:1",)
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.tokens.held, usage.cost.used) == (100, 0, 10)
    assert (usage.models[0].expired_tokens, usage.models[0].estimated_calls) == (100, 1)


async def test_reservation_past_its_time_is_charged_its_input_and_its_models_mean_output(aredis):
    budget = Budget(aredis)
    for n, output_tokens in enumerate([50, 70]):
        await hold(budget, f"t1:1:{n}", 100, 10, output=4096, output_cost=900)
        await settle(budget, f"t1:1:{n}", 100, output_tokens, 40)
    await hold(budget, "t2:1:1", 5_000, 500, output=4096, output_cost=8192)
    await budget.expire(now_ms=NOON + MINUTE)
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.models[0].expired_tokens, usage.cost.used) == (320 + 5_060, 5_060, 80 + 500 + 120)


async def test_with_the_worst_hold_a_reservation_past_its_time_is_charged_in_full(aredis):
    budget = Budget(aredis, BudgetLimits(hold=Hold.WORST))
    await spend(budget, "t1:1:1", 10)
    await hold(budget, "t2:1:1", 100, 10, output=400, output_cost=9)
    await budget.expire(now_ms=NOON + MINUTE)
    assert (await budget.usage(DAY, ANN)).tokens.used == 510


async def test_amount_that_fits_beside_what_is_used_but_not_beside_what_is_held_is_busy(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    await spend(budget, "t1:1:1", 10)
    await hold(budget, "t1:1:2", 60)
    busy = await hold(budget, "t1:1:3", 31)
    assert busy == Busy("t1:1:3", "global", "tokens", 100, 10, 60, 31, NOON + 43_200_000, busy.stats)
    assert str(busy) == "daily token budget held by running calls: 10 of 100 used, 60 held, 31 requested"
    await settle(budget, "t1:1:2", 5, 0, 0)
    assert isinstance(await hold(budget, "t1:1:3", 31), Reservation)


async def test_guessed_output_shrinks_to_what_is_left(aredis):
    budget = Budget(aredis, BudgetLimits(user_daily_tokens=1000, daily_cost_nano_usd=20_000))
    await spend(budget, "t1:1:1", 300)
    held = await hold(budget, "t1:1:2", 100, 100, output=4096, output_cost=40_960)
    assert (held.held, held.output_tokens) == (Amount(700, 6100), 600)
    await settle(budget, "t1:1:2", 10, 10, 19_000)
    held = await hold(budget, "t1:1:3", 100, 100, output=4096, output_cost=40_960)
    assert (held.held, held.output_tokens) == (Amount(190, 1000), 90)


async def test_guessed_output_shrinks_to_the_limit_of_a_request(aredis):
    budget = Budget(aredis, BudgetLimits(request_tokens=1000))
    assert (await hold(budget, "t1:1:1", 900, output=64_000)).output_tokens == 100
    refused = await hold(budget, "t1:1:2", 1000, output=64_000)
    assert (refused.scope, refused.requested) == ("request", 1064)
    assert str(refused).endswith("or allow more: langgraph-producer budget set request 1064")


async def test_input_that_does_not_fit_is_refused_whatever_is_guessed(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    refused = await hold(budget, "t1:1:1", 100, output=4096)
    assert isinstance(refused, Refused)
    assert (refused.requested, refused.remaining) == (164, 100)


async def test_room_is_kept_for_the_call_that_waits_longest_until_it_runs(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    await hold(budget, "t1:1:1", 60)
    assert isinstance(await hold(budget, "t1:1:2", 70), Busy)
    assert isinstance(await hold(budget, "t1:1:3", 20), Busy)
    await settle(budget, "t1:1:1", 0, 0, 0)
    assert isinstance(await hold(budget, "t1:1:4", 40), Busy)
    assert isinstance(await hold(budget, "t1:1:5", 30), Reservation)
    assert isinstance(await hold(budget, "t1:1:2", 70), Reservation)
    await settle(budget, "t1:1:2", 0, 0, 0)
    assert isinstance(await hold(budget, "t1:1:6", 70), Reservation)


async def test_room_is_not_kept_for_a_call_that_asks_no_more(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    await hold(budget, "t1:1:1", 60)
    await hold(budget, "t1:1:2", 70)
    assert isinstance(await hold(budget, "t1:1:3", 40, now_ms=NOON + 2_999), Busy)
    assert isinstance(await hold(budget, "t1:1:3", 40, now_ms=NOON + 3_000), Reservation)


async def test_output_limit_that_was_set_is_not_shrunk(aredis):
    budget = Budget(aredis, BudgetLimits(daily_tokens=100))
    request = Request(Amount(50), Amount(51))
    assert isinstance(await budget.reserve("t1:1:1", request, "gpt-4o", ANN, now_ms=NOON), Refused)


async def test_reservation_knows_what_calls_of_its_model_used(aredis):
    budget = Budget(aredis)
    for n in range(60):
        await hold(budget, f"t1:1:{n}", 100)
        await settle(budget, f"t1:1:{n}", 100, 20 if n else 900, 7, text_bytes=150, text_tokens=100)
    stats = (await hold(budget, "t2:1:1", 1)).stats
    assert (stats.calls, stats.output_tokens) == (60, 60 * 20 + 880)
    assert stats.tokens_per_byte == pytest.approx(2 / 3)
    assert stats.likely_output(4096) == 1037
    assert (await hold(budget, "t3:1:1", 1, model="other")).stats.likely_output(4096) == 4096


async def test_estimated_calls_teach_nothing(aredis):
    budget = Budget(aredis)
    await hold(budget, "t1:1:1", 100)
    await settle(budget, "t1:1:1", 100, 20, 7, is_estimated=True, text_bytes=150)
    assert (await hold(budget, "t1:1:2", 1)).stats.calls == 0


async def test_what_is_known_of_a_model_is_halved_at_a_thousand_calls(aredis):
    budget = Budget(aredis)
    await aredis.hset("agent:budget:model_stats", "gpt-4o", " ".join(map(str, [999, 19_980, 30, 10, 999, *[0] * 23])))
    await hold(budget, "t1:1:1", 100)
    await settle(budget, "t1:1:1", 80, 20, 5)
    stats = (await hold(budget, "t1:1:2", 1)).stats
    assert (stats.calls, stats.output_tokens, stats.outputs[:4]) == (500, 10_000, (499, 0, 0, 0))


async def test_at_most_500_models_are_known(aredis):
    budget = Budget(aredis)
    await aredis.hset("agent:budget:model_stats", mapping={f"m{n}": " ".join(["1"] * 28) for n in range(500)})
    await spend(budget, "t1:1:1", 10)
    assert await aredis.hlen("agent:budget:model_stats") == 500


@pytest.mark.parametrize("used", [30, 130])
async def test_late_settle_corrects_the_charge_of_an_expired_reservation(aredis, used):
    budget = Budget(aredis, BudgetLimits())
    await hold(budget, "t1:1:1", 100, 10)
    await budget.expire(now_ms=NOON + MINUTE)
    assert (await settle(budget, "t1:1:1", used, 0, 3)).outcome == "corrected"
    assert (await settle(budget, "t1:1:1", used, 0, 3)).outcome == "repeated"
    usage = await budget.usage(DAY)
    assert (usage.tokens.used, usage.tokens.held, usage.cost.used) == (used, 0, 3)
    assert (usage.models[0].input_tokens, usage.models[0].expired_tokens, usage.models[0].calls) == (used, 0, 1)


async def test_expire_charges_at_most_as_many_as_told_the_oldest_first(aredis):
    budget = Budget(aredis, BudgetLimits())
    for n in range(3):
        await hold(budget, f"t1:1:{n}", 10, now_ms=NOON - n)
    assert (await budget.expire(2, now_ms=NOON + MINUTE)).charged == ("t1:1:2", "t1:1:1")
    assert (await budget.expire(2, now_ms=NOON + MINUTE)).charged == ("t1:1:0",)


async def test_one_call_in_four_is_learned_of_a_model_that_is_called_often(aredis):
    budget = Budget(aredis, BudgetLimits())
    for number in range(240):
        await budget.settle(f"lost:{number}", Charge(1, 7), "gpt-4o", Payer(), now_ms=NOON)
    known = (await aredis.hget("agent:budget:model_stats", "gpt-4o")).split()
    assert (known[0], known[1]) == (b"210", b"1470")
    assert await aredis.pttl("agent:budget:model_stats") > 29 * 86_400_000


async def test_reservations_keep_a_ttl_though_the_key_was_empty_in_between(aredis):
    budget = Budget(aredis, BudgetLimits())
    for number in range(3):
        await budget.reserve(f"t1:1:{number}", Request(Amount(number)), "gpt-4o", Payer(), now_ms=NOON)
        assert await aredis.pttl("agent:budget:reservations") > 0
        await budget.settle(f"t1:1:{number}", Charge(0, 0), "gpt-4o", Payer(), now_ms=NOON)
        assert not await aredis.exists("agent:budget:reservations")
