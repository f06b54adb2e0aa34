"""Processes that spend one budget until it refuses, repeat what they send, and are killed at bad moments.

Run as `python -m tests.programs.token_budget_spender URL BILLS UTC_OFFSET_S`: forks the processes, replaces each that
was killed, and prints how many were. The provider's bill goes to the file BILLS, a line "user tokens cost" per call.
"""

import os
import signal
import sys
from itertools import count
from random import Random
from typing import Any

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
)
from langgraph_rq.shared.connections.scripts import Call, run_sync

USERS = ("ann", "bob")
TTL_MS = 200
PROCESSES = 4


def limits_at(utc_offset_s: int) -> BudgetLimits:
    return BudgetLimits(
        daily_tokens=150_000,
        user_daily_tokens=80_000,
        user_daily_cost_nano_usd=900_000,
        utc_offset_s=utc_offset_s,
        hold=Hold.WORST,
    )


def main(url: str, bills: str, utc_offset_s: str) -> None:
    limits = limits_at(int(utc_offset_s))
    names, killed = (f"task-{n}" for n in count()), 0
    running = {_fork(url, next(names), bills, limits) for _ in range(PROCESSES)}
    while running:
        pid, status = os.wait()
        running.remove(pid)
        if os.WIFSIGNALED(status):
            killed += 1
            running.add(_fork(url, next(names), bills, limits))
        elif status:
            sys.exit("a spender failed: see its error above")
    print(killed)  # noqa: T201


def _fork(url: str, name: str, bills: str, limits: BudgetLimits) -> int:
    pid = os.fork()
    if pid == 0:
        _spend(url, name, bills, limits)
        sys.exit()
    return pid


def _spend(url: str, name: str, bills: str, limits: BudgetLimits) -> None:
    random = Random(name)
    bill = os.open(bills, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Redis.from_url(url) as redis:
        for sequence in count():
            payer = Payer(user_id=random.choice(USERS))
            reserved = Amount(random.randint(1, 400), random.randint(1, 4000))
            rid = f"{name}:1:{sequence}"
            call = reserve_call(rid, Request(reserved), "gpt-4o", payer, limits, ttl_ms=TTL_MS)
            answer = _run_once_or_twice(redis, random, call)
            if isinstance(answer, Refused):
                return
            if isinstance(answer, Busy):  # until a call settles, or one that was killed expires
                continue
            _die_sometimes(random)
            used = Amount(random.randint(1, reserved.tokens), random.randint(1, reserved.cost_nano_usd))
            os.write(bill, f"{payer.user_id} {used.tokens} {used.cost_nano_usd}\n".encode())
            _die_sometimes(random)
            charge = Charge(used.tokens - 1, 1, used.cost_nano_usd)
            settle = settle_call(rid, charge, "gpt-4o", payer, limits)
            _run_once_or_twice(redis, random, settle)


def _run_once_or_twice(redis: Redis, random: Random, call: Call[Any]) -> Any:
    answer = run_sync(redis, call)
    return run_sync(redis, call) if random.random() < 0.2 else answer


def _die_sometimes(random: Random) -> None:
    if random.random() < 0.01:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
