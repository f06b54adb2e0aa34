"""Rates of submissions, of a tenant and of a user within it.

Keys:
    agent:rate:<tenant>, agent:rate:<tenant>--<user>  hash  submissions in the current and the last window; two windows
"""

import re
from dataclasses import dataclass

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.errors import SettingsError

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
    """What is left of a user's rate."""

    wait_ms: int
    """Until a submission is allowed again; 0: this one was."""
    remaining: int
    resets_at: int
    """When the window ends (Unix time)."""


def hit_call(rate: Rate, tenant: str, user_id: str | None, now_ms: int | str = "") -> Call[Allowance]:
    """Count a submission of a user, if the rate allows it; users without an id are one user of their tenant."""
    return _hit(f"{tenant}--{user_id or ''}", rate, now_ms)


def tenant_hit_call(rate: Rate, tenant: str, now_ms: int | str = "") -> Call[Allowance]:
    """Count a submission of a tenant, of any of its users, if the rate allows it."""
    return _hit(tenant, rate, now_ms)


def _hit(whose: str, rate: Rate, now_ms: int | str) -> Call[Allowance]:
    return Call(
        load_script("producer/gateway/admission/hit"),
        [f"agent:rate:{whose}"],
        [rate.limit, rate.window_ms, now_ms],
        lambda reply: Allowance(reply[0], reply[1], reply[2] // 1_000),
    )
