"""The scripts around a guarded call, one round trip each: admit it before it starts, settle it after it ended.

Each script runs the scripts of the queue, the breaker, pacing and the budget as functions, in this order. The rules
stay in those scripts; the ones here only combine their decisions, in one atomic step, and mark the waiting sets of what
these free.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langgraph_rq.shared.breaker.circuit_breaker import Admission, BreakerState, Transition
from langgraph_rq.shared.budget.token_budget import Busy, Expiry, Refused, Reservation, Settlement, Unreadable
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import Ownership
from langgraph_rq.shared.queue.waits import BREAKER, PACE, Wait
from langgraph_rq.worker.guards.refusals import (
    BudgetExceeded,
    DeadlinePassed,
    GuardUnavailable,
    ProviderUnavailableError,
    TaskCancelled,
    TaskGone,
)
from langgraph_rq.worker.guards.tenant_calls import Place


@dataclass(frozen=True, slots=True)
class Became:
    """What has become of a call that is made once, so that it does not start."""

    what: str
    """`done`, `unknown`, or `full`: it cannot be reserved."""
    result: bytes = b""
    """As it was recorded; empty: it could not be kept."""


class Decision(NamedTuple):
    """The decisions of queue, breaker, pacing and budget; None: not taken, because an earlier one refused the call."""

    ownership: Ownership
    allowed: Admission | None = None
    pace_ms: int = 0
    """How long the call is too early for the rate of its provider."""
    reserved: Reservation | Busy | Refused | Unreadable | None = None
    became: Became | None = None


class Settled(NamedTuple):
    """What a settled call changed at its breaker and in the budget."""

    transition: Transition
    settlement: Settlement


def admit_call(
    owns: Call[Ownership] | None,
    allow: Call[Admission],
    pace: Call[int] | None,
    place: Place | None,
    reserve: Call[Reservation | Busy | Refused | Unreadable] | None,
) -> Call[Decision]:
    """Decide whether a call may start.

    Args:
        owns: Is the task still this worker's? None: a call outside of any task.
        allow: Does the breaker admit the call?
        pace: Is it the call's turn at the rate of its provider? None: the rate has no limit.
        place: May the call's tenant have one more in flight? None: any number.
        reserve: Does the budget hold the call's cost? None: a call that no budget pays for.
    """

    def decode(reply: Sequence[Any]) -> Decision:
        parts = (
            allow.decode(reply[1]) if len(reply) > 1 else None,
            reply[2] if len(reply) > 2 else 0,
            reserve.decode(reply[3]) if reserve and len(reply) > 3 else None,
        )
        return Decision(Ownership(reply[0]), *parts)

    return Call(_ADMIT, *_slots(owns, allow, pace, place, reserve), decode)


def begin_once_call(
    owns: Call[Ownership], entry: tuple[Sequence[str], Sequence[Argument]], allow: Call[Admission]
) -> Call[Decision]:
    """Decide whether a call that is made once may start, and reserve it.

    Args:
        owns: Is the task still this worker's?
        entry: Slots of its place in the ledger.
        allow: Does the breaker admit it?
    """

    def decode(reply: Sequence[Any]) -> Decision:
        if len(reply) == 1:
            return Decision(Ownership(reply[0]))
        if reply[1]:
            return Decision(Ownership(reply[0]), allow.decode(reply[1]))
        return Decision(Ownership(reply[0]), became=Became(reply[2].decode(), reply[3]))

    keys = [*owns.keys, *entry[0], *allow.keys]
    slots: list[Argument] = []
    for some_keys, arguments in ((owns.keys, owns.args), entry, (allow.keys, allow.args)):
        slots += (len(some_keys), len(arguments), *arguments)
    return Call(_BEGIN_ONCE, keys, slots, decode)


def report_and_settle_call(
    report: Call[Transition],
    settle: Call[Settlement],
    use: Call[bool] | None,
    correct: Call[bool] | None = None,
    place: Place | None = None,
) -> Call[Settled]:
    """Report a call's outcome to its breaker, settle its reservation, and add its usage to its task and its rate.

    Args:
        report: The outcome, for the breaker.
        settle: The usage, for the budget.
        use: The usage, for the task's record; None: a call outside of any task.
        correct: What was used beyond what its rate was booked with; None: the rate has no limit.
        place: That it took when it was admitted; None: its tenant has no limit.
    """
    return Call(
        _SETTLE,
        *_slots(report, settle, place, use, correct),
        lambda reply: Settled(report.decode(reply[0]), settle.decode(reply[1])),
    )


def report_early_call(report: Call[Transition]) -> Call[Transition]:
    """Report a call's outcome to its breaker before the call is settled, and let the tasks go on that wait for it."""
    return Call(_REPORT_EARLY, *_slots(report), report.decode)


def expire_and_wake_call(expire: Call[Expiry]) -> Call[Expiry]:
    """Charge reservations of dead callers, and let the tasks go on that wait for a budget."""
    return Call(_EXPIRE, *_slots(expire), expire.decode)


def refusal_of(decision: Decision, breaker: str) -> BaseException:
    """Return the exception for a call that was not admitted."""
    if decision.ownership is Ownership.GONE:
        return TaskGone("another worker owns this task now")
    if decision.ownership is Ownership.CANCELLED:
        return TaskCancelled("the task was cancelled")
    if decision.ownership is Ownership.OVERDUE:
        return DeadlinePassed("the task's deadline has passed")
    if isinstance(decision.reserved, Refused):
        resets_at_ms = decision.reserved.resets_at_ms
        return BudgetExceeded(str(decision.reserved), resets_at_ms and max(0.0, resets_at_ms / 1000 - time.time()))
    if isinstance(decision.reserved, Unreadable):
        return GuardUnavailable(str(decision.reserved))
    assert decision.allowed
    if decision.pace_ms:
        wait_s = decision.pace_ms / 1000
        message = f"{breaker} is not called: its rate per minute is used up; next try in {wait_s:.1f} s"
        wait = Wait(PACE + breaker, decision.pace_ms, doubles=False)
        return ProviderUnavailableError(message, retry_after_s=wait_s, is_rate_limited=True, wait=wait)
    wait_s, state, why = decision.allowed.wait_ms / 1000, decision.allowed.state, decision.allowed.why
    reason = f"the circuit breaker is {state} ({why})" if why else "its rate limit is reached"
    return ProviderUnavailableError(
        f"{breaker} is not called: {reason}; next try in {wait_s:.1f} s",
        retry_after_s=wait_s,
        is_rate_limited=not why,
        is_half_open=state is BreakerState.HALF_OPEN,
        wait=Wait(BREAKER + breaker),
    )


def _slots(*calls: Call[Any] | Place | None) -> tuple[list[str], list[Argument]]:
    keys: list[str] = []
    arguments: list[Argument] = []
    for call in calls:
        if call is None:
            arguments += (0, 0)
        else:
            keys += call.keys
            arguments += (len(call.keys), len(call.args))
            arguments += call.args
    return keys, arguments


_ADMIT = load_script("worker/guards/scripts/admit")
_BEGIN_ONCE = load_script("worker/guards/scripts/begin_once")
_SETTLE = load_script("worker/guards/scripts/settle")
_REPORT_EARLY = load_script("worker/guards/scripts/report_early")
_EXPIRE = load_script("worker/guards/scripts/expire")
