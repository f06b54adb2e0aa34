"""C18, C19, C20, C28: default settings, unchanged models without an output limit, and a budget that is large enough."""

import subprocess
import sys
from dataclasses import replace

from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.budget.token_budget import RESERVATIONS, BudgetLimits, Hold, Usage, usage_call
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.scripts import run_sync
from tests.chaos.checking.checker import Rules, Verdict, Violation
from tests.chaos.run import Run, ids
from tests.chaos.scenarios.crashes import with_violations
from tests.chaos.testbed.graphs import SINGLE
from tests.chaos.testbed.stage import ROOT

_SHARE_FOR_UNKNOWN = 3
"""So many times what the server bills may be charged for calls whose usage is unknown."""


def flood(run: Run) -> Verdict:
    """C18: many tasks at once on one worker, more than the day's budget holds at a time."""
    number = run.count(1_000, 60)
    limits = _daily(run, 1_000_000, 100_000)
    (worker,) = run.start(1, number, **_settings(limits))
    run.stage.model.admin.set_latency(run.seconds(5.0, 0.3))  # all are in flight before one has answered
    run.submit(ids("c18", number), graph="unchanged")
    run.wait_until_ended()
    run.proofs["calls that waited"] = len(worker.events("budget.awaited"))
    broken = _not_as_billed(run, limits)
    return with_violations(run.judge(_ALL_SUCCEED), broken)


def fan_out(run: Run) -> Verdict:
    """C19: one task calls a model two hundred times at once, then another user's task comes."""
    limits = _daily(run, 1_000_000, 1_000_000)
    workers = run.start(2, 20, **_settings(limits))
    run.submit(ids("c19-wide", 1), graph="wide", user_id="ann")
    run.wait_until(lambda: run.stage.model.admin.stats()["calls"] >= 200)
    run.submit(ids("c19", 1), graph="unchanged", user_id="bob")
    run.wait_until_ended()
    refused = sum(len(worker.events("budget.refused")) for worker in workers)
    run.figures["refused"] = refused
    run.proofs["most calls at once"] = run.stage.model.admin.stats()["max_in_flight"]
    broken = _not_as_billed(run, limits)
    return with_violations(run.judge(_ALL_SUCCEED), broken)


def leave_usage_unknown(run: Run) -> Verdict:
    """C20: a worker is killed with calls in flight, other calls are cancelled, time out, or reach their deadline."""
    limits = _daily(run, 1_000_000, 1_000_000)
    known, killed, cancelled, late = run.count(200, 20), run.count(100, 20), run.count(50, 10), run.count(20, 5)
    timed_out = late
    unknown = cancelled + late + timed_out + killed
    admin = run.stage.model.admin
    # Calls that time out must not keep the others from being made.
    settings = {**_settings(limits), "LGRQ_BREAKER_FAILURE_THRESHOLD": "1000", "LGRQ_BREAKER_MIN_CALLS": "1000"}
    (worker,) = run.start(1, unknown, **settings)
    run.submit(ids("c20-known", known), graph="unchanged")
    run.wait_until_ended()
    with open_sync(run.stage.redis.url) as redis, Client(run.stage.redis.url) as client:
        mean = _usage(redis, limits).tokens.used / known
        admin.set_latency(60.0)
        run.submit(ids("c20-cancelled", cancelled), graph="unchanged")
        run.submit(ids("c20-killed", killed), graph="unchanged")
        run.submit(ids("c20-late", late), graph="unchanged", deadline_s=run.seconds(5.0, 3.0))
        run.submit(ids("c20-timed-out", timed_out), graph="impatient")
        run.wait_until(lambda: admin.stats()["calls"] >= known + unknown)
        for task_id in ids("c20-cancelled", cancelled):
            client.cancel(task_id)
        run.wait_until(lambda: _estimated(redis, limits) >= cancelled + late + timed_out)
        admin.set_latency(0.0)
        run.kill(worker)
        run.start(1, unknown, **settings)
        run.wait_until_ended()
        # The killed worker's reservations would expire in a minute and a half.
        run.wait_until(lambda: redis.zcard(RESERVATIONS) == killed)
        redis.zadd(RESERVATIONS, dict.fromkeys(redis.zrange(RESERVATIONS, 0, -1), 1))
        run.wait_until(lambda: _usage(redis, limits).tokens.held == 0)
        charged = _usage(redis, limits).tokens.used - mean * (known + killed)
        run.proofs["unknown"] = _estimated(redis, limits)
    run.figures |= {"charged": charged, "of such calls": mean * unknown}
    more = []
    if not 0 < charged <= _SHARE_FOR_UNKNOWN * mean * unknown:
        more.append(Violation("overcharged", "", f"{charged:.0f} tokens for {unknown} calls of {mean:.0f}"))
    if run.proofs["unknown"] != unknown:
        more.append(Violation("unflagged", "", f"{run.proofs['unknown']} estimated calls of {unknown}"))
    rules = replace(_ALL_SUCCEED, states=("success", "cancelled", "timeout", "error"))
    return with_violations(run.judge(rules), more)


def spend_to_the_last_token(run: Run) -> Verdict:
    """C28: processes spend a budget of exactly what their calls use, with both holds."""
    violations: list[Violation] = []
    calls, processes = run.count(1_000, 200), 16
    for hold in Hold:
        with run.stage.client() as client:
            client.flushall()
        program = [sys.executable, "-m", "tests.programs.exact_budget", run.stage.redis.url, hold, calls, processes]
        done = subprocess.run([str(one) for one in program], cwd=ROOT, capture_output=True, text=True, check=True)
        used, limit, refused, error, busy = map(int, done.stdout.split())
        run.figures |= {f"{hold}: used": used, f"{hold}: limit": limit, f"{hold}: refused": refused}
        run.figures[f"{hold}: busy"] = busy
        if used > limit + (error if hold is Hold.ESTIMATE else 0):
            violations.append(Violation("overspent", "", f"{hold}: {used} of {limit}"))
        if refused > 1:
            violations.append(Violation("refused", "", f"{hold}: {refused} calls"))
        run.proofs[f"{hold}: used"] = used
    idle = [Violation("no effect", "", f"{name} is 0") for name, number in run.proofs.items() if not number]
    return Verdict((*violations, *idle), {**run.figures, **run.proofs})


_ALL_SUCCEED = Rules(steps=[SINGLE])


def _daily(run: Run, full: int, small: int) -> BudgetLimits:
    """The default limits, or a smaller day in which a few calls must wait already."""
    return BudgetLimits(daily_tokens=full if run.size.is_full else small)


def _settings(limits: BudgetLimits) -> dict[str, str]:
    return {"LGRQ_BUDGET_DAILY_TOKENS": str(limits.daily_tokens)}


def _usage(redis: Redis, limits: BudgetLimits) -> Usage:
    return run_sync(redis, usage_call(limits))


def _estimated(redis: Redis, limits: BudgetLimits) -> int:
    return sum(model.estimated_calls for model in _usage(redis, limits).models)


def _not_as_billed(run: Run, limits: BudgetLimits) -> list[Violation]:
    """Compare what was used with what the model server billed."""
    stats = run.stage.model.admin.stats()
    billed = sum(stats["input_tokens"].values()) + sum(stats["output_tokens"].values())
    with open_sync(run.stage.redis.url) as redis:
        tokens = _usage(redis, limits).tokens
    run.figures |= {"billed": billed, "used": tokens.used}
    if (tokens.used, tokens.held) == (billed, 0):
        return []
    return [Violation("not as billed", "", f"billed {billed}, used {tokens.used}, held {tokens.held}")]
