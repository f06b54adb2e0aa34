"""The fleet's budget of tokens and money: what a model call may cost is held before it starts, and settled after it.

    reserve -> held --settle--> used          reserve -> refused: nothing is held
                    --expire--> used in full --settle--> used, corrected

`reserve` holds the most that a call can cost in every scope that it belongs to, or in none: its task, its user and the
whole fleet, each with a limit on tokens and one on money. used + held never passes a limit, whoever asks at once; only
a call that used more than it reserved can, and then by that much. A reservation whose caller died is charged in full
by `expire`, because the provider may have billed it. So what was billed is never more than what is used.

A reservation id belongs to one HTTP attempt (task:epoch:sequence). Reserved again it is held already; settled again it
changes nothing; settled after it expired, the charge is corrected, however late that is within an hour of the expiry.
A refusal books nothing, and the same id may be granted later.

A reservation belongs to the day on which it was made, by the server's clock and `BudgetLimits.utc_offset_s`; days are
numbered from 1970-01-01. Nothing is ever reset: a new day has new keys, and the old ones expire.

Keys:
    agent:budget:<day>:global                  hash    used_tokens, held_tokens, used_cost, held_cost (nano-dollars),
                                                       alerted_tokens, alerted_cost (percent)
    agent:budget:<day>:user:[<tenant>:]<user>  hash    the same
    agent:budget:task:[<tenant>:]<task>        hash    the same over all days; only if a task limit is set
    agent:budget:<day>:models                  hash    model -> its totals, the numbers of `ModelUsage`
    agent:budget:reservations                  zset    id of a live reservation -> its end in ms
    agent:budget:reservation:<id>              string  "state day tokens cost user task model"
    agent:budget:alerts                        stream  one entry per alert, about the last 1000
A day's keys go 7 days after its end, a task's 2 days after its last reservation, the rest 7 days after the last write.
But a reservation is kept for 1 hour once it is expired, so that a late settle can correct it, and for 10 minutes once
it is settled, so that a repeated settle or reserve changes nothing. When it is forgotten, a settle of it is `unknown`
and books nothing: what had expired stays charged in full.
Tenants, users and tasks are percent-encoded; the default tenant has no prefix; `@anonymous` is who has no user id.

Source: the two-phase "authorisation and capture" of card payments.
"""

from datetime import date

from redis.asyncio import Redis

from langgraph_rq.shared.budget.answers import (
    Alert,
    Expiry,
    Refused,
    Reservation,
    Settlement,
    read_expiry,
    read_reserved,
    read_settlement,
)
from langgraph_rq.shared.budget.limits import Amount, BudgetLimits, Payer, check_amount
from langgraph_rq.shared.budget.usage import Meter, ModelUsage, Usage, usage_call
from langgraph_rq.shared.connections.scripts import Call, load_script, run

__all__ = [
    "Alert",
    "Amount",
    "BudgetLimits",
    "Expiry",
    "Meter",
    "ModelUsage",
    "Payer",
    "Refused",
    "Reservation",
    "Settlement",
    "TokenBudget",
    "Usage",
    "expire_call",
    "reserve_call",
    "settle_call",
    "usage_call",
]

RESERVATIONS = "agent:budget:reservations"
RESERVATION = "agent:budget:reservation:"
ALERTS = "agent:budget:alerts"

MAX_TTL_MS = 24 * 3600 * 1000
"""The longest life of a reservation; far below the 7 days after which Redis forgets its scopes."""

RESERVE = load_script("shared/budget/reserve")
SETTLE, EXPIRE = load_script("shared/budget/settle"), load_script("shared/budget/expire")


def reserve_call(
    rid: str, amount: Amount, model: str, payer: Payer, limits: BudgetLimits, *, ttl_ms: int, now_ms: int | None = None
) -> Call[Reservation | Refused]:
    """Hold `amount` for the HTTP attempt `rid`, for at most `ttl_ms`, in every scope of `payer` or in none.

    `amount` is the most that the attempt can use: the bound of its input and its output limit, at `model`'s price.
    `ttl_ms` is the attempt's timeout and some margin: past it, `expire` charges the whole amount. `now_ms` is a test's
    clock in Unix time; None: the server's.
    """
    if not 1 <= ttl_ms <= MAX_TTL_MS:
        raise ValueError(f"expected ttl_ms to be from 1 to {MAX_TTL_MS}, got: {ttl_ms!r}")
    task = payer.task if limits.has_task_limit else ""
    return Call(
        RESERVE,
        [RESERVATIONS, RESERVATION + rid],
        [
            rid,
            amount.tokens,
            amount.cost_nano_usd,
            model,
            payer.user,
            task,
            ttl_ms,
            limits.encoded,
            limits.utc_offset_s * 1000,
            _clock(now_ms),
        ],
        lambda reply: read_reserved(rid, reply),
    )


def settle_call(
    rid: str,
    input_tokens: int,
    output_tokens: int,
    cost_nano_usd: int,
    limits: BudgetLimits,
    *,
    estimated: bool = False,
) -> Call[Settlement]:
    """Book what the attempt `rid` really used, and let go of what it holds; all zero hands the reservation back.

    `estimated` counts the call as one whose usage the provider did not tell (a broken stream).
    """
    for name, value in (("input_tokens", input_tokens), ("output_tokens", output_tokens), ("cost", cost_nano_usd)):
        check_amount(name, value)
    return Call(
        SETTLE,
        [RESERVATIONS, RESERVATION + rid, ALERTS],
        [rid, input_tokens, output_tokens, cost_nano_usd, int(estimated), limits.encoded],
        read_settlement,
    )


def expire_call(n: int, limits: BudgetLimits, now_ms: int | None = None) -> Call[Expiry]:
    """Charge at most `n` reservations that are past their time in full; any worker may, at any time."""
    if n < 1:
        raise ValueError(f"expected n to be at least 1, got: {n!r}")
    return Call(EXPIRE, [RESERVATIONS, ALERTS], [n, limits.encoded, RESERVATION, _clock(now_ms)], read_expiry)


class TokenBudget:
    """The verbs on one Redis with one set of limits; each is one round trip, and raises only Redis' own errors."""

    def __init__(self, redis: Redis, limits: BudgetLimits) -> None:
        self._redis = redis
        self._limits = limits

    async def reserve(
        self, rid: str, amount: Amount, model: str, payer: Payer, *, ttl_ms: int, now_ms: int | None = None
    ) -> Reservation | Refused:
        """Hold `amount`, or say which limit refuses; see `reserve_call`."""
        return await run(
            self._redis, reserve_call(rid, amount, model, payer, self._limits, ttl_ms=ttl_ms, now_ms=now_ms)
        )

    async def settle(
        self, rid: str, input_tokens: int, output_tokens: int, cost_nano_usd: int, *, estimated: bool = False
    ) -> Settlement:
        """Book what was really used; see `settle_call`."""
        call = settle_call(rid, input_tokens, output_tokens, cost_nano_usd, self._limits, estimated=estimated)
        return await run(self._redis, call)

    async def expire(self, n: int = 100, now_ms: int | None = None) -> Expiry:
        """Charge reservations past their time; see `expire_call`."""
        return await run(self._redis, expire_call(n, self._limits, now_ms))

    async def usage(self, day: date | None = None, payer: Payer | None = None, now_ms: int | None = None) -> Usage:
        """Read a day's meters; see `usage_call`."""
        return await run(self._redis, usage_call(self._limits, day, payer, now_ms))


def _clock(now_ms: int | None) -> int | str:
    return "" if now_ms is None else now_ms
