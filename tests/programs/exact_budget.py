"""Processes that spend a budget of exactly what their calls use.

Run as `python -m tests.programs.exact_budget URL HOLD CALLS PROCESSES`. A call asks for what it uses times 0.7 to 1.3;
with the hold `worst` never for less than it uses. Prints the tokens used, the limit, how many calls were refused, the
most by which the calls in flight can have been underestimated, and how often a call was busy.
"""

import os
import sys
import time
from random import Random

from redis import Redis

from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Hold,
    Payer,
    Refused,
    Request,
    reserve_call,
    settle_call,
    usage_call,
)
from langgraph_rq.shared.connections.scripts import run_sync

_TOKENS = (50, 150)
_ERROR = 0.3


def main(url: str, hold: str, calls: str, processes: str) -> None:
    """Spend, and report."""
    used = [Random(call).randint(*_TOKENS) for call in range(int(calls))]
    limits = BudgetLimits(daily_tokens=sum(used), hold=Hold(hold))
    children = []
    reports, report = os.pipe()
    for _ in range(int(processes)):
        pid = os.fork()
        if pid == 0:
            refused, busy = _spend(url, limits, used)
            os.write(report, f"{refused} {busy}\n".encode())
            os._exit(0)
        children.append(pid)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    os.close(report)
    with os.fdopen(reports) as lines:
        totals = [sum(column) for column in zip(*(map(int, line.split()) for line in lines), strict=True)]
    if failed:
        sys.exit("a process failed: see its error above")
    with Redis.from_url(url) as redis:
        tokens = run_sync(redis, usage_call(limits)).tokens
    error = round(int(processes) * _ERROR * _TOKENS[1])
    print(tokens.used, tokens.limit, totals[0], error, totals[1])  # noqa: T201


def _spend(url: str, limits: BudgetLimits, used: list[int]) -> tuple[int, int]:
    refused = busy = 0
    with Redis.from_url(url) as redis:
        # Each takes the next call, so that at the end of the budget all processes have one in flight.
        while (call := int(redis.incr("next call")) - 1) < len(used):
            tokens = used[call]
            factor = Random(-call).uniform(1 - _ERROR, 1 + _ERROR)
            asked = round(tokens * (max(1.0, factor) if limits.hold is Hold.WORST else factor))
            reserve = reserve_call(f"t:1:{call}", Request(Amount(asked)), "gpt-4o", Payer(), limits, ttl_ms=60_000)
            while isinstance(answer := run_sync(redis, reserve), Busy):
                busy += 1
                time.sleep(0.001)
            if isinstance(answer, Refused):
                refused += 1
                continue
            time.sleep(0.01)  # so that calls are in flight together
            run_sync(redis, settle_call(f"t:1:{call}", Charge(tokens, 0), "gpt-4o", Payer(), limits))
    return refused, busy


if __name__ == "__main__":
    main(*sys.argv[1:])
