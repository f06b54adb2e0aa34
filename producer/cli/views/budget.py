"""The fleet's limits, as a table for people and as JSON for machines."""

from typing import Any
from urllib.parse import unquote

from rich.console import Group, RenderableType
from rich.text import Text

from langgraph_rq.shared.budget.policy import Limit, Policy
from langgraph_rq.shared.terminal import Column, Rows

_NANO = 10**9


def policy_json(policy: Policy, *, is_set: bool) -> dict[str, Any]:
    """Give the limits as JSON, money in US dollars, null for no limit.

    Args:
        policy: The limits.
        is_set: Whether the fleet has them; else they are the settings of this machine.
    """
    limits = policy.limits
    return {
        "is_set": is_set,
        **{scope: limit_json(limit) for scope, limit in _by_scope(policy)},
        "own": [{**_owner(name), **limit_json(limit)} for name, limit in policy.own.items()],
        "hold": limits.hold.value,
        "utc_offset_s": limits.utc_offset_s,
        "alert_percents": list(limits.alert_percents),
        "unreadable": policy.unreadable,
    }


def limit_json(limit: Limit) -> dict[str, Any]:
    """Give one limit as JSON."""
    return {"tokens": limit.tokens, "usd": None if limit.cost_nano_usd is None else limit.cost_nano_usd / _NANO}


def policy_table(policy: Policy, *, is_set: bool) -> RenderableType:
    """Lay out the limits, a row for each scope, then those of single tenants and users."""
    limits = policy.limits
    table = Rows("limit of", Column("tokens", right=True), Column("US dollars", right=True))
    for scope, limit in _by_scope(policy):
        table.add_row(_TITLES[scope], amount(limit.tokens), amount(limit.cost_nano_usd, _NANO))
    for name, limit in policy.own.items():
        owner = _owner(name)
        title = " ".join(filter(None, (owner["scope"], owner["user"] or owner["tenant"])))
        table.add_row(Text(title), amount(limit.tokens), amount(limit.cost_nano_usd, _NANO))
    source = "the fleet's limits" if is_set else "this machine's settings; the fleet has made no call yet"
    rest = f"a call holds its {limits.hold.value}; the day begins {limits.utc_offset_s} s east of UTC"
    problems = [
        Text(f"{name} cannot be read, got: {value!r}; set it again{_EFFECTS.get(name, _NO_CALL)}", style="red")
        for name, value in policy.unreadable.items()
    ]
    return Group(Text(source, style="bold"), Text(), table, Text(), Text(rest), *problems)


def amount(value: int | None, unit: int = 1) -> str:
    """Write tokens, or nano-dollars as dollars; a dash where there is no limit."""
    if value is None:
        return "-"
    return f"{value:,}" if unit == 1 else f"{value / unit:,.9f}".rstrip("0").rstrip(".")


_NO_CALL = ", until then no call that it limits starts"
_EFFECTS = {"hold": "", "utc_offset_s": "", "alert_percents": ""}
"""Fields that are no limits."""

_TITLES = {
    "request": "one call",
    "task": "one task",
    "user": "each user, per day",
    "tenant": "each tenant, per day",
    "global": "the whole fleet, per day",
}


def _by_scope(policy: Policy) -> list[tuple[str, Limit]]:
    one = policy.limits
    return [
        ("request", Limit(one.request_tokens)),
        ("task", Limit(one.task_tokens, one.task_cost_nano_usd)),
        ("user", Limit(one.user_daily_tokens, one.user_daily_cost_nano_usd)),
        ("tenant", Limit(one.tenant_daily_tokens, one.tenant_daily_cost_nano_usd)),
        ("global", Limit(one.daily_tokens, one.daily_cost_nano_usd)),
    ]


def _owner(name: str) -> dict[str, str | None]:
    """Read whose limit a field of the policy is: `tenant:<tenant>` or `user:[<tenant>:]<user>`, encoded."""
    scope, *names = name.split(":")
    tenant = unquote(names[0]) if scope == "tenant" or len(names) > 1 else None
    return {"scope": scope, "tenant": tenant, "user": unquote(names[-1]) if scope == "user" else None}
