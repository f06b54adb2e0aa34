"""The cost that the guards add to a model call: the round trip of admission against a PING, and CPU time.

The calls alternate in one loop: a PING, an admission, a settlement on one client; then pairs of calls, guarded and
not, of one ChatOpenAI. The model answers at once, so that only CPU work is measured.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import openai
import uvloop
from langchain_openai import ChatOpenAI
from redis.asyncio import Redis

from benchmarks.measured import Cell, Goal, Measured, Measurement
from benchmarks.rig import Rig
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.telemetry.logs import configure
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.task_guard import Admitted, TaskGuard, Used, current_task

ADMIT_LIMIT, SETTLE_LIMIT = 1.5, 2.0
CPU_LIMIT_MS = 1.0
_MODEL = "gpt-4o-mini"
_WARM_UP = 50
_OWNER = "benchmark"
_SIZE = CallSize(Prompt(300, messages=1), output_limit=100)


def measure(rig: Rig) -> Measured:
    """Measure round trips and CPU."""
    turns, pairs = rig.count(3_000, 500), rig.count(1_000, 250)
    with (
        rig.redis() as server,
        OfflineLLM() as model,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - the process logs there from now on
        configure(stream=nowhere)  # a worker writes a line for each call; here it is made, and not shown
        trips = runner.run(_measure_trips(server.url, turns))
        cpu_ms = runner.run(_measure_cpu(server.url, model.url, pairs))
    ping_us = trips["PING"]
    rows: list[dict[str, Cell]] = [
        {"round trip": name, "median_us": us, "x_ping": us / ping_us} for name, us in trips.items()
    ]
    calls: list[dict[str, Cell]] = [{"call": name, "median_cpu_ms": median(cpu)} for name, cpu in cpu_ms.items()]
    # Pair by pair: two calls that follow each other saw the same machine.
    added_ms = median(
        with_ms - bare_ms for with_ms, bare_ms in zip(cpu_ms["guarded"], cpu_ms["ChatOpenAI"], strict=True)
    )
    goals = [
        Goal("admission of a model call", trips["admit"] / ping_us, ADMIT_LIMIT, "x a PING"),
        Goal("settlement of a model call", trips["settle"] / ping_us, SETTLE_LIMIT, "x a PING"),
        Goal("CPU that the guards add to a call", added_ms, CPU_LIMIT_MS, "ms"),
    ]
    note = "admit: still ours, breaker, budget. settle: report and book. Both from `Guards`, Python's part included."
    also = [Measured("CPU of one ainvoke, without latency", calls)]
    return Measured("What the guards ask of Redis", rows, goals, note, also)


async def _measure_trips(url: str, turns: int) -> dict[str, float]:
    async with open_async(url) as redis:
        guards, task = await _guards(redis, url)
        took: dict[str, list[float]] = {"PING": [], "admit": [], "settle": []}
        for turn in range(turns + _WARM_UP):
            admitted: Admitted
            ping_s, _ = await _timed(redis.ping)
            admit_s, admitted = await _timed(lambda: guards.admit(task, f"openai/{_MODEL}", _MODEL, _SIZE, 60))
            settle_s, _ = await _timed(
                lambda admitted=admitted: guards.settle(task, admitted, Outcome.OK, Used(30, 10))
            )
            if turn >= _WARM_UP:
                for name, seconds in zip(took, (ping_s, admit_s, settle_s), strict=True):
                    took[name].append(seconds)
        await guards.aclose()
    return {name: median(seconds) * 1e6 for name, seconds in took.items()}


async def _measure_cpu(url: str, model_url: str, pairs: int) -> dict[str, list[float]]:
    async with open_async(url) as redis, openai.DefaultAsyncHttpxClient(verify=False) as http:
        guards, task = await _guards(redis, url)
        current_task.set(task)
        model = ChatOpenAI(
            model=_MODEL,
            base_url=model_url,
            api_key="offline",
            max_tokens=100,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=False),
            http_async_client=http,
        )
        kinds = {"ChatOpenAI": model, "guarded": guarded_chat_model(model)}
        took: dict[str, list[float]] = {name: [] for name in kinds}
        for pair in range(pairs + _WARM_UP):
            for name, kind in kinds.items():
                before_s = time.process_time()
                await kind.ainvoke("What is 2 + 2?")
                if pair >= _WARM_UP:
                    took[name].append((time.process_time() - before_s) * 1000)
        await guards.aclose()
    return took


async def _guards(redis: Redis, url: str) -> tuple[Guards, TaskGuard]:
    """Make guards with limits of every kind, and a task that runs."""
    day = 2**50
    budget = BudgetLimits(daily_tokens=day, daily_cost_nano_usd=day, user_daily_tokens=day, task_tokens=day)
    guards = Guards(redis, url, BreakerLimits(), budget, Pricing())
    deadline_ms = round((time.time() + 3600) * 1000)
    task = {"state": "running", "epoch": 1, "owner": _OWNER, "deadline": deadline_ms}
    await redis.hset(task_hash("t"), mapping=task)
    return guards, TaskGuard(guards, "t", 1, _OWNER)


async def _timed(call: Callable[[], Awaitable[scripts.T]]) -> tuple[float, scripts.T]:
    started = time.perf_counter()
    value = await call()
    return time.perf_counter() - started, value


MEASUREMENT = Measurement("guards", "what the guards add to a model call", measure)
