"""The lease is kept whatever else the thread that keeps it has to do."""

import asyncio
import time
from functools import partial
from itertools import count

import pytest
from redis import Redis

from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Payer, Request, reserve_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.keys import DELAYED
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.fleet import lease, sweeper
from langgraph_rq.worker.fleet.lease import LeaseKeeper
from tests.waiting import until

TIMES = QueueTimes(lease_ms=400)
BUDGET = BudgetLimits()


def delay_a_task_until_now(redis: Redis, name: str) -> None:
    redis.zadd(DELAYED, {name: 1})


def a_minute_ago_ms() -> int:
    return round(time.time() * 1000) - 60_000


def leave_a_reservation(redis: Redis, name: str) -> None:
    scripts.run_sync(
        redis,
        reserve_call(name, Request(Amount(1)), "m", Payer("", "", ""), BUDGET, ttl_ms=1, now_ms=a_minute_ago_ms()),
    )


def submit_an_overdue_task(redis: Redis, name: str) -> None:
    task = Task.parse({"input": {}, "graph": "g", "task_id": name, "deadline_s": 1}, TaskLimits())
    scripts.run_sync(redis, submit_call(task, "agent_tasks", TIMES, now_ms=a_minute_ago_ms()))


@pytest.mark.parametrize(
    ("module", "duty", "add_one"),
    [
        (lease, "reap_call", delay_a_task_until_now),
        (lease, "expire_call", leave_a_reservation),
        (sweeper, "sweep_call", submit_an_overdue_task),
    ],
)
async def test_lease_is_renewed_while_the_work_beside_it_does_not_end(redis_url, monkeypatch, module, duty, add_one):
    renewals, work_at, redis = [], [], Redis.from_url(redis_url)
    numbers, do_one_pass = count(), getattr(module, duty)
    if module is sweeper:
        do_one_pass = partial(sweep_call, 1)  # one overdue task is a full batch

    def find_more(*args, **named):
        add_one(redis, f"more-{next(numbers)}")
        work_at.append(time.monotonic())
        return do_one_pass(*args, **named)

    monkeypatch.setattr(module, duty, find_more)
    keeper = LeaseKeeper(
        redis_url,
        "w1",
        TIMES,
        ["agent_tasks"],
        {"g": "{}"},
        {},
        asyncio.get_running_loop(),
        lambda _lease, asked_at: renewals.append(asked_at),
        lambda: None,
        lambda _ids: None,
        BUDGET,
        Outage(),
    )
    keeper.start()
    try:
        await until(lambda: work_at and len([at for at in renewals if at > work_at[0]]) >= 3, 30)
        assert len(work_at) > len(renewals), "each pass found more, and the next one followed at once"
    finally:
        monkeypatch.undo()
        await asyncio.to_thread(keeper.stop)
        redis.close()
