"""The fleet's budget of tokens and money: a call holds what it is likely to use before it starts, and settles after it.

    reserve -> held --settle--> used            reserve -> busy:    does not fit beside what is held; nothing is held
                    --expire--> used, estimated         -> refused: does not fit beside what is used; nothing is held

`reserve` holds in every scope of the call or in none: its task, its user, its tenant and the whole fleet, each with a
limit on tokens and one on money. No call is granted that does not fit beside what was used, however many ask at once.
With `Hold.WORST` used + held never passes a limit; with `Hold.ESTIMATE` a call can use more than it held, and a limit
is passed by at most that error of the calls in flight. A guessed output shrinks to the room that there is.

A reservation whose caller died is charged by `expire`, because the provider may have billed it: its input and the
model's mean output, at most what it holds, or all of that with `Hold.WORST`. Such charges are estimates, and counted
so.

A reservation id belongs to one HTTP attempt (task:epoch:sequence). Reserved again it is held already; settled again it
changes nothing; settled after it expired, the charge is corrected, however late that is within an hour of the expiry;
settled when Redis has lost it, it is booked on today. A refusal books nothing, and the same id may be granted later.

The limits are the fleet's, in Redis: the first caller writes its own, all others obey those, whatever they bring. Only
policy.py changes them.

A reservation belongs to the day on which it was made, by the server's clock and the policy's `utc_offset_s`; days are
numbered from 1970-01-01. The clock resets nothing: a new day has new keys, and the old ones expire.

Keys:
    agent:budget:policy                        hash    request, global, tenant, tenant:<tenant>, user,
                                                       user:[<tenant>:]<user>, task ("tokens nano-dollars", - for no
                                                       limit, = in one tenant's or user's for that of
                                                       all), hold, alert_percents, utc_offset_s; stays
    agent:budget:<day>:global                  hash    used_tokens, held_tokens, used_cost, held_cost (nano-dollars),
                                                       alerted_tokens, alerted_cost (percent), alerted_limit_tokens,
                                                       alerted_limit_cost, waiter ("tokens
                                                       nano-dollars end id" of the first call that waits)
    agent:budget:<day>:tenant:<tenant>         hash    the same; of the default tenant only if it has a limit
    agent:budget:<day>:user:[<tenant>:]<user>  hash    the same
    agent:budget:task:[<tenant>:]<task>        hash    the same over all days; only if a task limit is set
    agent:budget:<day>:models                  hash    model -> its totals, the numbers of `ModelUsage`
    agent:budget:model_stats                   hash    model -> sums over its last calls, the numbers of `ModelStats`;
                                                       at most 500 models, 30 days after the last call
    agent:budget:reservations                  zset    id of a live reservation -> its end in ms
    agent:budget:reservation:<id>              string  "state day tokens cost input_tokens input_cost tenant user task
                                                       model"; tokens and cost are what is held or was charged
    agent:budget:alerts                        stream  one entry per alert, about the last 1000
A day's keys go 7 days after its end, a task's 2 days after its last reservation, the rest 7 days after the last write.
But a reservation is kept for 1 hour once it is expired, so that a late settle can correct it, and for 10 minutes once
it is settled, so that a repeated settle or reserve changes nothing.
Tenants, users and tasks are percent-encoded; users and tasks of the default tenant have no prefix; `@anonymous` stands
for calls without a user id.

Source: the two-phase "authorisation and capture" of card payments.
"""

from langgraph_rq.shared.budget.answers import (
    Alert,
    Busy,
    Expiry,
    Refused,
    Reservation,
    Settlement,
    Unreadable,
    read_expiry,
    read_reserved,
    read_settlement,
)
from langgraph_rq.shared.budget.limits import Amount, BudgetLimits, Charge, Hold, Payer, Request
from langgraph_rq.shared.budget.usage import Meter, ModelUsage, Usage, usage_call
from langgraph_rq.shared.connections.scripts import Call, load_script

__all__ = [
    "Alert",
    "Amount",
    "BudgetLimits",
    "Busy",
    "Charge",
    "Expiry",
    "Hold",
    "Meter",
    "ModelUsage",
    "Payer",
    "Refused",
    "Request",
    "Reservation",
    "Settlement",
    "Unreadable",
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

RESERVE, SETTLE, EXPIRE = (load_script(f"shared/budget/scripts/{verb}") for verb in ("reserve", "settle", "expire"))


def reserve_call(
    rid: str,
    request: Request,
    model: str,
    payer: Payer,
    limits: BudgetLimits,
    *,
    ttl_ms: int,
    may_wait: bool = True,
    now_ms: int | None = None,
) -> Call[Reservation | Busy | Refused | Unreadable]:
    """Hold what the HTTP attempt `rid` asks for, for at most `ttl_ms`, in every scope of `payer` or in none.

    Args:
        rid: Of this attempt only.
        request: What is to be held.
        model: By its name in the price list.
        payer: Who pays.
        limits: Of this process, where the fleet has none.
        ttl_ms: The attempt's timeout and some margin: past it, `expire` charges the call.
        may_wait: Whether room is kept for a call that is busy; one that then does not wait settles nothing.
        now_ms: A test's clock in Unix time; None: the server's.
    """
    if not 1 <= ttl_ms <= MAX_TTL_MS:
        raise ValueError(f"expected ttl_ms to be from 1 to {MAX_TTL_MS}, got: {ttl_ms!r}")
    amounts = (
        request.input.tokens,
        request.input.cost_nano_usd,
        request.output.tokens,
        request.output.cost_nano_usd,
        int(request.is_guess),
    )
    return Call(
        RESERVE,
        [RESERVATIONS, RESERVATION + rid],
        [
            rid,
            *amounts,
            *_names(model, payer),
            ttl_ms,
            limits.encoded,
            int(may_wait),
            _clock(now_ms),
        ],
        lambda reply: read_reserved(rid, reply),
    )


def settle_call(
    rid: str,
    charge: Charge,
    model: str,
    payer: Payer,
    limits: BudgetLimits,
    *,
    now_ms: int | None = None,
) -> Call[Settlement]:
    """Book what the attempt `rid` really used, and release what it holds.

    A charge of nothing hands the reservation back; of a call that was busy, it gives up the place in wait.
    `model` and `payer` are for a reservation that Redis has lost: it is booked all the same, on today.
    """
    return Call(
        SETTLE,
        [RESERVATIONS, RESERVATION + rid, ALERTS],
        [
            rid,
            charge.input_tokens,
            charge.output_tokens,
            charge.cost_nano_usd,
            int(charge.is_estimated),
            charge.text_bytes,
            charge.text_tokens,
            limits.encoded,
            *_names(model, payer),
            _clock(now_ms),
        ],
        read_settlement,
    )


def _names(model: str, payer: Payer) -> tuple[str, str, str, str]:
    return model, payer.encoded_tenant, payer.user, payer.task


def expire_call(n: int, limits: BudgetLimits, now_ms: int | None = None) -> Call[Expiry]:
    """Charge at most `n` reservations that are past their time; any worker may, at any time."""
    if n < 1:
        raise ValueError(f"expected n to be at least 1, got: {n!r}")
    return Call(EXPIRE, [RESERVATIONS, ALERTS], [n, limits.encoded, RESERVATION, _clock(now_ms)], read_expiry)


def _clock(now_ms: int | None) -> int | str:
    return "" if now_ms is None else now_ms
