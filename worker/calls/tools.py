"""`guarded(name)`: puts a tool, an HTTP call or any other service behind the fleet's breaker and a timeout.

    @tool
    @guarded("search", timeout_s=10)
    async def search(query: str) -> str: ...

Before each call one round trip checks that this worker still owns the task and that the breaker `name` lets the call
through. No budget is involved: the cost of a tool is unknown. An exception of the function is classified:

- Failure of the service: no connection, a timeout, HTTP 408 or 5xx, a truncated or malformed response, and the types
  in `failures`. The breaker counts it.
- Rate limit: HTTP 429 pauses all callers for its Retry-After; HTTP 402 opens the breaker at once.
- Error of the caller: any other 4xx. The service did answer, and the breaker does not count it.
- Anything else (a ValueError, an interrupt, a refusal, an unavailable model) does not concern the service.

Outside of a worker, in a test or a script, the function runs as if it were not guarded, unless `guards` are given.

The first two are raised as `ToolError`, as is a call that the breaker refuses (with `retry_after_s`); unless the graph
handles it, the task ends as `tool_error`. The other two are raised unchanged. Nothing is retried: only the graph knows
whether that is safe. With `once=True` a call is not repeated even if its node runs again, see once.py.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, allow_call, report_call
from langgraph_rq.worker.calls.model_call import describe
from langgraph_rq.worker.calls.once import OnceCall, OnceFunction, is_not_made
from langgraph_rq.worker.calls.provider_errors import Failure, read_failure
from langgraph_rq.worker.guards.admission import Became, admit_call, begin_once_call, refusal_of
from langgraph_rq.worker.guards.events import emit_transition
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError, ToolError
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task

TIMEOUT_S = 30.0
_PROBE_MARGIN_S = 5.0
_OTHER_CAUSES = (ToolError, ProviderUnavailableError, GraphBubbleUp)
"""Exceptions of another guarded call or of LangGraph, raised inside the function: not the service's own."""

P = ParamSpec("P")
R = TypeVar("R")


def guarded(
    name: str,
    *,
    timeout_s: float = TIMEOUT_S,
    limits: BreakerLimits | None = None,
    failures: tuple[type[Exception], ...] = (),
    once: bool = False,
    guards: Guards | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a function, sync or async, that calls the service `name`. Goes below LangChain's `@tool`, not above it.

    Args:
        name: The breaker's name, shared by all functions and workers that use it.
        timeout_s: For one call. After it a sync function is abandoned, but its thread runs on until it returns.
        limits: When the breaker opens; None: the worker's settings for models.
        failures: Further exception types that count as a failure of the service.
        once: Whether the function is not to be called again when its node runs again, see `once`.
        guards: For calls outside of a worker, which are not guarded without; inside, the task's guards are used.

    Raises:
        ValueError: the name is empty or the timeout is not positive.
        TypeError: the decorated object is not a plain function.
    """
    if not name:
        raise ValueError("expected a guarded service to have a name, got: ''")
    if not timeout_s > 0:
        raise ValueError(f"expected timeout_s to be more than 0, got: {timeout_s!r}")
    service = _Service(name, timeout_s, limits, failures, guards)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _check(function)
        made_once = OnceFunction(name, function) if once else None

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                task = service.task()
                entry = _place(made_once, task, args, kwargs)
                return await (
                    service.call(task, partial(function, *args, **kwargs), entry) if task else function(*args, **kwargs)
                )

            if made_once:
                made_once.dress(call_async)
            return cast(Callable[P, R], call_async)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            task = service.task()
            entry = _place(made_once, task, args, kwargs)
            if task is None:
                return function(*args, **kwargs)
            in_thread = partial(asyncio.to_thread, function, *args, **kwargs)
            return task.guards.loops.run_sync(service.call(task, in_thread, entry))

        if made_once:
            made_once.dress(call)
        return call

    return decorate


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    timeout_s: float
    limits: BreakerLimits | None
    failures: tuple[type[Exception], ...]
    guards: Guards | None

    def task(self) -> TaskGuard | None:
        """Return the run that pays; None: outside of a worker and without guards, nothing guards the call."""
        task = current_task.get()
        if task and (self.guards is None or self.guards is task.guards):
            return task
        return TaskGuard(self.guards) if self.guards else None

    async def call(self, task: TaskGuard, function: Callable[[], Awaitable[R]], entry: OnceCall | None) -> R:
        """Admit the call, run it in the caller's loop, and report its outcome.

        Args:
            task: The run that it belongs to.
            function: Makes the call.
            entry: Its place in the ledger; None: it may be made again.
        """
        try:
            async with task.guards.loops.place():
                return await self._send(task, function, entry)
        except BaseException:
            if entry:
                entry.ledger.free(entry.key)
            raise

    async def _send(self, task: TaskGuard, function: Callable[[], Awaitable[R]], entry: OnceCall | None) -> R:
        guards = task.guards
        admitted = await guards.loops.run_here(self._admit(task, entry))
        if isinstance(admitted, Became):
            assert entry
            return cast(R, entry.recorded(admitted))
        try:
            async with asyncio.timeout(self.timeout_s):
                value = await function()
        except BaseException as error:
            failure = self._read(error)
            if entry and is_not_made(error):
                await guards.loops.run_here(entry.give_back(guards.loops))
            await guards.loops.run_here(self._report(guards, admitted, failure.outcome, failure.retry_after_s))
            if failure.is_unavailable:
                raise ToolError(f"{self.name}: {describe(error)}", failure.retry_after_s or None) from error
            raise
        if entry:
            await guards.loops.run_here(entry.end(guards.loops, value))
        await guards.loops.run_here(self._report(guards, admitted, Outcome.OK))
        return value

    async def _admit(self, task: TaskGuard, entry: OnceCall | None) -> "_Admitted | Became":
        limits = replace(self.limits or task.guards.breaker, probe_lease_s=self.timeout_s + _PROBE_MARGIN_S)
        token = entry.token if entry else task.next_rid()
        owns, allow = task.owns_call(), allow_call(self.name, token, limits)
        admit = (
            begin_once_call(owns, entry.slots(), allow) if owns and entry else admit_call(owns, allow, None, None, None)
        )
        try:
            decision = await task.guards.decide(task, self.name, admit)
        except asyncio.CancelledError:  # it may leave a probe behind, which ends with its lease
            if entry:
                task.guards.loops.run_in_background(entry.give_back(task.guards.loops))
            raise
        if decision.became:
            return decision.became
        if decision.allowed and decision.allowed.admitted:
            return _Admitted(token, decision.allowed.generation, limits)
        refusal = refusal_of(decision, self.name)
        if isinstance(refusal, ProviderUnavailableError):
            raise ToolError(str(refusal), refusal.retry_after_s)
        raise refusal

    async def _report(self, guards: Guards, admitted: "_Admitted", outcome: Outcome, pause_s: float = 0.0) -> None:
        token, generation, pause_ms = admitted.token, admitted.generation, round(pause_s * 1000)
        report = report_call(self.name, token, generation, outcome, admitted.limits, retry_after_ms=pause_ms)
        await guards.loops.deliver(report, partial(emit_transition, self.name))

    def _read(self, error: BaseException) -> Failure:
        unrelated = Failure(Outcome.CANCEL, is_provider=False)
        if isinstance(error, _OTHER_CAUSES):
            return unrelated
        if isinstance(error, self.failures):
            return Failure(Outcome.FAIL)
        failure = read_failure(error)
        return failure if failure.is_provider else unrelated


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A call that may start; it must be reported, whatever its outcome."""

    token: str
    generation: int
    limits: BreakerLimits


def _place(once: OnceFunction | None, task: TaskGuard | None, args: Any, kwargs: dict[str, Any]) -> OnceCall | None:
    """Return the place in the ledger of a call that is made once, and give the function its key."""
    entry = once.begin(task, args, kwargs) if once and task and task.task_id else None
    kwargs.update(once.more(entry) if once else {})
    return entry


def _check(function: Any) -> None:
    if isinstance(function, BaseTool):
        raise TypeError(f"expected a function, got the tool {function.name!r}: put @guarded below @tool")
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"expected a function that returns its answer at once, got: {function!r}")
