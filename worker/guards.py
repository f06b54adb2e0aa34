"""The guards of one worker process: before every model call it is asked whether it may start, after it what it cost.

`admit` asks three things in one round trip: is the task still ours, does the breaker let the call through, does the
budget hold what it may cost. When one says no, what the others gave is handed back. `settle` reports and books in one
round trip; when Redis is away then, it is tried again in the background, and what is never settled is charged in full
when its reservation ends.

Async callers of the worker's loop use this directly. Everybody else (a sync node, a sync call inside an async node)
gets to it through one event loop in a thread of its own.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import lua
from shared.circuit_breaker import Admission, BreakerLimits, Outcome, Transition, allow_call, report_call
from shared.logs import get_logger
from shared.pricing import Pricing
from shared.redis_clients import is_outage, open_async
from shared.task_queue import Ownership, owns_call
from shared.token_budget import Alert, Amount, BudgetLimits, Payer, Refusal, reserve_call, settle_call
from worker.refusals import BudgetExceeded, GuardUnavailable, ProviderUnavailableError, TaskCancelled, TaskGone

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_SETTLE_FOR_S = 120.0
_RESERVATION_MARGIN_S = 30.0
_SYNC_CALLS = 256
"""Model calls of sync callers at once."""

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
    _sequence: "count[int]" = field(default_factory=lambda: count(1))

    def next_rid(self) -> str:
        """Name one HTTP attempt."""
        return f"{self.task_id or f'free-{id(self):x}'}:{self.epoch}:{next(self._sequence)}"


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
        self._url = url
        self._home = asyncio.get_running_loop()
        self._redis = {self._home: redis}
        self._elsewhere: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._late: set[asyncio.Task[None]] = set()

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
        calls: list[lua.Call[Any]] = [
            allow_call(breaker, rid, self.breaker),
            reserve_call(
                rid, amount, model, task.payer, self.budget, ttl_ms=round((ttl_s + _RESERVATION_MARGIN_S) * 1000)
            ),
        ]
        if task.task_id:
            calls.append(owns_call(task.task_id, task.epoch, task.worker))
        allowed, reserved, *owned = await self._ask(task, calls)
        admitted = Admitted(rid, breaker, model, allowed.generation, amount)
        self._tell(breaker, allowed.transition)
        ownership = owned[0] if owned else Ownership.MINE
        if allowed.admitted and not isinstance(reserved, Refusal) and ownership is Ownership.MINE:
            task.budget_permille = reserved.fill_permille
            return admitted
        await self._hand_back(admitted, allowed, reserved)
        raise _refusal(ownership, breaker, allowed, reserved)

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
        calls: list[lua.Call[Any]] = [
            report_call(
                admitted.breaker,
                admitted.rid,
                admitted.generation,
                outcome,
                self.breaker,
                retry_after_ms=round(pause_s * 1000),
            ),
            settle_call(admitted.rid, *tokens, cost, self.budget, estimated=is_estimated),
        ]
        if not await self._report(admitted.breaker, calls):
            late = asyncio.get_running_loop().create_task(self._report_late(admitted.breaker, calls))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def close_task(self, task: TaskGuard) -> None:
        """Settle what a run left open: a call that was cancelled tells nobody how it ended, but may be billed."""
        task.is_over = True
        for run_id in list(task.open):
            admitted = task.open.pop(run_id, None)
            if admitted:
                await self.settle(task, admitted, Outcome.CANCEL, None)

    async def run_here(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine` in a loop that the guards have a client for: this one, or the one of sync callers."""
        if asyncio.get_running_loop() in self._redis:
            return await coroutine
        return await asyncio.wrap_future(self._submit(coroutine))

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` for a sync caller, who blocks; also inside a running loop this cannot deadlock."""
        return self._submit(coroutine).result()

    async def aclose(self) -> None:
        """Let late reports end, and end the loop of sync callers."""
        if self._late:
            await asyncio.wait(self._late, timeout=_LONGEST_WAIT_S)
        elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._redis.pop(elsewhere).aclose(), elsewhere))
            elsewhere.call_soon_threadsafe(elsewhere.stop)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._lock:
            if self._elsewhere is None:
                self._elsewhere = asyncio.new_event_loop()
                self._elsewhere.set_default_executor(ThreadPoolExecutor(_SYNC_CALLS, thread_name_prefix="guarded"))
                self._redis[self._elsewhere] = open_async(self._url)
                threading.Thread(target=_run_forever, args=(self._elsewhere,), name="guards", daemon=True).start()
        # The coroutine runs in the caller's context, so that what it calls still belongs to the caller's task.
        return copy_context().run(asyncio.run_coroutine_threadsafe, coroutine, self._elsewhere)

    async def _ask(self, task: TaskGuard, calls: list[lua.Call[Any]]) -> list[Any]:
        wait_s = _FIRST_WAIT_S
        while True:
            problem: object = "the worker's lease may be over"
            if self.is_held():
                problem = await self._try(calls)
                if isinstance(problem, list):
                    return problem
            if task.is_over or task.deadline_at is None or time.monotonic() + wait_s > task.deadline_at:
                raise GuardUnavailable(f"Redis could not be asked whether a model call may start: {problem}")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _try(self, calls: list[lua.Call[Any]]) -> list[Any] | Exception:
        """Run the calls; answer the outage instead if there is one. All of them may safely run twice."""
        try:
            replies = await lua.run_many(self._redis[asyncio.get_running_loop()], calls)
        except RedisError as error:
            replies = [error]
        for reply in replies:
            if isinstance(reply, Exception):
                if not is_outage(reply):
                    raise reply
                return reply
        return replies

    async def _hand_back(self, admitted: Admitted, allowed: Admission, reserved: object) -> None:
        calls: list[lua.Call[Any]] = []
        if allowed.admitted:
            calls.append(report_call(admitted.breaker, admitted.rid, admitted.generation, Outcome.CANCEL, self.breaker))
        if not isinstance(reserved, Refusal):
            calls.append(settle_call(admitted.rid, 0, 0, 0, self.budget))
        if calls:
            await self._report(admitted.breaker, calls)

    async def _report(self, breaker: str, calls: list[lua.Call[Any]]) -> bool:
        replies = await self._try(calls)
        if isinstance(replies, Exception):
            return False
        for reply in replies:
            if isinstance(reply, Transition):
                self._tell(breaker, reply)
            else:
                tell_alerts(reply.alerts)
        return True

    async def _report_late(self, breaker: str, calls: list[lua.Call[Any]]) -> None:
        give_up_at = time.monotonic() + _SETTLE_FOR_S
        wait_s = _FIRST_WAIT_S
        while time.monotonic() < give_up_at:
            await asyncio.sleep(wait_s)
            if await self._report(breaker, calls):
                return
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        _log.warning("model_call.not_settled", breaker=breaker, reason="Redis is away; it is charged in full")

    def _tell(self, breaker: str, transition: Transition) -> None:
        if transition.changed:
            _log.warning(f"breaker.{_EVENTS[transition.after]}", breaker=breaker, why=transition.why)


_EVENTS = {"open": "opened", "half_open": "half_opened", "closed": "closed"}


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


def _refusal(ownership: Ownership, breaker: str, allowed: Admission, reserved: object) -> BaseException:
    if ownership is Ownership.GONE:
        return TaskGone("another worker owns this task now")
    if ownership is Ownership.CANCELLED:
        return TaskCancelled("the task was cancelled")
    if isinstance(reserved, Refusal):
        wait_s = None if reserved.resets_at_ms is None else max(0.0, reserved.resets_at_ms / 1000 - time.time())
        return BudgetExceeded(str(reserved), wait_s)
    why = f"the circuit breaker is {allowed.state} ({allowed.why})" if allowed.why else "its rate limit is reached"
    message = f"{breaker} is not called: {why}; next try in {allowed.wait_ms / 1000:.1f} s"
    return ProviderUnavailableError(message, retry_after_s=allowed.wait_ms / 1000)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()
