"""What the token budget is given: its limits, an amount, and who pays.

Tokens and money are integers below 2**53, where Lua's numbers stop being exact; money is in nano-dollars (10**-9 USD).
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from urllib.parse import quote

EXACT = 2**53
"""The first integer that a Lua number does not tell from its successor."""

DEFAULT_TENANT = "default"
# `quote` never leaves an "@", so no user's id can be spelled like this.
_ANONYMOUS = "@anonymous"


def check_amount(name: str, value: int, least: int = 0) -> None:
    """Raise ValueError unless `value` is an integer from `least` to 2**53 - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < EXACT:
        raise ValueError(f"expected {name} to be an integer from {least} to 2**53 - 1, got: {value!r}")


@dataclass(frozen=True)
class BudgetLimits:
    """The most that may be used and held together; None is no limit.

    The `daily_` and `user_daily_` limits hold per day and start anew at its end; a task's hold over its whole life.

    Args:
        request_tokens: The most that one reservation may ask for.
        alert_percents: Shares of each limit that raise an alert when so much is used (held does not count).
        utc_offset_s: The day begins at midnight of the zone this far east of UTC.
    """

    request_tokens: int | None = 10_000
    daily_tokens: int | None = 1_000_000
    daily_cost_nano_usd: int | None = None
    user_daily_tokens: int | None = None
    user_daily_cost_nano_usd: int | None = None
    task_tokens: int | None = None
    task_cost_nano_usd: int | None = None
    alert_percents: tuple[int, ...] = (50, 80, 95, 100)
    utc_offset_s: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_tokens", "_nano_usd")) and value is not None:
                check_amount(field.name, value, least=1)
        percents = self.alert_percents
        if list(percents) != sorted(set(percents)) or not all(0 < percent <= 100 for percent in percents):
            raise ValueError(f"expected alert_percents to rise from 1 to 100 at most, got: {percents!r}")
        if not -12 * 3600 <= self.utc_offset_s <= 14 * 3600:
            raise ValueError(f"expected utc_offset_s to be from -43200 to 50400, got: {self.utc_offset_s!r}")

    @property
    def has_task_limit(self) -> bool:
        """Whether tasks are booked at all: without a limit there is nothing to keep per task."""
        return self.task_tokens is not None or self.task_cost_nano_usd is not None

    @cached_property
    def encoded(self) -> str:
        """The limits as the scripts read them; JSON without the limits that are None."""
        scopes = {
            "global": {"tokens": self.daily_tokens, "cost": self.daily_cost_nano_usd},
            "user": {"tokens": self.user_daily_tokens, "cost": self.user_daily_cost_nano_usd},
            "task": {"tokens": self.task_tokens, "cost": self.task_cost_nano_usd},
        }
        limits: dict[str, object] = {
            name: {unit: limit for unit, limit in units.items() if limit is not None} for name, units in scopes.items()
        }
        if self.request_tokens is not None:
            limits["request"] = self.request_tokens
        return json.dumps({**limits, "alert_percents": self.alert_percents})


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens and what they cost."""

    tokens: int
    cost_nano_usd: int = 0

    def __post_init__(self) -> None:
        check_amount("tokens", self.tokens)
        check_amount("cost_nano_usd", self.cost_nano_usd)


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose budgets a call is booked on, besides the whole fleet's.

    Args:
        tenant: Users and tasks of two tenants never share a budget.
        user_id: Any string; None for the one budget that all anonymous users of the tenant share.
        task_id: None for a call outside of any task.
    """

    tenant: str = DEFAULT_TENANT
    user_id: str | None = None
    task_id: str | None = None

    @property
    def user(self) -> str:
        """The user as a part of a Redis key: percent-encoded, after its tenant if that is not the default."""
        return self._prefix + (_ANONYMOUS if self.user_id is None else _encode(self.user_id))

    @property
    def task(self) -> str:
        """The task as a part of a Redis key, empty if there is none."""
        return "" if self.task_id is None else self._prefix + _encode(self.task_id)

    @property
    def _prefix(self) -> str:
        return "" if self.tenant == DEFAULT_TENANT else f"{_encode(self.tenant)}:"


def _encode(name: str) -> str:
    # Names are data: a ':' in one must not make it another scope's, and JSON may carry lone surrogates.
    return quote(name, safe="", errors="surrogatepass")
