"""Processes that make guarded model calls, for the tests of what the guards hold between processes.

`python -m tests.programs.guarded_callers outage REDIS MODEL PROCESSES` calls, one at a time, until its standard input
closes. `... spend REDIS MODEL PROCESSES CALLS TOKENS KILLS` makes CALLS calls per process on a budget of TOKENS, kills
one with SIGKILL and replaces it, KILLS times evenly over the calls, and prints how many were killed.

All are forked from one process that has imported the libraries, before it has any thread, loop or connection.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from multiprocessing import RawArray
from typing import Any

import openai
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, DeadlinePassed, ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task

BREAKER = BreakerLimits(window_s=0, open_s=0.2, max_open_s=0.2)
NAME = "openai/gpt-4o-mini"
OUTPUT_TOKENS = 20
AT_ONCE = 4
"""Calls of one spending process at a time, so that a kill hits some in every state."""
_POLL_S = 0.01
_PATIENCE_S = 120.0
_PRICING = Pricing()


def budget_of(tokens: int | None) -> BudgetLimits:
    return BudgetLimits(daily_tokens=tokens, utc_offset_s=43_200 - int(time.time()) % 86_400 // 3600 * 3600)


def make_model(url: str) -> BaseChatModel:
    """Make the model before the fork: it has no connection yet, and making it takes a third of a second."""
    model = ChatOpenAI(
        model="gpt-4o-mini",
        base_url=url,
        api_key="offline",
        max_tokens=OUTPUT_TOKENS,
        http_client=openai.DefaultHttpxClient(verify=False),
        http_async_client=openai.DefaultAsyncHttpxClient(verify=False),
    )
    return guarded_chat_model(model, limits=CallLimits(attempts=1, timeout_s=30))


async def guarded(
    redis_url: str, budget: BudgetLimits, calls: Coroutine[Any, Any, None], patience_s: float = _PATIENCE_S
) -> None:
    """Make the calls as those of one task, with guards of this process's own."""
    async with open_async(redis_url) as redis:
        guards = Guards(redis, redis_url, BREAKER, budget, _PRICING)
        current_task.set(TaskGuard(guards, deadline_at=time.monotonic() + patience_s))
        await calls
        await guards.aclose()


async def call_until(stop: Any, model: BaseChatModel) -> None:
    """Call, one at a time; a refused caller asks again soon."""
    while not stop[0]:
        try:
            await model.ainvoke("hi")
        except ProviderUnavailableError:
            await asyncio.sleep(_POLL_S)


async def spend(started: Any, slot: int, calls: int, model: BaseChatModel) -> None:
    """Make the calls of one slot that nobody has started, whatever becomes of them."""

    async def go_on() -> None:
        while started[slot] < calls:
            started[slot] += 1
            try:
                await model.ainvoke(f"question {started[slot]}")
            except (BudgetExceeded, DeadlinePassed):
                await asyncio.sleep(_POLL_S)  # what others hold may come back, but not before a killed one's minute

    await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))


def fork(run: Callable[[], Coroutine[Any, Any, None]]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(run())
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        os._exit(0)
    return pid


def outage(redis_url: str, model_url: str, processes: int) -> None:
    stop, model = RawArray("i", 1), make_model(model_url)
    pids = [fork(lambda: guarded(redis_url, budget_of(None), call_until(stop, model))) for _ in range(processes)]
    sys.stdin.read()
    stop[0] = 1
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        sys.exit("a caller failed: see its error above")


def spend_all(redis_url: str, model_url: str, processes: int, calls: int, tokens: int, kills: int) -> int:
    started, model, killed = RawArray("i", processes), make_model(model_url), 0

    def start(slot: int) -> int:
        patience_s = 10 + calls / 2
        return fork(lambda: guarded(redis_url, budget_of(tokens), spend(started, slot, calls, model), patience_s))

    running = {start(slot): slot for slot in range(processes)}
    struck = 0
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            if struck < kills and sum(started) >= processes * calls * (struck + 1) / (kills + 1):
                os.kill(random.choice(list(running)), signal.SIGKILL)
                struck += 1
            time.sleep(_POLL_S)
            continue
        slot = running.pop(pid)
        if os.WIFSIGNALED(status):
            killed += 1
            running[start(slot)] = slot
        elif status:
            sys.exit("a caller failed: see its error above")
    return killed


def main(mode: str, redis_url: str, model_url: str, processes: str, *rest: str) -> None:
    if mode == "outage":
        outage(redis_url, model_url, int(processes))
    else:
        calls, tokens, kills = map(int, rest)
        killed = spend_all(redis_url, model_url, int(processes), calls, tokens, kills)
        print(killed)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
