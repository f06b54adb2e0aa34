"""The commands that show the guards of the fleet: its circuit breakers, and what its budget was spent on.

Reading changes nothing in Redis; `breaker --reset` writes, and needs a Redis user that may.
"""

from collections.abc import Iterable
from datetime import date, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

import click
from redis import Redis

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.producer.cli.payer import TENANT, USER
from langgraph_rq.producer.cli.views.guards import breaker_json, breaker_table, usage_json, usage_table
from langgraph_rq.shared import terminal
from langgraph_rq.shared.breaker.circuit_breaker import read_all_call, reset_call
from langgraph_rq.shared.budget.limits import DEFAULT_TENANT
from langgraph_rq.shared.budget.token_budget import Payer, usage_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import InvalidInputError, LanggraphRqError, Violation
from langgraph_rq.shared.queue.waits import BREAKER, wake_call
from langgraph_rq.shared.settings import BreakerSettings, BudgetSettings, CallSettings, load

KEPT_DAYS = 7
"""So long the budget keeps a day after its end."""

_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the input is wrong
  3  Redis cannot be reached
  4  no such breaker
"""
_json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object per line.")


class UnknownBreakerError(LanggraphRqError, LookupError):
    """No circuit breaker was used under this name in the last 24 hours.

    Attributes:
        name: The name.
        known: Those that were used.
        suggestion: The one that was probably meant.
    """

    def __init__(self, name: str, known: Iterable[str], suggestion: str | None = None) -> None:
        self.name = name
        self.known = tuple(known)
        self.suggestion = suggestion
        hint = f" (did you mean {suggestion}?)" if suggestion else f"; known: {', '.join(self.known) or 'none'}"
        super().__init__(f"--reset: no breaker {name!r} was used in the last 24 hours{hint}")


@click.command(epilog=_EXIT_CODES)
@click.option("--reset", "name", metavar="NAME", help="Close this breaker by hand; calls in flight have no vote.")
@_json_option
def breaker(name: str | None, *, as_json: bool) -> None:
    """Show the circuit breakers that were used in the last 24 hours.

    \b
    Examples:
      langgraph-producer breaker
      langgraph-producer breaker --json | jq 'select(.state != "closed")'
      langgraph-producer breaker --reset openai/gpt-4o
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    limits = load(BreakerSettings).limits(load(CallSettings).timeout_s)
    with connected_redis() as redis:
        breakers = scripts.run_sync(redis, read_all_call(limits))
        if name:
            _require(name, [one.name for one in breakers])
            transition, woken = scripts.run_many_sync(redis, [reset_call(name), wake_call([BREAKER + name])])
            for reply in (transition, woken):
                if isinstance(reply, Exception):
                    raise reply
            changed = {"name": name, "before": transition.before, "after": transition.after}
            terminal.write(changed if as_json else f"{name}: {transition.before} -> {transition.after}")
        elif as_json:
            for one in breakers:
                terminal.write(breaker_json(one))
        else:
            terminal.write(
                breaker_table(breakers, _now_ms(redis)) if breakers else "no breaker was used in the last 24 hours"
            )


@click.command(epilog=_EXIT_CODES.replace("  4  no such breaker\n", ""))
@click.option(
    "--user", "user_id", type=USER, metavar="USER", help="Of this user, of --tenant or of the default tenant."
)
@click.option("--tenant", type=TENANT, metavar="TENANT", help="Of this tenant; without both, of the whole fleet.")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="One of the last 7 days (default: today).")
@_json_option
def usage(user_id: str | None, tenant: str | None, day: datetime | None, *, as_json: bool) -> None:
    """Show tokens and money that were used on a day, with their limits and the alerts that were raised.

    \b
    Examples:
      langgraph-producer usage
      langgraph-producer usage --user ann --day 2026-11-21
      langgraph-producer usage --tenant acme
      langgraph-producer usage --json | jq .tokens.remaining

    Limits are the fleet's: see `langgraph-producer budget show`.
    """  # noqa: D301
    limits = load(BudgetSettings).limits()
    payer = Payer(tenant or DEFAULT_TENANT, user_id) if user_id or tenant else None
    read = partial(usage_call, limits, payer=payer, scope="user" if user_id else "tenant")
    with connected_redis() as redis:
        today = scripts.run_sync(redis, read())
        shown = scripts.run_sync(redis, read(_kept(day.date(), today.day))) if day else today
    terminal.write(usage_json(shown, user_id, tenant) if as_json else usage_table(shown, user_id, tenant))


def _require(name: str, known: list[str]) -> None:
    if name not in known:
        close = get_close_matches(name, known, n=1)
        raise UnknownBreakerError(name, known, close[0] if close else None)


def _kept(day: date, today: date) -> date:
    if not 0 <= (today - day).days <= KEPT_DAYS:
        raise InvalidInputError(Violation("--day", f"today ({today}) or one of the {KEPT_DAYS} days before", str(day)))
    return day


def _now_ms(redis: Redis) -> int:
    now: Any = redis.time()
    return int(now[0]) * 1000 + int(now[1]) // 1000
