"""C12, C13, C21, C23, C30: the provider fails or is slow, and workers are killed while calls of theirs are paid for."""

import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from langgraph_rq import Client
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, report_call
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Hold
from langgraph_rq.shared.budget.usage import usage_call
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.scripts import run_sync
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.run import CHAIN, UNTOUCHED, Run, ids
from tests.chaos.scenarios.crashes import with_violations
from tests.chaos.testbed.graphs import SINGLE

_THRESHOLD = 5
_SLOTS = 20
"""Tasks in flight per worker, each with one call at most."""
_CALL_TIMEOUT_S = 5.0
_RATE_DEADLINE_S = 120.0
_SECOND = "openai/gpt-4o"
_CALL_TOKENS = 120
"""Roughly what one call of the graph's uses."""


def break_the_provider(run: Run) -> Verdict:
    """C12: 500s for a minute, then 429 with Retry-After, hangs and cut replies, in turn."""
    open_s = run.seconds(5.0, 0.5)
    workers = 8 if run.size.is_full else 2
    run.start(
        workers,
        _SLOTS,
        LGRQ_BREAKER_WINDOW_S="0",  # the plain threshold, for which the bound on failed calls is known
        LGRQ_BREAKER_OPEN_S=str(open_s),
        LGRQ_BREAKER_MAX_OPEN_S=str(open_s),
        LGRQ_CALL_TIMEOUT_S=str(_CALL_TIMEOUT_S),
    )
    admin = run.stage.model.admin
    outage_s = run.seconds(60.0, 3.0)
    faults: list[dict[str, Any]] = [
        {"fault": "429", "retry_after_s": 2, "times": 20},
        {"fault": "hang", "times": 20},
        {"fault": "cut", "times": 20},
    ]
    with run.submitting(ids("c12", run.count(1_000, 60)), graph="chain", max_attempts=10, pause_s=0.1):
        run.wait_until(lambda: admin.stats()["calls"] > 20)
        admin.set_faults([{"fault": "500"}])
        time.sleep(outage_s)
        for fault in faults:
            admin.set_faults([fault])
            run.wait_until(lambda: admin.faults()[0]["hits"] > 0)
            time.sleep(run.seconds(10.0, 0.5))
            run.proofs[f"{fault['fault']}s"] = sum(one["hits"] for one in admin.faults())
        admin.set_faults([])
    run.wait_until_ended()
    failed = sum(call.fault == "500" for call in run.stage.calls())
    bound = workers * _SLOTS + _THRESHOLD + math.ceil(outage_s / (0.9 * open_s)) + 1
    run.proofs["500s"], run.proofs["opened"] = failed, len(run.events("opened"))
    run.figures["500s at most"] = bound
    verdict = run.judge(replace(UNTOUCHED, repays_failed=True))
    more = [Violation("late call", "", f"{failed} calls failed, {bound} may")] if failed > bound else []
    return with_violations(verdict, more)


def kill_while_paying(run: Run) -> Verdict:
    """C13: workers are killed between reserve and settle, on a budget that does not last and holds the worst."""
    number = run.count(500, 40)
    limits = BudgetLimits(daily_tokens=number * 3 * _CALL_TOKENS, hold=Hold.WORST)
    environment = {
        "LGRQ_BUDGET_DAILY_TOKENS": str(limits.daily_tokens),
        "LGRQ_BUDGET_HOLD": limits.hold.value,
        "LGRQ_CALL_TIMEOUT_S": str(_CALL_TIMEOUT_S),
    }
    workers = run.start(4, 20, **environment)
    run.submit([*ids("die-after-guards_admit", 2), *ids("c13", number)], graph="chain")
    for turn in run.until_ended(run.seconds(5.0, 3.0)):
        if turn >= run.count(12, 3):
            continue
        i = run.dice.randrange(len(workers))
        run.kill(workers[i])
        workers[i] = run.start(1, 20, **environment)[0]
    with open_sync(run.stage.redis.url) as client:
        run.wait_until(lambda: run_sync(client, usage_call(limits)).tokens.held == 0)
        tokens = run_sync(client, usage_call(limits)).tokens
    stats = run.stage.model.admin.stats()
    billed = sum(stats["input_tokens"].values()) + sum(stats["output_tokens"].values())
    run.figures |= {"billed": billed, "used": tokens.used, "limit": limits.daily_tokens or 0}
    verdict = run.judge(replace(CHAIN, states=("success", "error")))
    is_held = billed <= tokens.used <= (limits.daily_tokens or 0)
    more = [] if is_held else [Violation("overspent", "", f"billed {billed}, used {tokens.used}, limit {tokens.limit}")]
    return with_violations(verdict, more)


def hang_while_others_wait(run: Run) -> Verdict:
    """C21: a provider hangs while its breaker is half-open, and 500 tasks wait for it; half have paid another model."""
    limits = BreakerLimits(open_s=0.5, max_open_s=0.5, jitter=0)
    (worker,) = run.start(1, 100, LGRQ_BREAKER_OPEN_S="0.5", LGRQ_BREAKER_MAX_OPEN_S="0.5")
    admin = run.stage.model.admin
    admin.set_faults([{"fault": "hang", "model": "gpt-4o"}])
    number = run.count(250)
    with open_sync(run.stage.redis.url) as redis, Client(run.stage.redis.url) as client:
        run_sync(redis, report_call(_SECOND, "t", 0, Outcome.QUOTA, limits))
        run.submit(ids("c21-probe", 1), graph="needs_second", user_id="ann", max_attempts=10)
        run.wait_until(lambda: admin.stats()["in_flight"] == 1)
        run.submit(ids("c21-waits", number), graph="needs_second", user_id="ann")
        run.submit(ids("c21-pays", number), graph="pays_first", user_id="ann")
        run.wait_until(lambda: redis.zcard(f"agent:wait:breaker:{_SECOND}") >= number - 1)
        run.wait_until(lambda: admin.stats()["calls"] > number)
        began = time.monotonic()
        others = ids("c21-plain", 5)
        run.submit(others, graph="plain", user_id="bob")
        for task_id in others:
            client.wait(task_id, run.size.patience_s)
        took_s = time.monotonic() - began
        run.proofs["in flight while they ran"] = admin.stats()["in_flight"]
    admin.set_faults([])
    run.wait_until_ended()
    paid = Counter((call.task, call.node) for call in run.stage.calls() if call.fault is None)
    again = [task for (task, _), times in paid.items() if times > 1]
    run.proofs["opened again"] = len(run.events("opened"))
    run.figures |= {"others s": round(took_s, 2), "paid again": len(again), "starts": len(run.events("claimed"))}
    run.figures["unkept"] = len(worker.events("task.pays_again"))
    more = [Violation("repaid", task, "it waited and paid again") for task in again]
    if took_s > run.seconds(2.0, 5.0):
        more.append(Violation("starved", "", f"tasks that need no model took {took_s:.1f} s"))
    return with_violations(run.judge(replace(UNTOUCHED, steps=[SINGLE], repays_failed=True)), more)


def limit_the_rate(run: Run) -> Verdict:
    """C23: the provider allows ten calls a second; half of the tasks have a guarded model, half an unchanged one."""
    run.start(1, 100)
    fault = {"fault": "429", "beyond_per_s": 10, "retry_after_s": 1}
    run.stage.model.admin.set_faults([fault])
    number = run.count(100)
    run.submit(ids("c23-guarded", number), graph="single", deadline_s=_RATE_DEADLINE_S)
    run.submit(ids("c23-unchanged", number), graph="unchanged", deadline_s=_RATE_DEADLINE_S)
    run.wait_until_ended()
    calls = run.stage.calls()
    run.proofs["429s"] = sum(call.fault == "429" for call in calls)
    run.figures["seconds"] = round(max(call.at for call in calls) - min(call.at for call in calls), 1)
    return run.judge(replace(UNTOUCHED, steps=[SINGLE], repays_failed=True))


def answer_after_the_lease(run: Run) -> Verdict:
    """C30: after an outage each answer takes longer than the lease of a probe."""
    answer_s = run.seconds(8.0, 5.5)
    run.start(
        1,
        _SLOTS,
        LGRQ_BREAKER_WINDOW_S="0",
        LGRQ_BREAKER_OPEN_S="0.5",
        LGRQ_BREAKER_MAX_OPEN_S="0.5",
        LGRQ_CALL_TIMEOUT_S=str(run.seconds(1.0, 0.1)),  # a probe's lease is 5 s longer
    )
    admin = run.stage.model.admin
    admin.set_faults([{"fault": "500"}])
    run.submit(ids("c30", 20), graph="single", max_attempts=10)
    run.wait_until(lambda: run.events("opened"))
    admin.set_latency(answer_s)
    admin.set_faults([])
    run.wait_until_ended()
    closed = run.events("closed")
    ends = [call["ended_monotonic_s"] for call in admin.calls() if call["outcome"] == "completed" and not call["fault"]]
    before = sum(bool(closed) and end < closed[0].at for end in ends)
    run.proofs |= {"opened": len(run.events("opened")), "closed": len(closed), "answers before it closed": before}
    verdict = run.judge(replace(UNTOUCHED, steps=[SINGLE], repays_failed=True))
    more = [Violation("still open", "", f"it closed after {before} answers")] if before > 1 else []
    return with_violations(verdict, more)
