"""The guards of one worker process: before every model call it is asked whether it may start, after it what it cost.

`admit` asks three things in one round trip: is the task still ours, does the breaker let the call through, does the
budget hold what it may cost. `settle` reports and books in one round trip. Both keep their word when their caller is
cancelled in the middle: what was admitted is taken back, what is to be settled is settled, in the background. So it is
when Redis is away at the end of a call; what is never settled is charged in full when its reservation ends.

Async callers of the worker's loop use this directly, everybody else through `GuardLoops`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.breaker.circuit_breaker import (
    BreakerLimits,
    Outcome,
    Transition,
    Verdict,
    allow_call,
    report_call,
)
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import (
    MAX_TTL_MS,
    Alert,
    Amount,
    BudgetLimits,
    Payer,
    Refused,
    Reservation,
    reserve_call,
    settle_call,
)
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.queue.task_queue import Use, owns_call, use_call
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.guards.admission import Decision, Settled, admit_call, refusal_of, report_and_settle_call
from langgraph_rq.worker.guards.loops import GuardLoops
from langgraph_rq.worker.guards.refusals import GuardUnavailable, TaskGone

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_LATE_FOR_S = 120.0
_RESERVATION_MARGIN_S = 30.0
_REMEMBERED_ERRORS = 16

T = TypeVar("T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used, as its provider says; `is_estimated` when it did not."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may start; it must be settled, whatever happens."""

    rid: str
    breaker: str
    model: str
    generation: int
    reserved: Amount
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Entered:
    """A call of a service that may start; it must be left, whatever happens."""

    token: str
    breaker: str
    generation: int
    limits: BreakerLimits


@dataclass(slots=True)
class TaskGuard:
    """What the guards know of one run of a task: who pays, until when, and what it has used so far."""

    guards: "Guards"
    task_id: str | None = None
    epoch: int = 0
    worker: str = ""
    payer: Payer = field(default_factory=Payer)
    deadline_at: float | None = None
    """On the monotonic clock; without one, an outage of Redis is an error at once."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    model: str | None = None
    """The model that answered last."""
    fallback_used: bool = False
    budget_permille: int = 0
    """How full the tightest limit was at the last admission."""
    is_over: bool = False
    open: dict[Any, Admitted] = field(default_factory=dict)
    """Calls of unchanged models, by LangChain's run id."""
    call_errors: deque[BaseException] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_ERRORS))
    """What model calls raised last: the same error of any other code is the graph's own."""
    _sequence: "count[int]" = field(default_factory=lambda: count(1))

    def next_rid(self) -> str:
        """Name one HTTP attempt; never as one before, whose reservation would answer for it."""
        task = self.task_id or f"free-{uuid4().hex}"
        return f"{task}:{self.epoch}:{next(self._sequence)}"


current_task: ContextVar[TaskGuard | None] = ContextVar("current_task", default=None)
"""The run that this context belongs to; threads and tasks that LangGraph starts inherit it."""


class Guards:
    """Admits and settles the calls of one process.

    Args:
        redis: The running loop's client.
        url: The same Redis, for callers outside of this loop.
        breaker, budget: The limits; all workers should agree on them.
        pricing: What models cost.
        is_held: Whether the worker surely still has its lease; without it no call starts.
    """

    def __init__(
        self,
        redis: Redis,
        url: str,
        breaker: BreakerLimits,
        budget: BudgetLimits,
        pricing: Pricing,
        is_held: Callable[[], bool] = lambda: True,
    ) -> None:
        self.breaker = breaker
        self.budget = budget
        self.pricing = pricing
        self.is_held = is_held
        self._loops = GuardLoops(redis, url)
        self.run_here = self._loops.run_here
        self.run_sync = self._loops.run_sync
        self.aclose = self._loops.aclose

    async def admit(self, task: TaskGuard, breaker: str, model: str, tokens: tuple[int, int], ttl_s: float) -> Admitted:
        """Ask whether a call may start; waits for Redis until the task's deadline.

        Args:
            task: The run that the call belongs to.
            breaker: The breaker's name.
            model: As it is priced.
            tokens: The most it can read and write.
            ttl_s: How long the call may take.

        Raises:
            Refusal: the run is over (budget, cancel, ownership, no Redis).
            ProviderUnavailableError: the breaker says no; `retry_after_s` says when to ask again.
        """
        rid = task.next_rid()
        amount = Amount(sum(tokens), self.pricing.bound_nano_usd(model, *tokens).nano_usd)
        ttl_ms = min(round((ttl_s + _RESERVATION_MARGIN_S) * 1000), MAX_TTL_MS)
        allow = allow_call(breaker, rid, self.breaker)
        reserve = reserve_call(rid, amount, model, task.payer, self.budget, ttl_ms=ttl_ms)
        owns = owns_call(task.task_id, task.epoch, task.worker) if task.task_id else None
        try:
            answer = await self._ask(task, admit_call(owns, allow, reserve))
        except asyncio.CancelledError:
            # Whether it was admitted is unknown: asked again, with the same id, it is; the task may be gone by now.
            self._loops.later(
                self._take_back(Admitted(rid, breaker, model, 0, amount), admit_call(None, allow, reserve))
            )
            raise
        if answer.allowed:
            self._tell(breaker, answer.allowed.transition)
        if answer.allowed and isinstance(answer.reserved, Reservation):
            task.budget_permille = answer.reserved.fill_permille
            return Admitted(rid, breaker, model, answer.allowed.generation, amount)
        if answer.allowed and answer.allowed.verdict is Verdict.PROBE:
            report = report_call(breaker, rid, answer.allowed.generation, Outcome.CANCEL, self.breaker)
            self._loops.later(self._report_late(breaker, report))
        _tell_refused(breaker, answer)
        raise refusal_of(answer, breaker)

    async def settle(
        self, task: TaskGuard, admitted: Admitted, outcome: Outcome, used: Used | None, pause_s: float = 0.0
    ) -> None:
        """Report how a call ended and book what it used; None books all that was reserved, as an estimate."""
        if used is None:
            tokens, cost, is_estimated = (admitted.reserved.tokens, 0), admitted.reserved.cost_nano_usd, True
        else:
            tokens, is_estimated = (used.input_tokens, used.output_tokens), used.is_estimated
            cached = (used.cached_input_tokens, used.cache_write_tokens)
            cost = self.pricing.cost_nano_usd(admitted.model, *tokens, *cached).nano_usd
        task.input_tokens += tokens[0]
        task.output_tokens += tokens[1]
        task.cost_nano_usd += cost
        _tell_call(admitted, outcome, tokens, cost, is_estimated=is_estimated)
        use = use_call(task.task_id, Use(*tokens, cost)) if task.task_id else None
        call = self._settle_call(admitted, outcome, tokens, cost, use, pause_s=pause_s, estimated=is_estimated)
        try:
            settled = await self._try(call)
        except asyncio.CancelledError:
            self._loops.later(self._settle_late(admitted, call))
            raise
        if isinstance(settled, Exception):
            self._loops.later(self._settle_late(admitted, call))
        else:
            self._tell_settled(admitted, settled)

    async def enter(self, task: TaskGuard, breaker: str, limits: BreakerLimits) -> Entered:
        """Ask whether a call of a service that is no model may start: as `admit`, without the budget.

        Raises:
            Refusal, ProviderUnavailableError: as `admit`.
        """
        token = task.next_rid()
        owns = owns_call(task.task_id, task.epoch, task.worker) if task.task_id else None
        # Who is cancelled here may leave a probe behind; its lease ends it.
        answer = await self._ask(task, admit_call(owns, allow_call(breaker, token, limits), None))
        if answer.allowed:
            self._tell(breaker, answer.allowed.transition)
            if answer.allowed.admitted:
                return Entered(token, breaker, answer.allowed.generation, limits)
        _tell_refused(breaker, answer)
        raise refusal_of(answer, breaker)

    async def leave(self, entered: Entered, outcome: Outcome, pause_s: float = 0.0) -> None:
        """Report how the call of a service ended."""
        pause_ms = round(pause_s * 1000)
        report = report_call(
            entered.breaker, entered.token, entered.generation, outcome, entered.limits, retry_after_ms=pause_ms
        )
        try:
            transition = await self._try(report)
        except asyncio.CancelledError:
            self._loops.later(self._report_late(entered.breaker, report))
            raise
        if isinstance(transition, Exception):
            self._loops.later(self._report_late(entered.breaker, report))
        else:
            self._tell(entered.breaker, transition)

    async def _report_late(self, breaker: str, report: scripts.Call[Transition]) -> None:
        transition = await self._insist(report)
        if transition:
            self._tell(breaker, transition)

    async def close_task(self, task: TaskGuard) -> None:
        """Settle what a run left open: a call that was cancelled tells nobody how it ended, but may be billed."""
        task.is_over = True
        while task.open:
            _, admitted = task.open.popitem()
            await self.settle(task, admitted, Outcome.CANCEL, None)

    def _settle_call(
        self,
        admitted: Admitted,
        outcome: Outcome,
        tokens: tuple[int, int],
        cost_nano_usd: int,
        use: scripts.Call[bool] | None = None,
        *,
        pause_s: float = 0.0,
        estimated: bool = False,
    ) -> scripts.Call[Settled]:
        breaker, rid, pause_ms = admitted.breaker, admitted.rid, round(pause_s * 1000)
        return report_and_settle_call(
            report_call(breaker, rid, admitted.generation, outcome, self.breaker, retry_after_ms=pause_ms),
            settle_call(rid, *tokens, cost_nano_usd, self.budget, estimated=estimated),
            use,
        )

    async def _ask(self, task: TaskGuard, call: scripts.Call[Decision]) -> Decision:
        wait_s = _FIRST_WAIT_S
        while not task.is_over:
            problem: Exception | str = "the worker's lease may be over"
            if self.is_held():
                answer = await self._try(call)
                if isinstance(answer, Decision):
                    return answer
                problem = answer
            left_s = 0.0 if task.deadline_at is None else task.deadline_at - time.monotonic()
            if left_s <= 0:
                raise GuardUnavailable(f"Redis could not be asked whether a call may start: {problem}")
            await asyncio.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        raise TaskGone("the run has ended")

    async def _try(self, call: scripts.Call[T]) -> T | Exception:
        """Run the call; answer the outage instead if there is one. It may safely run twice."""
        try:
            return await self._loops.trips.run(call)
        except RedisError as error:
            if not is_outage(error):
                raise
            return error

    async def _insist(self, call: scripts.Call[T]) -> T | None:
        """Run the call as soon as Redis answers; None: it did not for a long time."""
        give_up_at = time.monotonic() + _LATE_FOR_S
        wait_s = _FIRST_WAIT_S
        while isinstance(done := await self._try(call), Exception):
            if time.monotonic() > give_up_at:
                return None
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        return done

    async def _settle_late(self, admitted: Admitted, call: scripts.Call[Settled]) -> None:
        settled = await self._insist(call)
        if settled:
            self._tell_settled(admitted, settled)
        else:
            _log.warning("model_call.not_settled", breaker=admitted.breaker, reason="Redis is away; charged in full")

    async def _take_back(self, admitted: Admitted, admit: scripts.Call[Decision]) -> None:
        answer = await self._insist(admit)
        if answer and answer.allowed:
            self._tell(admitted.breaker, answer.allowed.transition)
            admitted = replace(admitted, generation=answer.allowed.generation)
            await self._settle_late(admitted, self._settle_call(admitted, Outcome.CANCEL, (0, 0), 0))

    def _tell_settled(self, admitted: Admitted, settled: Settled) -> None:
        self._tell(admitted.breaker, settled.transition)
        tell_alerts(settled.settlement.alerts)

    def _tell(self, breaker: str, transition: Transition) -> None:
        if transition.changed:
            _log.warning(_EVENTS[transition.after], breaker=breaker, why=transition.why)


_EVENTS = {"open": "breaker.opened", "half_open": "breaker.half_opened", "closed": "breaker.closed"}


def _tell_call(
    admitted: Admitted, outcome: Outcome, tokens: tuple[int, int], cost_nano_usd: int, *, is_estimated: bool
) -> None:
    """Log a call that was made; metrics and traces listen to this event."""
    _log.info(
        "model.called",
        model=admitted.model,
        provider=admitted.breaker.partition("/")[0],
        outcome=outcome.value,
        duration_ms=round((time.monotonic() - admitted.at) * 1000),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cost_nano_usd=cost_nano_usd,
        estimated=is_estimated,
    )


def tell_alerts(alerts: "tuple[Alert, ...]") -> None:
    """Log the alerts that one of our calls crossed; nobody else will."""
    for alert in alerts:
        _log.warning(
            "budget.alerted",
            scope=alert.scope,
            subject=alert.subject,
            unit=alert.unit,
            percent=alert.percent,
            used=alert.used,
            limit=alert.limit,
        )


def _tell_refused(breaker: str, decision: Decision) -> None:
    if isinstance(decision.reserved, Refused):
        _log.warning("budget.refused", scope=decision.reserved.scope, unit=decision.reserved.unit, breaker=breaker)
