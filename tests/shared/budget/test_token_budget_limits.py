"""What the budget is given: impossible values are refused, and names are data."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Charge, Payer, Request, reserve_call

NAMES = st.text("a:%3A@*\n\ud800\xe4", max_size=3)


@given(
    st.lists(st.builds(Payer, NAMES, st.none() | NAMES, NAMES), max_size=9),
    st.sampled_from([":", "%3A", "@anonymous", "default"]),
)
def test_names_of_different_users_and_tasks_never_meet_in_one_key(payers, name):
    payers += [Payer(name, name, name), Payer(name), Payer("default", f"{name}:{name}", f"{name}:{name}")]
    assert len({payer.user for payer in payers}) == len({(payer.tenant, payer.user_id) for payer in payers})
    assert len({payer.task for payer in payers}) == len({(payer.tenant, payer.task_id) for payer in payers})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("daily_tokens", 2**53, "expected daily_tokens to be an integer from 1 to 2**53 - 1, got: 9007199254740992"),
        ("task_cost_nano_usd", 0, "expected task_cost_nano_usd to be an integer from 1 to 2**53 - 1, got: 0"),
        ("request_tokens", 1.5, "expected request_tokens to be an integer from 1 to 2**53 - 1, got: 1.5"),
        ("alert_percents", (80, 50), "expected alert_percents to rise from 1 to 100 at most, got: (80, 50)"),
        ("alert_percents", (0, 50), "expected alert_percents to rise from 1 to 100 at most, got: (0, 50)"),
        ("utc_offset_s", 86_400, "expected utc_offset_s to be from -43200 to 50400, got: 86400"),
    ],
)
def test_impossible_limit_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BudgetLimits(**{field: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Amount(-1),
        lambda: Amount(1, 2**53),
        lambda: Amount(True),
        lambda: Charge(0, -1),
        lambda: reserve_call("t1:1:1", Request(Amount(1)), "gpt-4o", Payer(), BudgetLimits(), ttl_ms=0),
    ],
)
def test_impossible_amount_is_refused(make):
    with pytest.raises(ValueError, match=r"^expected .* to be .*, got: "):
        make()
