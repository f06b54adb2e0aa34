"""Rates of submissions, of a tenant and of a user within it.

Keys:
    agent:rate:<tenant>, agent:rate:<tenant>--<user>  hash  submissions in the current and the last window; two windows
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import OPEN

_UNITS_S = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_RATE = re.compile(rf"([1-9]\d{{0,8}})\s*(?:/|per)\s*([1-9]\d{{0,5}})?\s*({'|'.join(_UNITS_S)})s?")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many submissions in so many milliseconds."""

    limit: int
    window_ms: int
    text: str
    """As it was set, for people."""

    def __str__(self) -> str:
        return self.text


def parse_rate(text: str, name: str = "LGRQ_GATEWAY_RATE") -> Rate:
    """Read a rate such as "600/minute" or "10 per 5 seconds". Raises SettingsError."""
    found = _RATE.fullmatch(text.strip().lower())
    if not found:
        raise SettingsError(f'{name}: expected a rate such as "600/minute", got: {text}')
    amount, multiple, unit = found.groups()
    return Rate(int(amount), int(multiple or 1) * _UNITS_S[unit] * 1_000, text.strip())


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a rate."""

    wait_ms: int
    """Until a submission is allowed again; 0: this one is."""
    remaining: int
    resets_at: int
    """When the window ends (Unix time)."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What stands in the way of a submission."""

    open_tasks: int
    """Of all tenants."""
    allowances: Sequence[Allowance]
    """Of each rate; the submission was counted if none has to wait."""


def hit_call(rates: Mapping[str, Rate], now_ms: int | str = "") -> Call[Hit]:
    """Count a submission, if all rates allow it; none is counted if one of them does not.

    Args:
        rates: By what they apply to: `<tenant>`, or `<tenant>--<user>`; users without an id are one of their tenant's.
        now_ms: In tests.
    """
    return Call(
        load_script("producer/gateway/admission/hit"),
        [OPEN, *(f"agent:rate:{whose}" for whose in rates)],
        [now_ms, *(part for rate in rates.values() for part in (rate.limit, rate.window_ms))],
        _read_hit,
    )


def _read_hit(reply: Sequence[Any]) -> Hit:
    open_tasks, *found = reply
    allowances = [Allowance(wait_ms, remaining, ends_ms // 1_000) for wait_ms, remaining, ends_ms in found]
    return Hit(open_tasks, allowances)
