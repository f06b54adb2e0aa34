"""Answers of the budget's verbs: plain values that say what was decided; the caller logs or raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple

from langgraph_rq.shared.budget.limits import Amount, Scope, Unit
from langgraph_rq.shared.budget.model_stats import ModelStats

_UNKNOWN = ModelStats()


class Reservation(NamedTuple):
    """The amount is held: the call may start, and must be settled.

    Args:
        fill_permille: How much of the tightest limit is used and held now, in thousandths: near 1000, a cheaper model
            is wiser than a refusal.
        held: What is held, which is less than requested where a guessed output had to shrink.
        output_tokens: The output among the held tokens.
        stats: What is known of the model's calls, for the next estimate.
    """

    rid: str
    fill_permille: int
    held: Amount
    output_tokens: int
    stats: ModelStats


@dataclass(frozen=True, slots=True)
class _NoRoom:
    """A limit that an amount does not fit into; nothing was held.

    Args:
        scope: The narrowest such scope; `request` is the limit of a single call.
        limit: Like used, held and requested in tokens or nano-dollars, as `unit` says.
        held: By running calls, and kept for the call that waits longest.
        resets_at_ms: When the scope's next day begins, in Unix time; None where no new day will help.
        stats: What is known of the model's calls, for the next estimate.
    """

    rid: str
    scope: Scope
    unit: Unit
    limit: int
    used: int
    held: int
    requested: int
    resets_at_ms: int | None
    stats: ModelStats = _UNKNOWN

    @property
    def remaining(self) -> int:
        """The most that would be granted now."""
        return max(0, self.limit - self.used - self.held)

    @property
    def _budget(self) -> str:
        unit = "token" if self.unit == "tokens" else "cost"
        return {
            "global": f"daily {unit} budget",
            "tenant": f"tenant's daily {unit} budget",
            "user": f"user's daily {unit} budget",
            "task": f"task's {unit} budget",
        }[self.scope]

    @property
    def _amounts(self) -> str:
        used, limit = show_amount(self.used, self.unit), show_amount(self.limit, self.unit)
        held = f", {show_amount(self.held, self.unit)} held" if self.held else ""
        return f"{used} of {limit} used{held}, {show_amount(self.requested, self.unit)} requested"


@dataclass(frozen=True, slots=True)
class Busy(_NoRoom):
    """The amount fits beside what is used, but not beside what running calls hold: one of them must settle first."""

    def __str__(self) -> str:
        if self.unit == "calls":
            return f"tenant's model calls: {self.held:,} of {self.limit:,} in flight"
        return f"{self._budget} held by running calls: {self._amounts}"


@dataclass(frozen=True, slots=True)
class Refused(_NoRoom):
    """The amount does not fit beside what is used: no waiting helps before the limit changes or its day ends."""

    def __str__(self) -> str:
        if self.scope == "request":
            return (
                f"request too large: {self.requested:,} tokens requested, {self.limit:,} allowed; shorten the input, "
                f"lower the output limit, or allow more: langgraph-producer budget set request {self.requested}"
            )
        message = f"{self._budget} spent: {self._amounts}"
        if self.resets_at_ms is None:
            return message
        return f"{message}; resets at {datetime.fromtimestamp(self.resets_at_ms / 1000, UTC):%Y-%m-%dT%H:%MZ}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A field of the policy is no limit; nothing was held, since no call may start on a limit that cannot be read."""

    rid: str
    field: str
    stats: ModelStats = _UNKNOWN

    def __str__(self) -> str:
        return (
            f"the limit in field {self.field} of agent:budget:policy cannot be read; an administrator sets it with "
            f"`langgraph-producer budget set {self.field.partition(':')[0]}`"
        )


def show_amount(value: int, unit: Unit) -> str:
    """Write tokens or nano-dollars for people."""
    if unit != "cost":
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


class Settlement(NamedTuple):
    """What a settle did.

    Args:
        outcome: `settled`; `corrected`, if the reservation had expired and was charged; `repeated`, if it was settled
            before, which changed nothing; `lost`, if Redis had forgotten it: booked on today.
        overshoot: How much more than held, or charged at its expiry, was used; booked in full, as it will be billed.
    """

    outcome: Literal["settled", "corrected", "repeated", "lost"]
    overshoot: Amount
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Expiry:
    """The ids of the reservations that were charged, and the alerts which that crossed."""

    charged: tuple[str, ...]
    alerts: tuple[Alert, ...]


def read_reserved(rid: str, reply: Sequence[Any]) -> Reservation | Busy | Refused | Unreadable:
    """Read the reply of reserve.lua."""
    if text(reply[0]) == "unreadable":
        return Unreadable(rid, text(reply[1]))
    if text(reply[0]) == "held":
        _, fill_permille, tokens, cost_nano_usd, output_tokens, known = reply
        return Reservation(
            rid, fill_permille, Amount(tokens, cost_nano_usd), output_tokens, ModelStats.parse(text(known))
        )
    answer, scope, unit, limit, used, held, requested, resets_at_ms, known = reply
    stats = ModelStats.parse(text(known))
    kind = Busy if text(answer) == "busy" else Refused
    return kind(rid, text(scope), text(unit), limit, used, held, requested, resets_at_ms or None, stats)


def read_settlement(reply: Sequence[Any]) -> Settlement:
    """Read the reply of settle.lua."""
    outcome, tokens, cost_nano_usd, alerts = reply
    return Settlement(text(outcome), Amount(tokens, cost_nano_usd), _read_alerts(alerts))


def read_expiry(reply: Sequence[Any]) -> Expiry:
    """Read the reply of expire.lua."""
    charged, alerts, _ = reply
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
