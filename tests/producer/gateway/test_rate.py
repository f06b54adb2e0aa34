"""The rate of a user: a sliding window that is counted in one script."""

import pytest

from langgraph_rq.producer.gateway.admission.rates import hit_call, parse_rate
from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.errors import SettingsError

MINUTE = 1_700_000_040_000
"""The beginning of a minute (ms)."""


@pytest.mark.parametrize(
    ("text", "limit", "window_ms"),
    [("600/minute", 600, 60_000), ("10 per 5 seconds", 10, 5_000), ("1/day", 1, 86_400_000)],
)
def test_rates_are_read_as_people_write_them(text, limit, window_ms):
    rate = parse_rate(text)
    assert (rate.limit, rate.window_ms, str(rate)) == (limit, window_ms, text)


@pytest.mark.parametrize("text", ["", "fast", "0/minute", "-1/minute", "5/fortnight", "1e3/minute"])
def test_other_words_are_one_clear_error(text):
    with pytest.raises(SettingsError, match=r'LGRQ_GATEWAY_RATE: expected a rate such as "600/minute", got: '):
        parse_rate(text)


async def hit(aredis, rate, now_ms, whose="acme--ann"):
    (allowance,) = (await run(aredis, hit_call({whose: rate}, now_ms))).allowances
    return allowance


async def test_submissions_of_the_last_window_leave_the_sliding_one_bit_by_bit(aredis):
    rate = parse_rate("4/minute")
    counted = [await hit(aredis, rate, MINUTE + 59_000) for _ in range(5)]
    assert [(one.wait_ms == 0, one.remaining) for one in counted] == [
        (True, 3),
        (True, 2),
        (True, 1),
        (True, 0),
        (False, 0),
    ]
    half = [(await hit(aredis, rate, MINUTE + 90_000)).wait_ms for _ in range(3)]
    assert half[:2] == [0, 0]
    assert half[2] > 0


@pytest.mark.parametrize("at_ms", [0, 1, 20_000, 59_999])
@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_refused_user_is_let_in_after_exactly_the_wait(aredis, limit, at_ms):
    rate, now_ms = parse_rate(f"{limit}/minute"), MINUTE + at_ms
    for _ in range(limit):
        assert (await hit(aredis, rate, now_ms)).wait_ms == 0
    wait_ms = (await hit(aredis, rate, now_ms)).wait_ms
    assert (await hit(aredis, rate, now_ms + wait_ms - 2)).wait_ms > 0
    assert (await hit(aredis, rate, now_ms + wait_ms)).wait_ms == 0


async def test_tenants_and_users_are_counted_apart(aredis):
    rate = parse_rate("1/minute")
    callers = ["acme--ann", "acme--bob", "beta--ann", "beta--", "acme--", "acme"]
    assert [(await hit(aredis, rate, MINUTE, whose)).wait_ms for whose in callers] == [0] * 6
    assert (await hit(aredis, rate, MINUTE, "acme--")).wait_ms > 0


async def test_submission_that_one_rate_refuses_is_counted_for_none(aredis):
    tenant, user = parse_rate("3/minute"), parse_rate("1/minute")
    rates = {"acme": tenant, "acme--ann": user}
    answers = [(await run(aredis, hit_call(rates, MINUTE))).allowances for _ in range(3)]
    assert [[one.wait_ms > 0 for one in answer] for answer in answers] == [[False, False], [False, True], [False, True]]
    assert (await hit(aredis, tenant, MINUTE, "acme")).remaining == 1
    await hit(aredis, tenant, MINUTE, "acme")
    refused = (await run(aredis, hit_call({"acme": tenant, "acme--bob": user}, MINUTE))).allowances
    assert [one.wait_ms > 0 for one in refused] == [True, False]
    assert (await hit(aredis, user, MINUTE, "acme--bob")).wait_ms == 0
