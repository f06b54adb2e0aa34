"""Arguments of the budget's verbs: limits, amounts, what a call asks for, and who pays.

Tokens and money are integers below 2**53, where Lua's numbers stop being exact; money is in nano-dollars (10**-9 USD).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Literal
from urllib.parse import quote

Scope = Literal["request", "task", "user", "tenant", "global"]
"""Where limits apply; `request` is the limit of a single call, which nothing is booked on."""

Unit = Literal["tokens", "cost", "calls"]
"""Of amounts; `calls` are those of a tenant in flight, which worker/guards counts."""

EXACT = 2**53
"""The first integer that a Lua number does not tell from its successor."""

DEFAULT_TENANT = "default"
# `quote` never leaves an "@", so no user's id can be spelled like this.
_ANONYMOUS = "@anonymous"


def check_amount(name: str, value: int, least: int = 0) -> None:
    """Raise ValueError unless `value` is an integer from `least` to 2**53 - 1."""
    if type(value) is not int or not least <= value < EXACT:  # True is an int, too
        raise ValueError(f"expected {name} to be an integer from {least} to 2**53 - 1, got: {value!r}")


class Hold(StrEnum):
    """How much a call holds while it runs."""

    ESTIMATE = "estimate"
    """What such a call is likely to use: its input by the model's measured ratio, its output by the 99th percentile."""
    WORST = "worst"
    """The most that it can use: a token for each byte of input, and its whole output limit."""


@dataclass(frozen=True)
class BudgetLimits:
    """The most that may be used and held together; None is no limit.

    The `daily_` limits hold per day and start anew at its end; a task's hold over its whole life.

    Args:
        request_tokens: The most that one call may ask for.
        alert_percents: Shares of each limit that raise an alert when so much is used (held does not count).
        utc_offset_s: The day begins at midnight of the zone this far east of UTC.
        hold: How much a call holds, and is charged when it never reports.
        call_output_tokens: Held for the output of a call, at most, while its model is unknown. Each process' own.
    """

    request_tokens: int | None = 100_000
    daily_tokens: int | None = 1_000_000
    daily_cost_nano_usd: int | None = None
    user_daily_tokens: int | None = None
    user_daily_cost_nano_usd: int | None = None
    tenant_daily_tokens: int | None = None
    tenant_daily_cost_nano_usd: int | None = None
    task_tokens: int | None = None
    task_cost_nano_usd: int | None = None
    alert_percents: tuple[int, ...] = (50, 80, 95, 100)
    utc_offset_s: int = 0
    hold: Hold = Hold.ESTIMATE
    call_output_tokens: int = 4_096

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith(("_tokens", "_nano_usd")) and value is not None:
                check_amount(one.name, value, least=1)
        percents = self.alert_percents
        if list(percents) != sorted(set(percents)) or not all(0 < percent <= 100 for percent in percents):
            raise ValueError(f"expected alert_percents to rise from 1 to 100 at most, got: {percents!r}")
        if not -12 * 3600 <= self.utc_offset_s <= 14 * 3600:
            raise ValueError(f"expected utc_offset_s to be from -43200 to 50400, got: {self.utc_offset_s!r}")

    @cached_property
    def policy(self) -> dict[str, str]:
        """The fields of the fleet's policy in Redis: `request`, and tokens and nano-dollars of each scope."""
        return {
            "request": _written(self.request_tokens),
            "global": f"{_written(self.daily_tokens)} {_written(self.daily_cost_nano_usd)}",
            "tenant": f"{_written(self.tenant_daily_tokens)} {_written(self.tenant_daily_cost_nano_usd)}",
            "user": f"{_written(self.user_daily_tokens)} {_written(self.user_daily_cost_nano_usd)}",
            "task": f"{_written(self.task_tokens)} {_written(self.task_cost_nano_usd)}",
            "alert_percents": " ".join(map(str, self.alert_percents)),
            "utc_offset_s": str(self.utc_offset_s),
            "hold": self.hold.value,
        }

    @cached_property
    def encoded(self) -> str:
        """The policy as the scripts read it, to begin with where Redis has none."""
        return json.dumps(self.policy)

    @classmethod
    def of_policy(cls, policy: Mapping[str, str]) -> "BudgetLimits":
        """Read the limits for all tenants and users from the policy's fields.

        Raises:
            ValueError: one of them cannot be read.
        """
        (request,) = _read(policy["request"])
        tokens, cost = _read(policy["global"])
        tenant_tokens, tenant_cost = _read(policy["tenant"])
        user_tokens, user_cost = _read(policy["user"])
        task_tokens, task_cost = _read(policy["task"])
        return cls(
            request_tokens=request,
            daily_tokens=tokens,
            daily_cost_nano_usd=cost,
            tenant_daily_tokens=tenant_tokens,
            tenant_daily_cost_nano_usd=tenant_cost,
            user_daily_tokens=user_tokens,
            user_daily_cost_nano_usd=user_cost,
            task_tokens=task_tokens,
            task_cost_nano_usd=task_cost,
            alert_percents=tuple(whole_number(percent) for percent in policy["alert_percents"].split()),
            utc_offset_s=whole_number(policy["utc_offset_s"]),
            hold=Hold(policy["hold"]),
        )


NO_LIMIT = "-"


def _written(limit: int | None) -> str:
    return NO_LIMIT if limit is None else str(limit)


def _read(amounts: str) -> list[int | None]:
    return [None if amount == NO_LIMIT else whole_number(amount) for amount in amounts.split(" ")]


def whole_number(number: str) -> int:
    """Read a number as the scripts do: int() also takes "1_000", " 7" and the digits of other alphabets."""
    if not re.fullmatch(r"-?[0-9]{1,16}", number):
        raise ValueError(f"expected a whole number, got: {number!r}")
    return int(number)


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens and what they cost."""

    tokens: int
    cost_nano_usd: int = 0

    def __post_init__(self) -> None:
        check_amount("tokens", self.tokens)
        check_amount("cost_nano_usd", self.cost_nano_usd)


@dataclass(frozen=True, slots=True)
class Request:
    """What a call asks the budget for.

    Args:
        input: What it reads.
        output: What it may write.
        is_guess: Whether the output is not bounded by a limit that the model was given. A guess is held as far as there
            is room for it, and refuses nothing by itself.
    """

    input: Amount
    output: Amount = field(default_factory=lambda: Amount(0))
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call used.

    Args:
        is_estimated: Whether the provider did not report it (a cancelled call, a timeout, a broken stream).
        text_bytes: Of the text that was sent, for the model's ratio of tokens to bytes; 0 for a call that tells nothing
            about it.
        text_tokens: The input tokens of this text, without what the provider adds.
    """

    input_tokens: int
    output_tokens: int
    cost_nano_usd: int = 0
    is_estimated: bool = False
    text_bytes: int = 0
    text_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "cost_nano_usd", "text_bytes", "text_tokens"):
            check_amount(name, getattr(self, name))


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
    def encoded_tenant(self) -> str:
        """The tenant as a part of a Redis key."""
        return _encode(self.tenant)

    @property
    def _prefix(self) -> str:
        return "" if self.tenant == DEFAULT_TENANT else f"{_encode(self.tenant)}:"


@lru_cache(maxsize=4096)  # the parts of a payer are asked for several times per call
def _encode(name: str) -> str:
    # Names are data: a ':' in one must not make it another scope's, and JSON may carry lone surrogates.
    return quote(name, safe="", errors="surrogatepass")
