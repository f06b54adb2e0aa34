"""Read the token budget: per day, per user and per model. Reading changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from typing import Any, Literal

from langgraph_rq.shared.budget.answers import day_of, text
from langgraph_rq.shared.budget.limits import BudgetLimits, Payer
from langgraph_rq.shared.connections.scripts import Call, load_script

POLICY = "agent:budget:policy"
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Meter:
    """One unit of one scope, in tokens or nano-dollars; `alerts` are the percentages that were raised."""

    used: int
    held: int
    limit: int | None
    alerts: tuple[int, ...]

    @property
    def remaining(self) -> int | None:
        """The most that would be granted now; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What the fleet's calls of one model used on a day; tokens used = input + output + expired.

    Args:
        expired_tokens: Tokens of reservations that were charged without a settle, so without a direction.
        calls: Calls that used anything, expired ones included.
        estimated_calls: Those of them whose usage the provider did not tell.
    """

    model: str
    input_tokens: int
    output_tokens: int
    expired_tokens: int
    calls: int
    estimated_calls: int
    cost_nano_usd: int


@dataclass(frozen=True, slots=True)
class Usage:
    """A day of the whole fleet, a tenant or a user; `models` are the whole fleet's, and empty for the others.

    `unreadable` names the policy's field in which the limit cannot be read, so that no call starts; empty: none.
    """

    day: date
    resets_at_ms: int
    tokens: Meter
    cost: Meter
    models: tuple[ModelUsage, ...]
    unreadable: str = ""


def usage_call(
    limits: BudgetLimits,
    day: date | None = None,
    payer: Payer | None = None,
    now_ms: int | None = None,
    *,
    scope: Literal["user", "tenant"] = "user",
) -> Call[Usage]:
    """Read what was used and is held on `day` (None: today) by the whole fleet, or by the user or tenant of `payer`.

    `limits` hold only where Redis has no policy yet. `now_ms` is a test's clock in Unix time; None: the server's.
    """
    number = "" if day is None else (day - day_of(0)).days
    subject = "" if payer is None else payer.user if scope == "user" else payer.encoded_tenant
    return Call(
        load_script("shared/budget/scripts/usage"),
        [POLICY],
        [number, "global" if payer is None else scope, subject, limits.encoded, "" if now_ms is None else now_ms],
        lambda reply: _read_usage(payer is None, reply),
    )


def _read_usage(is_fleet: bool, reply: Sequence[Any]) -> Usage:
    number, utc_offset_s, limit, percents, booked, models, unreadable = reply
    fields = {text(field): value for field, value in zip(booked[::2], booked[1::2], strict=True)}
    by_model = (_model(model, totals) for model, totals in zip(models[::2], models[1::2], strict=True))
    tokens_limit, cost_limit = (None if one == "-" else int(one) for one in text(limit).split())
    return Usage(
        day=day_of(number),
        resets_at_ms=((number + 1) * _DAY_S - utc_offset_s) * 1000,
        tokens=_meter(fields, "tokens", tokens_limit, percents),
        cost=_meter(fields, "cost", cost_limit, percents),
        models=tuple(sorted((one for one in by_model if one.calls), key=attrgetter("model"))) if is_fleet else (),
        unreadable=text(unreadable),
    )


def _meter(fields: Mapping[str, Any], unit: str, limit: int | None, alert_percents: Sequence[int]) -> Meter:
    alerted, used, held = (int(fields.get(f"{name}_{unit}", 0)) for name in ("alerted", "used", "held"))
    is_higher = limit is not None and int(fields.get(f"alerted_limit_{unit}", limit)) < limit
    raised = tuple(percent for percent in alert_percents if percent <= alerted and not is_higher)
    return Meter(used, held, limit, raised)


def _model(model: bytes | str, totals: bytes | str) -> ModelUsage:
    # In the order in which prelude.lua writes them.
    return ModelUsage(text(model), *(int(total) for total in text(totals).split()))
