"""What admission, reports, settling and expiry mark for tasks that wait; with a rule taken out, a check goes red."""

import time

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import RESERVATIONS, BudgetLimits, Payer, expire_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.waits import await_call
from langgraph_rq.worker.guards import admission
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetBusy, ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used
from tests.breakers import Breakers
from tests.fleet import PRICING

MODEL = "openai/gpt-4o-mini"
THING = f"breaker:{MODEL}"
BUDGETS = ["budget:global", "budget:task:t1", "budget:tenant:default", "budget:user:ann"]
BREAKER = BreakerLimits(open_s=30, max_open_s=30, jitter=0, failure_threshold=1, window_s=0)
SIZE = CallSize(Prompt(0), output_limit=92)


class Waits:
    """The guards of a task that owns what it needs, and the marks of waiting sets."""

    def __init__(self, redis, guards):
        self.redis, self.guards = redis, guards
        payer, deadline_at = Payer(user_id="ann", task_id="t1"), time.monotonic() + 30
        self.task = TaskGuard(guards, "t1", 1, "w", payer=payer, deadline_at=deadline_at)
        self.breakers = Breakers(redis, BREAKER)

    async def own(self):
        later = round(time.time() * 1000) + 60_000
        await self.redis.hset(
            "agent:task:t1", mapping={"state": "running", "epoch": 1, "owner": "w", "deadline": later}
        )

    async def admit(self):
        return await self.guards.admit(self.task, MODEL, MODEL, SIZE, 60)

    async def expect(self, *things):
        for thing in things:
            await scripts.run(self.redis, await_call(thing, 50_000))

    async def marked_in_ms(self, thing):
        score = await self.redis.zscore("agent:waits", thing)
        return None if score is None else score - time.time() * 1000

    async def limit(self, thing):
        return await self.redis.hget("agent:wait_limits", thing)


@pytest.fixture
async def waits(aredis, redis_url):
    guards = Guards(aredis, redis_url, BREAKER, BudgetLimits(user_daily_tokens=150), PRICING)
    waits = Waits(aredis, guards)
    await waits.own()
    yield waits
    await guards.aclose()


async def refused_model_is_recorded_for_as_long_as_it_is_refused(waits):
    await waits.breakers.report(MODEL, "t", 0, Outcome.QUOTA)
    with pytest.raises(ProviderUnavailableError):
        await waits.admit()
    assert 28_000 < await waits.marked_in_ms(THING) <= 30_000
    assert await waits.limit(THING) == b"1"


async def busy_budget_is_recorded(waits):
    await waits.admit()
    waits.task.deadline_at = time.monotonic() + 0.3
    with pytest.raises(BudgetBusy) as raised:
        await waits.admit()
    assert raised.value.wait.thing == "budget:user:ann"
    assert 0 < await waits.marked_in_ms("budget:user:ann") <= 5_000


async def call_outside_of_any_task_is_not_recorded(waits):
    await waits.breakers.report(MODEL, "t", 0, Outcome.QUOTA)
    with pytest.raises(ProviderUnavailableError):
        await waits.guards.admit(TaskGuard(waits.guards), MODEL, MODEL, SIZE, 60)
    assert await waits.marked_in_ms(THING) is None


async def good_answer_of_a_closed_breaker_lets_all_go(waits):
    admitted = await waits.admit()
    await waits.expect(THING)
    await waits.guards.settle(waits.task, admitted, Outcome.OK, Used(1, 1))
    assert await waits.marked_in_ms(THING) <= 0
    assert await waits.limit(THING) is None


async def good_answer_during_a_cooldown_lets_none_go(waits):
    admitted = await waits.admit()
    await waits.breakers.report(MODEL, "t", 0, Outcome.RATE_LIMITED, retry_after_ms=9_000)
    await waits.expect(THING)
    await waits.guards.settle(waits.task, admitted, Outcome.OK, Used(1, 1))
    assert await waits.marked_in_ms(THING) > 40_000


async def probe_closes_early_and_lets_all_go(waits):
    await waits.breakers.report(MODEL, "t", 0, Outcome.QUOTA)
    await waits.redis.hset(f"agent:breaker:{MODEL}", "open_ends_at", 1)
    await waits.expect(THING)
    admitted = await waits.admit()
    waits.guards.report_first_chunk(admitted)
    await waits.guards.loops.retry(waits.task.owns_call())
    await waits.guards.aclose()
    assert await waits.marked_in_ms(THING) <= 0


async def probe_that_was_given_back_lets_one_go(waits):
    await waits.breakers.report(MODEL, "t", 0, Outcome.QUOTA)
    await waits.redis.hset(f"agent:breaker:{MODEL}", "open_ends_at", 1)
    admitted = await waits.admit()
    await waits.expect(THING)
    await waits.guards.settle(waits.task, admitted, Outcome.CANCEL, Used(0, 0))
    assert await waits.marked_in_ms(THING) <= 0
    assert await waits.limit(THING) == b"1"


async def breaker_that_opens_puts_the_set_off(waits):
    admitted = await waits.admit()
    await waits.expect(THING)
    await waits.guards.settle(waits.task, admitted, Outcome.FAIL, Used(0, 0))
    assert 28_000 < await waits.marked_in_ms(THING) <= 30_000


async def rate_limit_is_recorded_for_its_pause(waits):
    admitted = await waits.admit()
    await waits.guards.settle(waits.task, admitted, Outcome.RATE_LIMITED, Used(0, 0), 9.0)
    assert 8_000 < await waits.marked_in_ms(THING) <= 9_000


async def settled_call_lets_two_try_each_of_its_budgets(waits):
    admitted = await waits.admit()
    await waits.expect(*BUDGETS, "budget:user:bob")
    await waits.guards.settle(waits.task, admitted, Outcome.OK, Used(1, 1))
    assert [await waits.marked_in_ms(thing) <= 0 for thing in (*BUDGETS, "budget:user:bob")] == [True] * 4 + [False]
    assert [await waits.limit(thing) for thing in BUDGETS] == [b"2"] * 4


async def expired_reservation_lets_all_go_that_wait_for_its_budgets(waits):
    admitted = await waits.admit()
    booked = ("budget:global", "budget:user:ann")  # neither task nor tenant has a limit
    others = ("budget:user:bob", THING)
    await waits.expect(*booked, *others)
    await waits.redis.zadd(RESERVATIONS, {admitted.rid: 1})
    await scripts.run(waits.redis, admission.expire_and_wake_call(expire_call(10, waits.guards.budget)))
    assert [await waits.marked_in_ms(thing) <= 0 for thing in (*booked, *others)] == [True] * 2 + [False] * 2
    assert [await waits.limit(thing) for thing in booked] == [None] * 2


CHECKS = [
    refused_model_is_recorded_for_as_long_as_it_is_refused,
    busy_budget_is_recorded,
    call_outside_of_any_task_is_not_recorded,
    good_answer_of_a_closed_breaker_lets_all_go,
    good_answer_during_a_cooldown_lets_none_go,
    probe_closes_early_and_lets_all_go,
    probe_that_was_given_back_lets_one_go,
    breaker_that_opens_puts_the_set_off,
    rate_limit_is_recorded_for_its_pause,
    settled_call_lets_two_try_each_of_its_budgets,
    expired_reservation_lets_all_go_that_wait_for_its_budgets,
]
ADMIT, SETTLE, EARLY, EXPIRE = "_ADMIT", "_SETTLE", "_REPORT_EARLY", "_EXPIRE"
MUTANTS = [
    (ADMIT, "await({}, {breaker_thing(breaker), allowed[3], ''})", "", CHECKS[0]),
    (ADMIT, "if task[1] and reserved[1] == 'busy' then", "if false then", CHECKS[1]),
    (ADMIT, "  if task[1] then\n    await", "  if true then\n    await", CHECKS[2]),
    (SETTLE, "wake({}, {0, '', breaker_thing(keys)})", "", CHECKS[3]),
    (SETTLE, " and cooldown_ms == 0", "", CHECKS[4]),
    (EARLY, "follow_report(keys, arguments, reported)\nreturn", "return", CHECKS[5]),
    (SETTLE, "wake({}, {1, '', breaker_thing(keys)})", "", CHECKS[6]),
    (SETTLE, "await({}, {breaker_thing(keys), open_ms, ''})", "", CHECKS[7]),
    (SETTLE, "await({}, {breaker_thing(keys), cooldown_ms, ''})", "", CHECKS[8]),
    (SETTLE, "follow_settle(charge[10], charge[11], charge[12])\n", "", CHECKS[9]),
    (EXPIRE, "  follow_expiry(unpack(payer))\n", "", CHECKS[10]),
    (EXPIRE, "wake_budgets(0,", "wake_budgets(1,", CHECKS[10]),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test(check, waits):
    await check(waits)


@pytest.mark.parametrize(
    ("script", "original", "replacement", "check"),
    MUTANTS,
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_rule_taken_out_is_noticed(script, original, replacement, check, waits, monkeypatch):
    before = getattr(admission, script)
    assert before.source.count(original) == 1
    mutant = scripts.make_script(before.name, before.source.replace(original, replacement))
    monkeypatch.setattr(admission, script, mutant)
    with pytest.raises((AssertionError, TypeError)):
        await check(waits)
