"""What the token budget's verbs answer: plain values that say what was decided; the caller logs or raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from langgraph_rq.shared.budget.limits import Amount

Scope = Literal["request", "global", "user", "task"]
Unit = Literal["tokens", "cost"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """The amount is held: the call may start, and must be settled.

    Args:
        fill_permille: How much of the tightest limit is used and held now, in thousandths: near 1000, a cheaper model
            is wiser than a refusal.
    """

    rid: str
    fill_permille: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The amount does not fit, and nothing was held.

    Args:
        scope: The narrowest scope that refuses; `request` is the limit of a single reservation.
        limit: Like used, held and requested in tokens or nano-dollars, as `unit` says.
        resets_at_ms: When the scope's next day begins, in Unix time; None where no new day will help.
    """

    rid: str
    scope: Scope
    unit: Unit
    limit: int
    used: int
    held: int
    requested: int
    resets_at_ms: int | None

    @property
    def remaining(self) -> int:
        """The most that would be granted now."""
        return max(0, self.limit - self.used - self.held)

    def __str__(self) -> str:
        if self.scope == "request":
            return (
                f"request too large: {self.requested:,} tokens requested, {self.limit:,} allowed; "
                "shorten the input or lower the output limit"
            )
        unit = "token" if self.unit == "tokens" else "cost"
        owner = {
            "global": f"daily {unit} budget",
            "user": f"user's daily {unit} budget",
            "task": f"task's {unit} budget",
        }
        used, limit = show_amount(self.used, self.unit), show_amount(self.limit, self.unit)
        held = f", {show_amount(self.held, self.unit)} held" if self.held else ""
        message = (
            f"{owner[self.scope]} spent: {used} of {limit} used{held}, "
            f"{show_amount(self.requested, self.unit)} requested"
        )
        if self.resets_at_ms is None:
            return message
        return f"{message}; resets at {datetime.fromtimestamp(self.resets_at_ms / 1000, UTC):%Y-%m-%dT%H:%MZ}"


def show_amount(value: int, unit: Unit) -> str:
    """Write tokens or nano-dollars for people."""
    if unit == "tokens":
        return f"{value:,}"
    dollars, nanos = divmod(value, 10**9)
    return f"${dollars:,}.{f'{nanos:09}'.rstrip('0'):0<2}"


@dataclass(frozen=True, slots=True)
class Alert:
    """A share of a limit was used up, told to exactly one caller per scope, unit and day (per task: once).

    Args:
        subject: The user or task as in its key (`Payer.user`, `Payer.task`), safe to log; empty for the whole fleet.
        used: Like limit in tokens or nano-dollars, as `unit` says.
    """

    scope: Scope
    subject: str
    unit: Unit
    percent: int
    used: int
    limit: int
    day: date


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a settle did.

    Args:
        outcome: `settled`; `corrected`, if the reservation had been charged in full before; `repeated`, if it was
            settled before; `unknown`, if it was never made or is forgotten. The last two changed nothing.
        overshoot: How much more than reserved was used; booked in full, as it will be billed.
    """

    outcome: Literal["settled", "corrected", "repeated", "unknown"]
    overshoot: Amount
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Expiry:
    """The ids of the reservations that were charged in full, and the alerts which that crossed."""

    charged: tuple[str, ...]
    alerts: tuple[Alert, ...]


def read_reserved(rid: str, reply: Sequence[Any]) -> Reservation | Refused:
    """Read the reply of reserve.lua."""
    if text(reply[0]) == "held":
        return Reservation(rid, reply[1])
    _, scope, unit, limit, used, held, requested, resets_at_ms = reply
    return Refused(rid, text(scope), text(unit), limit, used, held, requested, resets_at_ms or None)


def read_settlement(reply: Sequence[Any]) -> Settlement:
    """Read the reply of settle.lua."""
    outcome, tokens, cost_nano_usd, alerts = reply
    return Settlement(text(outcome), Amount(tokens, cost_nano_usd), _read_alerts(alerts))


def read_expiry(reply: Sequence[Any]) -> Expiry:
    """Read the reply of expire.lua."""
    charged, alerts = reply
    return Expiry(tuple(text(rid) for rid in charged), _read_alerts(alerts))


def _read_alerts(rows: Sequence[Sequence[Any]]) -> tuple[Alert, ...]:
    return tuple(
        Alert(text(scope), text(subject), text(unit), percent, used, limit, day_of(number))
        for scope, subject, unit, percent, used, limit, number in rows
    )


def text(raw: bytes | str) -> Any:
    """Read a word of a reply, from clients with and without `decode_responses`; its set of words is the script's."""
    return raw.decode() if isinstance(raw, bytes) else raw


def day_of(number: int) -> date:
    """Give the day with this number: 0 is 1970-01-01."""
    return date(1970, 1, 1) + timedelta(days=number)
