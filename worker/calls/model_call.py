"""One guarded call, from the outside in: fallback, retry, admission, the call with its timeout, settling.

    call_models ── the first model, then each fallback, when one is refused or keeps failing
      └ call_model ── retries of failures: exponential with jitter, within the deadline
        └ call_at_rate ── waits for a refusal or a rate limit, which are no failures
          └ _attempt ── waits for a thread if the caller is sync; only then the clock of the call starts
              └ _send ── admit, call, settle a failure; a successful call is settled by the caller, at its end

The pattern is "Retry", "Circuit Breaker" and "Fallback" of the Azure architecture guide, in this order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from langgraph_rq.shared.breaker.circuit_breaker import Outcome
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.calls.provider_errors import read_failure, status_of
from langgraph_rq.worker.calls.rate_limits import PATIENCE_S, call_at_rate
from langgraph_rq.worker.guards.call_size import CallSize
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import Admitted, TaskGuard, Used

T = TypeVar("T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits on the attempts of a call.

    Args:
        attempts: The number per model, the first included.
        timeout_s: For one attempt.
        longest_wait_s: The longest pause before a retry or the next model.
    """

    attempts: int = 3
    timeout_s: float = 60.0
    longest_wait_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Target(Generic[T]):
    """A model to call.

    Args:
        breaker: The breaker's name.
        model: The model's name in the price list.
        size: Of the prompt and the output.
        step: Makes the call; gets the admitted call, whose `granted_tokens` may bound its output.
    """

    breaker: str
    model: str
    size: CallSize
    step: Callable[[Admitted], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Called(Generic[T]):
    """A call that succeeded, or a stream that began; the caller must settle it."""

    admitted: Admitted
    value: T


async def call_models(
    guards: Guards, task: TaskGuard, targets: Sequence[Target[T]], limits: CallLimits, parent_run_id: UUID | None = None
) -> Called[T]:
    """Call each of `targets` in turn until one answers; the last may be waited for, unless LangChain has a fallback.

    Raises:
        Refusal: the run must end.
        ProviderUnavailableError: none could be called, or all that were called failed.
        Exception: the request itself was rejected (a 400, a wrong key); another model would not help.
    """
    refused: list[ProviderUnavailableError] = []
    for number, target in enumerate(targets):
        is_last = number + 1 == len(targets)
        try:
            patience_s = PATIENCE_S if is_last else limits.longest_wait_s
            may_keep = is_last and parent_run_id not in task.waits.runs_with_fallbacks
            called = await call_model(guards, task, target, limits, patience_s, may_keep=may_keep)
        except ProviderUnavailableError as error:
            refused.append(error)
            if not is_last:
                _log.warning("model.fell_back", model=target.model, to=targets[number + 1].model)
        else:
            task.model = target.model
            task.fallback_used |= number > 0
            return called
    first = min(refused, key=lambda error: error.retry_after_s)
    raise ProviderUnavailableError(
        "; ".join(str(error) for error in refused),
        retry_after_s=first.retry_after_s,
        was_called=any(error.was_called for error in refused),
        wait=first.wait,
    ) from refused[-1]


async def call_model(
    guards: Guards,
    task: TaskGuard,
    target: Target[T],
    limits: CallLimits,
    patience_s: float = PATIENCE_S,
    *,
    may_keep: bool = True,
) -> Called[T]:
    """Call `target`, and retry while that may help; refusals are waited for beside the retries.

    Raises: the same as `call_models`.
    """
    attempt_once = partial(_attempt, guards, task, target, limits)
    at_rate = partial(call_at_rate, task, attempt_once, patience_s, may_keep=may_keep)
    try:
        return await at_rate()
    except ProviderUnavailableError as error:
        failed = [error]

    async def attempt() -> Called[T]:
        # tenacity starts after the first failure, which is replayed to it: a call that succeeds at once costs nothing.
        if failed:
            raise failed.pop()
        return await at_rate()

    return await _retrying(task, target.model, limits)(attempt)


def _retrying(task: TaskGuard, model: str, limits: CallLimits) -> AsyncRetrying:
    backoff = wait_exponential(multiplier=0.2, max=limits.longest_wait_s) + wait_random(0, 0.2)

    def wait_s(state: RetryCallState) -> float:
        error = _unavailable(state)
        return error.retry_after_s or backoff(state)

    def is_worth_it(error: BaseException) -> bool:
        if not isinstance(error, ProviderUnavailableError) or error.retry_after_s > limits.longest_wait_s:
            return False
        # A timeout may have been billed and took all its time; a refusal was waited for, as long as it makes sense.
        if error.timed_out or error.is_rate_limited or error.wait:
            return False
        return task.deadline_at is None or time.monotonic() + error.retry_after_s < task.deadline_at

    def log_retry(state: RetryCallState) -> None:
        wait_s = round(state.upcoming_sleep, 3)
        _log.info("model.retried", model=model, attempt=state.attempt_number, wait_s=wait_s)

    return AsyncRetrying(
        stop=stop_after_attempt(limits.attempts),
        wait=wait_s,
        retry=retry_if_exception(is_worth_it),
        before_sleep=log_retry,
        reraise=True,
    )


def _unavailable(state: RetryCallState) -> ProviderUnavailableError:
    error = state.outcome and state.outcome.exception()
    assert isinstance(error, ProviderUnavailableError)
    return error


async def _attempt(guards: Guards, task: TaskGuard, target: Target[T], limits: CallLimits) -> Called[T]:
    async with guards.loops.place():
        return await _send(guards, task, target, limits)


async def _send(guards: Guards, task: TaskGuard, target: Target[T], limits: CallLimits) -> Called[T]:
    admitted = await guards.admit(task, target.breaker, target.model, target.size, limits.timeout_s)
    limit = asyncio.timeout(limits.timeout_s)
    try:
        async with limit:
            return Called(admitted, await target.step(admitted))
    except BaseException as error:
        await settle_failure(guards, task, admitted, error)
        failure = read_failure(error)
        if failure.is_unavailable:
            message = f"{target.breaker}: {describe(error)}"
            raise ProviderUnavailableError(
                message,
                retry_after_s=failure.retry_after_s,
                was_called=failure.was_called,
                timed_out=limit.expired(),
                is_rate_limited=failure.outcome is Outcome.RATE_LIMITED,
                wait=failure.wait_for(target.breaker),
            ) from error
        raise


async def settle_failure(guards: Guards, task: TaskGuard, admitted: Admitted, error: BaseException) -> None:
    """Settle a call that failed or was cancelled."""
    failure = read_failure(error)
    used = None if failure.may_be_billed else Used(0, 0)
    await guards.settle(task, admitted, failure.outcome, used, failure.retry_after_s)


def describe(error: BaseException) -> str:
    """Describe an error by type and HTTP status only: its message may quote the prompt or the API key."""
    status = status_of(error)
    return type(error).__name__ + (f" (HTTP {status})" if status else "")
