"""The limits that a worker obeys: those of the fleet, in Redis, whatever its own settings say; and rates."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import NoReturn

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.budget.limits import BudgetLimits
from langgraph_rq.shared.budget.policy import Policy, read_policy_call
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.pacing.learned_rates import learned_call
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)

FOLLOW_S = 30.0
"""How often a worker reads the fleet's limits."""

_NANO = 10**9
_COMMANDS = {
    "request_tokens": ("LGRQ_BUDGET_REQUEST_TOKENS", "request"),
    "daily_tokens": ("LGRQ_BUDGET_DAILY_TOKENS", "global"),
    "daily_cost_nano_usd": ("LGRQ_BUDGET_DAILY_USD", "global --usd"),
    "tenant_daily_tokens": ("LGRQ_BUDGET_TENANT_DAILY_TOKENS", "tenant"),
    "tenant_daily_cost_nano_usd": ("LGRQ_BUDGET_TENANT_DAILY_USD", "tenant --usd"),
    "user_daily_tokens": ("LGRQ_BUDGET_USER_DAILY_TOKENS", "user"),
    "user_daily_cost_nano_usd": ("LGRQ_BUDGET_USER_DAILY_USD", "user --usd"),
    "task_tokens": ("LGRQ_BUDGET_TASK_TOKENS", "task"),
    "task_cost_nano_usd": ("LGRQ_BUDGET_TASK_USD", "task --usd"),
    "hold": ("LGRQ_BUDGET_HOLD", "hold"),
    "utc_offset_s": ("LGRQ_BUDGET_UTC_OFFSET_S", "utc_offset_s"),
}
"""Field of `BudgetLimits` -> its setting, and the arguments of `langgraph-producer budget set` before the value."""


async def obeyed_limits(redis: Redis, own: BudgetLimits, given: Collection[str]) -> BudgetLimits:
    """Return the fleet's limits, and log each setting that was `given` to this process and differs from them.

    A default may differ: after `langgraph-producer budget set` it does. Where the fleet has made no call yet, and while
    Redis is away, they are this process' own: its first call writes them, or is held to the fleet's by the scripts.
    """
    policy = await _read(redis, own)
    if policy is None:
        return own
    _emit_unreadable(policy)
    fleet = replace(policy.limits, call_output_tokens=own.call_output_tokens)
    for setting, ours, theirs, command in _differences(own, fleet):
        if setting in given:
            _log.warning("budget.settings_differ", setting=setting, own=ours, fleet=theirs, command=command)
    return fleet


async def follow_limits(
    redis: Redis, own: BudgetLimits, obey: Callable[[BudgetLimits], None], every_s: float = FOLLOW_S
) -> NoReturn:
    """Call `obey` with the fleet's limits whenever they have changed, until cancelled.

    The scripts read the limits themselves at each call; what a call holds is decided here, before it asks.
    """
    before: Policy | None = None
    while True:
        await asyncio.sleep(every_s)
        try:
            policy = await _read(redis, own)
        except RedisError:
            _log.exception("budget.policy_not_read")
            continue
        if policy and policy != before:
            if before is None or policy.unreadable != before.unreadable:
                _emit_unreadable(policy)
            obey(replace(policy.limits, call_output_tokens=own.call_output_tokens))
            before = policy


async def known_paces(redis: Redis) -> dict[str, Pace]:
    """Return the rates that the fleet has learned from its providers; none while Redis is away."""
    try:
        return await run(redis, learned_call())
    except RedisError as error:
        if not is_outage(error):
            raise
        return {}


def _emit_unreadable(policy: Policy) -> None:
    """Log the fields of the policy that cannot be read."""
    for name in policy.unreadable:
        _log.error("budget.policy_unreadable", field=name)


async def _read(redis: Redis, own: BudgetLimits) -> Policy | None:
    """Read the fleet's limits; None: there are none yet, or Redis is away."""
    try:
        return await run(redis, read_policy_call(own, with_own=False))
    except RedisError as error:
        if not is_outage(error):
            raise
        return None


def _differences(own: BudgetLimits, fleet: BudgetLimits) -> Iterator[tuple[str, str, str, str]]:
    for name, (setting, arguments) in _COMMANDS.items():
        ours, theirs = getattr(own, name), getattr(fleet, name)
        if ours != theirs:
            value = _shown(name, ours)
            yield setting, value, _shown(name, theirs), f"langgraph-producer budget set {arguments} {value}"


def _shown(name: str, value: int | str | None) -> str:
    """Write a value as its setting takes it."""
    if isinstance(value, int) and name.endswith("_nano_usd"):
        return f"{value / _NANO:.9f}".rstrip("0").rstrip(".")
    return "none" if value is None else str(value)
