"""The guards of one worker process: `admit` before every model call, `settle` after it, one round trip each.

`admit` checks that this worker still owns the task, that the model's circuit breaker lets the call through, and that
the budget holds what it will likely cost. While running calls hold the budget, it waits for one of them to settle.
`settle` reports the outcome to the breaker and books the usage, or an estimate where the provider reported none.

If the caller is cancelled, a call that was admitted is released, and a call that has ended is settled, both in the
background. A call that ends while Redis is away is settled in the background too. A reservation that is never settled
is charged when it expires.

Callers on the worker's own loop await these methods; all others go through `Guards.loops`.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from functools import partial

from redis.asyncio import Redis

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, Verdict, allow_call, report_call
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import (
    MAX_TTL_MS,
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Refused,
    Request,
    Reservation,
    reserve_call,
    settle_call,
)
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.pacing.learned_rates import combined, learn_call
from langgraph_rq.shared.pacing.pacing import Pace, correct_call, pace_call
from langgraph_rq.worker.guards.admission import (
    Decision,
    Settled,
    admit_call,
    refusal_of,
    report_and_settle_call,
    report_early_call,
)
from langgraph_rq.worker.guards.call_size import CallSize
from langgraph_rq.worker.guards.event_loops import OUTAGE, EventLoops, stops_a_loop
from langgraph_rq.worker.guards.events import (
    emit_called,
    emit_learned,
    emit_refused,
    emit_settled,
    emit_transition,
    emit_waiting,
)
from langgraph_rq.worker.guards.known_models import MOST_MODELS, KnownModels
from langgraph_rq.worker.guards.refusals import BudgetBusy, DeadlinePassed, GuardUnavailable, TaskGone
from langgraph_rq.worker.guards.room import Room, Turn
from langgraph_rq.worker.guards.task_guard import Admitted, TaskGuard, Used
from langgraph_rq.worker.guards.tenant_calls import place_of
from langgraph_rq.worker.guards.waiting import IN_PLACE_S, CallWait, KeptAttempts
from langgraph_rq.worker.records.position import NodeRun

_RESERVATION_MARGIN_S = 30.0
_BUSY_RETRY_S = 1.0
_NOTHING = Request(Amount(0))


class Guards:
    """Admits and settles the calls of one process.

    Args:
        redis: The running loop's client.
        url: The same Redis, for callers outside of this loop.
        breaker, budget: The limits; all workers should use the same.
        pricing: The models' prices.
        is_held: Whether the worker is sure to hold its lease; without it no call starts.
        paces: The rates of models, by their name in the price list; a model that is missing has no limit.
        kept: The attempts that keep their memory while they wait.
        tenant_calls: Calls of one tenant in flight, in the whole fleet; None: any number.
    """

    def __init__(
        self,
        redis: Redis,
        url: str,
        breaker: BreakerLimits,
        budget: BudgetLimits,
        pricing: Pricing,
        is_held: Callable[[], bool] = lambda: True,
        paces: Mapping[str, Pace] | None = None,
        kept: KeptAttempts | None = None,
        tenant_calls: int | None = None,
    ) -> None:
        self.breaker = breaker
        self.budget = budget
        self.pricing = pricing
        self.paces = paces or {}
        self.learned_paces: dict[str, Pace] = {}
        """Rates that providers reported, by the name of a breaker; used where `paces` has none."""
        self.is_held = is_held
        self.loops = EventLoops(redis, url)
        self.kept = kept or KeptAttempts()
        self.tenant_calls = tenant_calls
        self._room = Room()
        self._models = KnownModels()

    async def aclose(self) -> None:
        """Finish the background calls and stop the loop of sync callers."""
        await self.loops.aclose()

    async def admit(self, task: TaskGuard, breaker: str, model: str, size: CallSize, ttl_s: float) -> Admitted:
        """Admit a model call; wait until the task's deadline while Redis is away.

        While running calls hold the budget, a call waits for a short time in place; after that its task waits, unless
        the attempt keeps its memory. A caller that stops a loop does not wait for the budget: the calls that hold it
        may be in that loop.

        Args:
            task: The run that the call belongs to.
            breaker: The breaker's name.
            model: The model's name in the price list.
            size: Of the prompt and the output.
            ttl_s: The longest time that the call can take.

        Raises:
            Refusal: the run must end (budget, cancel, ownership, no Redis).
            ProviderUnavailableError: the breaker refused; `retry_after_s` is when to ask again.
        """
        node = NodeRun.current()
        began_at = node.began_at if node else ""
        admitted = Admitted(task.next_rid(), breaker, model, 0, size, _NOTHING, task.payer, began_at=began_at)
        try:
            await self._admit(task, admitted, ttl_s)
        except BaseException:
            self._give_up(admitted)
            raise
        return admitted

    async def _admit(self, task: TaskGuard, admitted: Admitted, ttl_s: float) -> None:
        breaker, may_wait = admitted.breaker, not stops_a_loop.get()
        with self._room.turn(task.payer, may_wait=may_wait) as turn, self.kept.waiting(task.waits) as waiting:
            while True:
                await _wait_for(turn, task, waiting)
                decision = await self._ask(task, admitted, ttl_s)
                allowed, reserved = decision.allowed, decision.reserved
                if allowed and isinstance(reserved, Reservation):
                    task.budget_permille = reserved.fill_permille
                    admitted.generation, admitted.held, admitted.at = allowed.generation, reserved, time.monotonic()
                    admitted.is_probe = allowed.verdict is Verdict.PROBE
                    task.waits.in_flight += 1
                    if task.waits.things:
                        self.kept.on_change()
                    return
                if allowed and allowed.verdict is Verdict.PROBE:
                    # Before the call asks again: the same token may be the next probe.
                    report = report_call(breaker, admitted.rid, allowed.generation, Outcome.CANCEL, self.breaker)
                    await self.loops.deliver(report_early_call(report), partial(emit_transition, breaker))
                if isinstance(reserved, Refused):
                    emit_refused(breaker, reserved)
                if not isinstance(reserved, Busy):
                    raise refusal_of(decision, breaker)
                if not may_wait:
                    message = f"{reserved}; a sync call in an async node does not wait"
                    raise BudgetBusy(message, _BUSY_RETRY_S, turn.wait(reserved.scope))
                admitted.was_busy = True
                if not turn.line:
                    emit_waiting(breaker, reserved)
                turn.wait_for(reserved.scope)

    async def _ask(self, task: TaskGuard, admitted: Admitted, ttl_s: float) -> Decision:
        """Ask whether the call may start, with an estimate by what is known of its model now."""
        breaker, model, rid = admitted.breaker, admitted.model, admitted.rid
        admitted.request = admitted.size.request(model, self._models.stats_of(model), self.budget, self.pricing)
        ttl_ms = min(round((ttl_s + _RESERVATION_MARGIN_S) * 1000), MAX_TTL_MS)
        allow = allow_call(breaker, rid, self.breaker)
        request, payer = admitted.request, admitted.payer
        admitted.pace = combined(self.paces.get(model), self.learned_paces.get(breaker))
        pace = pace_call(breaker, admitted.pace, admitted.booked_tokens) if admitted.pace else None
        place = place_of(rid, payer.tenant, self.tenant_calls, ttl_ms)
        may_wait = not stops_a_loop.get()
        reserve = reserve_call(rid, request, model, payer, self.budget, ttl_ms=ttl_ms, may_wait=may_wait)
        try:
            decision = await self.decide(task, breaker, admit_call(task.owns_call(), allow, pace, place, reserve))
        except asyncio.CancelledError:
            # Redis may have admitted the call or not. The same reservation id, admitted again, is the same reservation;
            # the task is not checked again, because it may have ended.
            again = reserve_call(rid, request, model, payer, self.budget, ttl_ms=ttl_ms, may_wait=False)
            self.loops.run_in_background(self._release(admitted, admit_call(None, allow, None, None, again)))
            raise
        except Exception as error:
            # A fault in the budget: the breaker has let the call through, perhaps as its probe, all the same.
            self.loops.run_in_background(self._release(admitted, admit_call(None, allow, None, None, None)))
            # No Exception: LangChain swallows those of a sync call's callbacks, and makes the call.
            raise GuardUnavailable(f"Redis could not decide whether a call may start: {error}") from error
        if decision.reserved:
            self._models.learn(model, decision.reserved.stats)
        return decision

    async def settle(
        self, task: TaskGuard, admitted: Admitted, outcome: Outcome, used: Used | None, pause_s: float = 0.0
    ) -> None:
        """Report a call's outcome and book its usage; None books an estimate, by what was sent and received."""
        charge = self._models.charge(admitted, used, self.budget.hold, self.pricing)
        emit_called(
            admitted.breaker,
            admitted.model,
            outcome,
            duration_ms=round((time.monotonic() - admitted.at) * 1000),
            input_tokens=charge.input_tokens,
            output_tokens=charge.output_tokens,
            cost_nano_usd=charge.cost_nano_usd,
            is_estimated=charge.is_estimated,
        )
        use = task.add_usage(charge)
        task.waits.in_flight -= 1
        if task.waits.is_waiting:
            self.kept.on_change()
        task.waits.paid[admitted.began_at] += charge.input_tokens + charge.output_tokens > 0
        await self.loops.deliver(
            self._settle_call(admitted, outcome, charge, use, pause_s=pause_s),
            partial(emit_settled, admitted.breaker),
        )
        self._room.freed(task.payer)

    def learn_pace(self, breaker: str, pace: Pace) -> None:
        """Obey rates that a provider reported, and keep them for the fleet; from any thread."""
        if self.learned_paces.get(breaker) != pace and len(self.learned_paces) < MOST_MODELS:
            self.learned_paces[breaker] = pace
            self.loops.deliver_in_background(learn_call(breaker, pace), partial(emit_learned, breaker, pace))

    def report_first_chunk(self, admitted: Admitted) -> None:
        """Report a probe whose stream has begun, in the background: the stream may last longer than its lease.

        Only a probe reports early. Any other call has one vote, at its end: a provider whose streams all break must not
        collect a success for each.
        """
        if admitted.is_probe:
            admitted.is_probe = False
            report = report_call(admitted.breaker, admitted.rid, admitted.generation, Outcome.OK, self.breaker)
            done = partial(emit_transition, admitted.breaker)
            self.loops.deliver_in_background(report_early_call(report), done)

    async def decide(self, task: TaskGuard, breaker: str, call: Call[Decision]) -> Decision:
        """Run an admission call; while Redis is away or the lease is in doubt, wait until the task's deadline.

        Raises:
            GuardUnavailable: the deadline came first.
            DeadlinePassed: it had passed before.
            TaskGone: the run has ended.
        """
        failures = 0
        problem: Exception | str | None = None
        while not task.is_over:
            left_s = math.inf if task.deadline_at is None else task.deadline_at - time.monotonic()
            if left_s <= 0 and problem is None:
                raise DeadlinePassed("the task's deadline has passed")
            if left_s <= 0 or (problem and task.deadline_at is None):
                raise GuardUnavailable(f"Redis could not be asked whether a call may start: {problem}", _BUSY_RETRY_S)
            problem = "the worker's lease may be over"
            if self.is_held():
                decision = await self.loops.attempt(call)
                if isinstance(decision, Decision):
                    if decision.allowed:
                        emit_transition(breaker, decision.allowed.transition)
                    return decision
                problem = decision
            if task.deadline_at is not None:
                failures += 1
                await asyncio.sleep(min(OUTAGE.pause_s(failures), left_s))
        raise TaskGone("the run has ended")

    async def close_task(self, task: TaskGuard) -> None:
        """Settle a run's open calls: LangChain reports no end of a cancelled call, but the provider may bill it."""
        task.is_over = True
        while task.open:
            _, admitted = task.open.popitem()
            await self.settle(task, admitted, Outcome.CANCEL, None)

    def _give_up(self, admitted: Admitted) -> None:
        """Free the place in wait for the budget of a call that ends before it was admitted."""
        if admitted.was_busy:
            nothing = settle_call(admitted.rid, Charge(0, 0), admitted.model, admitted.payer, self.budget)
            self.loops.deliver_in_background(nothing, lambda _: self._room.freed(admitted.payer))

    async def _release(self, admitted: Admitted, admit: Call[Decision]) -> None:
        """Admit the call once more, which returns its generation, and settle it with nothing used."""
        decision = await self.loops.retry(admit)
        if decision and decision.allowed:
            emit_transition(admitted.breaker, decision.allowed.transition)
            admitted.generation = decision.allowed.generation
            admitted.pace = None  # it was not booked again, and may not have been before
            settled = await self.loops.retry(self._settle_call(admitted, Outcome.CANCEL, Charge(0, 0)))
            emit_settled(admitted.breaker, settled)
            self._room.freed(admitted.payer)

    def _settle_call(
        self,
        admitted: Admitted,
        outcome: Outcome,
        charge: Charge,
        use: Call[bool] | None = None,
        *,
        pause_s: float = 0.0,
    ) -> Call[Settled]:
        breaker, rid, pause_ms = admitted.breaker, admitted.rid, round(pause_s * 1000)
        more_tokens = charge.input_tokens + charge.output_tokens - admitted.booked_tokens
        return report_and_settle_call(
            report_call(breaker, rid, admitted.generation, outcome, self.breaker, retry_after_ms=pause_ms),
            settle_call(rid, charge, admitted.model, admitted.payer, self.budget),
            use,
            correct_call(breaker, admitted.pace, 0, more_tokens) if admitted.pace else None,
            place_of(rid, admitted.payer.tenant, self.tenant_calls),
        )


async def _wait_for(turn: Turn, task: TaskGuard, waiting: CallWait) -> None:
    """Wait until a call may ask the budget: in place, then with the attempt's memory kept.

    Raises:
        BudgetBusy: the task's deadline came first, or the task has to wait for its turn.
    """
    give_up_at = task.deadline_at
    if turn.line and task.task_id and give_up_at is not None and not waiting.thing:
        give_up_at = min(turn.joined_at + IN_PLACE_S, give_up_at)
    while not await turn.comes(give_up_at):
        wait = turn.wait()
        if task.deadline_at is None or time.monotonic() >= task.deadline_at:
            message = f"the {turn.scope}'s budget was held by running calls until the deadline"
            raise BudgetBusy(message, _BUSY_RETRY_S, wait)
        if not waiting.keep(wait.thing):
            raise BudgetBusy(f"the {turn.scope}'s budget is held by running calls", _BUSY_RETRY_S, wait)
        give_up_at = task.deadline_at
