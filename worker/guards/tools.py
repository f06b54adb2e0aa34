"""`guarded(name)`: a tool, an HTTP call or any other service of a graph, behind the fleet's breaker and a timeout.

    @tool
    @guarded("search", timeout_s=10)
    async def search(query: str) -> str: ...

Before each call one round trip asks: is the task still ours and not cancelled, does the breaker of this name let the
call through? There is no budget: what a tool costs nobody knows. Then what an exception means:

- The service failed: no connection, a timeout, HTTP 408 or 5xx, an answer that is cut off or no JSON, and whatever
  `failures` names. The breaker counts it.
- The service wants a pause: HTTP 429. All callers wait as long as its Retry-After says; 402 opens the breaker at once.
- The caller's mistake: any other 4xx. The service did answer; the breaker does not count it.
- Anything else (a ValueError, an interrupt, a refusal, a model that is not available) says nothing about the service.

The first two become a `ToolError`, as does a call that the breaker refuses (with `retry_after_s`): unless the graph
handles it, the task ends as `tool_error`. The other two get through as they are. Nothing is tried again: whether that
is safe only the graph knows.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.worker.guards.guards import Guards, TaskGuard, current_task
from langgraph_rq.worker.guards.model_call import describe
from langgraph_rq.worker.guards.provider_errors import Failure, read_failure
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError, ToolError

TIMEOUT_S = 30.0
_PROBE_MARGIN_S = 5.0
_NOT_THE_SERVICE = (ToolError, ProviderUnavailableError, GraphBubbleUp)
"""Of something that was called on the way: whatever caused it, this service did not."""

P = ParamSpec("P")
R = TypeVar("R")


def guarded(
    name: str,
    *,
    timeout_s: float = TIMEOUT_S,
    limits: BreakerLimits | None = None,
    failures: tuple[type[Exception], ...] = (),
    guards: Guards | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a function, sync or async, that calls the service `name`; below LangChain's `@tool`, not above it.

    Args:
        name: Of the breaker; all functions and workers that use it share it.
        timeout_s: Of one call. A sync function is given up after it, but its thread goes on until it returns.
        limits: When the breaker opens; None: as the worker's settings say for models.
        failures: Further exceptions that mean that the service failed.
        guards: Only outside of a worker, where there is no task to find them by.

    Raises:
        ValueError: the name is empty or the timeout is not positive.
        TypeError: it is put on something that is no plain function.
    """
    if not name:
        raise ValueError("expected a guarded service to have a name, got: ''")
    if not timeout_s > 0:
        raise ValueError(f"expected timeout_s to be more than 0, got: {timeout_s!r}")
    service = _Service(name, timeout_s, limits, failures, guards)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _check(function)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await service.call(service.task(), partial(function, *args, **kwargs))

            return cast(Callable[P, R], call_async)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            task = service.task()
            in_thread = partial(asyncio.to_thread, function, *args, **kwargs)
            return task.guards.run_sync(service.call(task, in_thread))

        return call

    return decorate


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    timeout_s: float
    limits: BreakerLimits | None
    failures: tuple[type[Exception], ...]
    guards: Guards | None

    def task(self) -> TaskGuard:
        task = current_task.get()
        if task and (self.guards is None or self.guards is task.guards):
            return task
        if self.guards is None:
            raise RuntimeError(f"{self.name} is called outside of a worker's task: give guarded() guards=Guards(...)")
        return TaskGuard(self.guards)

    async def call(self, task: TaskGuard, function: Callable[[], Awaitable[R]]) -> R:
        """Ask, call in the loop that it is called in, and report."""
        limits = replace(self.limits or task.guards.breaker, probe_lease_s=self.timeout_s + _PROBE_MARGIN_S)
        try:
            entered = await task.guards.run_here(task.guards.enter(task, self.name, limits))
        except ProviderUnavailableError as error:
            raise ToolError(str(error), error.retry_after_s) from None
        try:
            async with asyncio.timeout(self.timeout_s):
                value = await function()
        except BaseException as error:
            failure = self._read(error)
            await task.guards.run_here(task.guards.leave(entered, failure.outcome, failure.retry_after_s))
            if failure.is_unavailable:
                raise ToolError(f"{self.name}: {describe(error)}", failure.retry_after_s or None) from error
            raise
        await task.guards.run_here(task.guards.leave(entered, Outcome.OK))
        return value

    def _read(self, error: BaseException) -> Failure:
        nothing = Failure(Outcome.CANCEL, is_provider=False)
        if isinstance(error, _NOT_THE_SERVICE):
            return nothing
        if isinstance(error, self.failures):
            return Failure(Outcome.FAIL)
        failure = read_failure(error)
        return failure if failure.is_provider else nothing


def _check(function: Any) -> None:
    if isinstance(function, BaseTool):
        raise TypeError(f"expected a function, got the tool {function.name!r}: put @guarded below @tool")
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"expected a function that returns its answer at once, got: {function!r}")
