"""The lease is kept whatever else the thread that keeps it has to do."""

import asyncio
import time
from functools import partial
from itertools import count

import pytest
from redis import Redis

from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Payer, Request, reserve_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.keys import DELAYED, WORKERS
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.fleet import lease, sweeper
from langgraph_rq.worker.fleet.lease import LeaseKeeper
from tests.chaos.testbed.proxy import Proxy
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


def keeper_of(url, on_renewed=lambda _lease, _asked_at: None, outage=None):
    return LeaseKeeper(
        url,
        "w1",
        TIMES,
        ["agent_tasks"],
        {"g": "{}"},
        {},
        asyncio.get_running_loop(),
        on_renewed,
        lambda: None,
        lambda _ids: None,
        BUDGET,
        outage or Outage(),
    )


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
    keeper = keeper_of(redis_url, lambda _lease, asked_at: renewals.append(asked_at))
    keeper.start()
    try:
        await until(lambda: work_at and len([at for at in renewals if at > work_at[0]]) >= 3, 30)
        assert len(work_at) > len(renewals), "each pass found more, and the next one followed at once"
    finally:
        monkeypatch.undo()
        await asyncio.to_thread(keeper.stop)
        redis.close()


class NotedOutage(Outage):
    """Notes when each failure was seen (monotonic, s)."""

    def __init__(self):
        super().__init__()
        self.failed_at = []

    def covers(self, operation, error):
        self.failed_at.append(time.monotonic())
        return super().covers(operation, error)


async def test_others_get_a_whole_lease_to_renew_after_the_first_answer_that_follows_an_outage(tmp_path):
    outage, lease_s = NotedOutage(), TIMES.lease_ms / 1000
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        between = Proxy(tmp_path / "proxy.sock", server.directory / "redis.sock")
        with between.serve() as proxy:
            keeper = keeper_of(proxy.url, outage=outage)
            keeper.start()
            try:
                proxy.cut()
                await until(lambda: outage.failed_at)
                redis.zadd(WORKERS, {"held up too": 1})
                # By now the next renewal is on its way, and waits as those of the others do.
                await until(lambda: time.monotonic() > outage.failed_at[0] + 2 * lease_s)
                healed_at = time.monotonic()
                proxy.heal()
                await until(lambda: redis.zscore(WORKERS, "held up too") is None)
                assert time.monotonic() - healed_at >= lease_s
            finally:
                proxy.heal()
                await asyncio.to_thread(keeper.stop)
