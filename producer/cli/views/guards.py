"""Circuit breakers and the budget, as tables for people and as JSON for machines."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from langgraph_rq.shared.breaker.circuit_breaker import BreakerState, BreakerStatus
from langgraph_rq.shared.budget.token_budget import Meter, Usage
from langgraph_rq.shared.terminal import Column, Rows

_COLOURS = {BreakerState.CLOSED: "green", BreakerState.HALF_OPEN: "yellow", BreakerState.OPEN: "red"}


def breaker_json(one: BreakerStatus) -> dict[str, Any]:
    """Give a breaker as JSON, its instants as text, null for none."""
    instants = {name: _iso(getattr(one, name)) for name in ("changed_at", "open_ends_at", "cooldown_ends_at")}
    return {**asdict(one), **instants}


def breaker_table(breakers: Iterable[BreakerStatus], now_ms: int) -> RenderableType:
    """Lay out breakers, a row each."""
    table = Rows("breaker", "state", "why", "until", *_numbers("failures", "window failed", "probes"))
    for one in breakers:
        table.add_row(
            Text(one.name),
            Text(one.state.value, style=_COLOURS[one.state]),
            one.why or ("rate_limited" if one.cooldown_ends_at > now_ms else "-"),
            _until(one, now_ms),
            str(one.failures),
            f"{one.window_failed} of {one.window_calls}",
            str(one.probes_in_flight),
        )
    return table


def _until(one: BreakerStatus, now_ms: int) -> str:
    """Say until when calls are refused for sure; an open time that is over ends with the next call, the probe."""
    ends_at = max(one.open_ends_at, one.cooldown_ends_at)
    if ends_at > now_ms:
        return f"in {(ends_at - now_ms) / 1000:.0f} s"
    return {BreakerState.CLOSED: "-", BreakerState.OPEN: "the next call", BreakerState.HALF_OPEN: "a probe succeeds"}[
        one.state
    ]


def usage_json(shown: Usage, user_id: str | None, tenant: str | None) -> dict[str, Any]:
    """Give a day of the budget as JSON, money in US dollars."""
    return {
        "day": shown.day.isoformat(),
        "user": user_id,
        "tenant": tenant,
        "unreadable": shown.unreadable or None,
        "resets_at": _iso(shown.resets_at_ms),
        "tokens": _meter_json(shown.tokens, lambda tokens: tokens),
        "cost_usd": _meter_json(shown.cost, lambda nano: nano / 1e9),
        "models": [
            {name: value for name, value in asdict(model).items() if name != "cost_nano_usd"}
            | {"cost_usd": model.cost_nano_usd / 1e9}
            for model in shown.models
        ],
    }


def _meter_json(meter: Meter, shown: Callable[[int], float]) -> dict[str, Any]:
    values = {name: getattr(meter, name) for name in ("used", "held", "limit", "remaining")}
    counted = {name: None if value is None else shown(value) for name, value in values.items()}
    return {**counted, "alerts_percent": list(meter.alerts)}


def usage_table(shown: Usage, user_id: str | None, tenant: str | None) -> RenderableType:
    """Lay out a day of the budget: its limits, then its models."""
    names = {"user": user_id, "tenant": tenant}
    whose = " of ".join(f"{kind} {name}" for kind, name in names.items() if name) or "the whole fleet"
    title = f"{shown.day} (resets at {_iso(shown.resets_at_ms)}), {whose}"
    meters = Rows("of", *_numbers("used", "held", "limit", "remaining", "used %"), "alerts at")
    meters.add_row("tokens", *_meter_row(shown.tokens, lambda tokens: f"{tokens:,}"))
    meters.add_row("US dollars", *_meter_row(shown.cost, lambda nano: f"{nano / 1e9:,.6f}"))
    parts: list[RenderableType] = [Text(title, style="bold"), Text(), meters]
    if shown.unreadable:
        problem = f"the limit in field {shown.unreadable} of agent:budget:policy cannot be read, so no call starts"
        parts += [Text(), Text(problem, style="red")]
    if shown.models:
        models = Rows("model", *_numbers("calls", "input", "output", "expired", "estimated", "US dollars"))
        for model in shown.models:
            numbers = (model.calls, model.input_tokens, model.output_tokens, model.expired_tokens)
            counts = (f"{number:,}" for number in (*numbers, model.estimated_calls))
            models.add_row(Text(model.model), *counts, f"{model.cost_nano_usd / 1e9:,.6f}")
        parts += [Text(), models]
    return Group(*parts)


def _meter_row(meter: Meter, show: Callable[[int], str]) -> tuple[str, ...]:
    limit, remaining = ("-" if value is None else show(value) for value in (meter.limit, meter.remaining))
    percent = "-" if meter.limit is None else f"{100 * meter.used / meter.limit:.1f}"
    alerts = ", ".join(f"{one} %" for one in meter.alerts) or "-"
    return show(meter.used), show(meter.held), limit, remaining, percent, alerts


def _numbers(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, right=True) for title in titles)


def _iso(at_ms: int) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else None
