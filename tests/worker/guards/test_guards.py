"""The guards themselves: what they hold, hand back and book when callers are cancelled and when Redis is away."""

import asyncio
import time

import pytest
from langchain_core.messages import HumanMessage
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, GuardUnavailable, ProviderUnavailableError, TaskGone
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used
from tests.breakers import Breakers
from tests.budget import limit_day
from tests.fleet import PRICING
from tests.model_calls import billed, books, run_node
from tests.waiting import until

MODEL = "gpt-4o-mini"
BREAKER = f"openai/{MODEL}"
SIZE = CallSize(Prompt(300, messages=1), output_limit=50)
HELD = 100 + 8 + 4 + 50  # a third of the bytes, what a provider adds to a call and to a message, the output limit
BREAKER_LIMITS = BreakerLimits(open_s=0.001, max_open_s=0.001)


@pytest.fixture
async def client(redis_url):
    async with open_async(redis_url) as client:
        yield client


@pytest.fixture
async def guards(client, redis_url):
    guards = Guards(client, redis_url, BREAKER_LIMITS, BudgetLimits(), PRICING)
    yield guards
    await guards.aclose()


def admit(guards, task=None):
    return guards.admit(task or TaskGuard(guards), BREAKER, MODEL, SIZE, 60)


async def probes_in_flight(aredis):
    return (await Breakers(aredis, BREAKER_LIMITS).states())[0].probes_in_flight


async def open_breaker(aredis):
    """Open it for a millisecond: the next call is a probe."""
    await Breakers(aredis, BREAKER_LIMITS).report(BREAKER, "t", 0, Outcome.QUOTA)
    await asyncio.sleep(0.01)


async def test_admitted_call_is_held_and_settled(guards, aredis):
    task = TaskGuard(guards)
    admitted = await admit(guards, task)
    assert await books(aredis) == (0, HELD)
    await guards.settle(task, admitted, Outcome.OK, Used(70, 30))
    assert await books(aredis) == (100, 0)
    assert (task.input_tokens, task.output_tokens) == (70, 30)
    assert task.cost_nano_usd > 0


async def test_calls_outside_of_tasks_never_share_a_reservation(guards, aredis):
    for _ in range(50):
        task = TaskGuard(guards)
        await guards.settle(task, await admit(guards, task), Outcome.OK, Used(1, 1))
    assert await books(aredis) == (100, 0)
    for _ in range(3):  # each TaskGuard may lie where the one before lay
        await admit(guards)
    assert await books(aredis) == (100, 3 * HELD)


async def test_admission_cancelled_at_any_moment_leaves_nothing_held_and_no_probe_behind(guards, aredis):
    await open_breaker(aredis)
    started = asyncio.get_running_loop().time()
    await guards.settle(TaskGuard(guards), await admit(guards), Outcome.CANCEL, Used(0, 0))
    round_trip_s = asyncio.get_running_loop().time() - started
    for part in range(20):
        asking = asyncio.create_task(admit(guards))
        await asyncio.sleep(round_trip_s * part / 20)
        asking.cancel()
        [answer] = await asyncio.gather(asking, return_exceptions=True)
        if not isinstance(answer, BaseException):
            await guards.settle(TaskGuard(guards), answer, Outcome.CANCEL, Used(0, 0))

        async def nothing_left():
            return (await books(aredis), await probes_in_flight(aredis)) == ((0, 0), 0)

        await until(nothing_left)


async def test_settling_that_is_cancelled_is_done_all_the_same(guards, aredis):
    for turns in range(4):
        task = TaskGuard(guards)
        settling = asyncio.create_task(guards.settle(task, await admit(guards, task), Outcome.OK, Used(1, 1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_begun = turns > 0
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        if was_begun:
            expected = 2 * turns

            async def is_settled(expected=expected):
                return (await books(aredis))[0] == expected

            await until(is_settled)


async def test_probe_without_a_budget_lets_the_next_one_probe(guards, client, redis_url, aredis):
    poor = Guards(client, redis_url, BREAKER_LIMITS, BudgetLimits(daily_tokens=10), PRICING)
    await open_breaker(aredis)
    with pytest.raises(BudgetExceeded):
        await admit(poor)

    async def is_free():
        return await probes_in_flight(aredis) == 0

    await until(is_free)
    await limit_day(aredis, 1_000_000)
    await admit(guards)
    with pytest.raises(ProviderUnavailableError):
        await admit(guards)


async def forbid_the_budget(aredis):
    """Let the budget's scripts fail, as for a Redis user that lacks a permission."""
    await aredis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~agent:[^b]*", "~agent:breaker*", "~rq:*")


async def test_probe_of_a_call_that_failed_in_the_budget_is_handed_back(own_redis):
    async with open_async(own_redis.url) as redis, AsyncRedis.from_url(own_redis.url) as other:
        guards = Guards(redis, own_redis.url, BREAKER_LIMITS, BudgetLimits(), PRICING)
        await open_breaker(other)
        await forbid_the_budget(other)
        with pytest.raises(GuardUnavailable, match="could not decide whether a call may start"):
            await admit(guards)
        await other.execute_command("ACL", "SETUSER", "default", "allkeys")

        async def is_free():
            return await probes_in_flight(other) == 0

        await until(is_free)
        await guards.aclose()


@pytest.mark.parametrize(("is_guarded", "is_sync"), [(True, False), (True, True), (False, False), (False, True)])
async def test_no_call_starts_when_a_script_fails(is_sync, is_guarded, own_redis, llm, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()

    async def node(_state):
        async with AsyncRedis.from_url(own_redis.url) as other:
            await forbid_the_budget(other)
            try:
                await (asyncio.to_thread(model.invoke, "hi") if is_sync else model.ainvoke("hi"))
            except Exception:
                return {"text": "swallowed"}
            finally:
                await other.execute_command("ACL", "SETUSER", "default", "allkeys")

    result = await run_node(own_redis.url, node)
    assert llm.calls() == []
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GUARD_UNAVAILABLE)


async def test_no_call_starts_on_a_limit_that_cannot_be_read(guards, aredis, redis_url, llm, chat):
    await guards.settle(TaskGuard(guards), await admit(guards), Outcome.OK, Used(1, 1))
    await open_breaker(aredis)
    await aredis.hset("agent:budget:policy", "user", "50,000 -")
    with pytest.raises(GuardUnavailable, match="field user of agent:budget:policy cannot be read"):
        await admit(guards)

    async def is_free():
        return await probes_in_flight(aredis) == 0

    await until(is_free)
    await Breakers(aredis, BREAKER_LIMITS).report(BREAKER, "t", 0, Outcome.OK)
    result = await run_node(redis_url, lambda _state: chat().invoke("hi"))
    assert (result.error.type, llm.calls()) == (ErrorType.GUARD_UNAVAILABLE, [])


class Odd:
    """A value that no one can write down."""

    def __repr__(self):
        raise ValueError("odd")


@pytest.mark.parametrize("is_sync", [False, True])
async def test_no_call_starts_when_its_prompt_cannot_be_measured(is_sync, redis_url, llm, chat):
    message = HumanMessage("hi", additional_kwargs={"odd": Odd()})

    async def node(_state):
        await (asyncio.to_thread(chat().invoke, [message]) if is_sync else chat().ainvoke([message]))

    result = await run_node(redis_url, node)
    assert llm.calls() == []
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GUARD_UNAVAILABLE)


async def test_call_refused_by_the_breaker_is_not_booked(guards, aredis):
    await Breakers(aredis, BreakerLimits()).report(BREAKER, "t", 0, Outcome.QUOTA)
    with pytest.raises(ProviderUnavailableError) as refused:
        await admit(guards)
    assert 0 < refused.value.retry_after_s <= 33
    assert await aredis.keys("agent:budget:*") == []


async def test_run_that_is_over_starts_no_call(guards, aredis):
    task = TaskGuard(guards)
    await guards.close_task(task)
    with pytest.raises(TaskGone):
        await admit(guards, task)
    assert await books(aredis) == (0, 0)


async def test_worker_without_its_lease_starts_no_call(guards, aredis):
    guards.is_held = lambda: False
    with pytest.raises(GuardUnavailable, match="lease"):
        await admit(guards)
    assert await aredis.keys("*") == []


async def test_users_pay_for_themselves(guards, aredis):
    guards.budget = BudgetLimits(user_daily_tokens=200)
    ann, bob = (TaskGuard(guards, payer=Payer(user_id=name)) for name in ("ann", "bob"))
    await guards.settle(ann, await admit(guards, ann), Outcome.OK, Used(40, 10))
    with pytest.raises(BudgetExceeded, match="user's daily token budget spent"):
        await admit(guards, ann)
    await admit(guards, bob)


async def test_callers_of_any_loop_and_thread_share_the_books(guards, aredis):
    async def call():
        task = TaskGuard(guards)
        admitted = await guards.loops.run_here(admit(guards, task))
        await guards.loops.run_here(guards.settle(task, admitted, Outcome.OK, Used(1, 1)))

    await call()
    await asyncio.to_thread(lambda: asyncio.run(call()))
    await asyncio.to_thread(lambda: guards.loops.run_sync(call()))
    guards.loops.run_sync(call())
    assert await books(aredis) == (8, 0)


@pytest.fixture
def own_redis():
    with EmbeddedRedis(appendfsync="always") as server:
        yield server


async def test_call_that_ends_while_redis_is_away_is_settled_when_it_is_back(own_redis):
    async with open_async(own_redis.url) as redis:
        guards = Guards(redis, own_redis.url, BreakerLimits(), BudgetLimits(), PRICING)
        task = TaskGuard(guards)
        admitted = await admit(guards, task)
        own_redis.kill()
        await guards.settle(task, admitted, Outcome.OK, Used(1, 1))
        own_redis.start()
        async with AsyncRedis.from_url(own_redis.url) as other:

            async def is_settled():
                return await books(other) == (2, 0)

            await until(is_settled)
        await guards.aclose()


@pytest.mark.parametrize(("is_guarded", "is_sync"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("comes_back_in_time", [True, False])
async def test_no_call_starts_while_redis_is_away(comes_back_in_time, is_sync, is_guarded, own_redis, llm, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()
    deadline_s = 60 if comes_back_in_time else 1.5

    async def node(_state):
        own_redis.kill()
        calling = asyncio.create_task(asyncio.to_thread(model.invoke, "hi") if is_sync else model.ainvoke("hi"))
        await asyncio.sleep(0.2)
        assert llm.calls() == []
        if comes_back_in_time:
            own_redis.start()
        else:
            asyncio.get_running_loop().call_later(deadline_s, own_redis.start)
        return {"text": (await calling).text}

    started = time.monotonic()
    result = await run_node(own_redis.url, node, deadline_s=deadline_s)
    if comes_back_in_time:
        assert result.status is State.SUCCESS, result.error
        async with AsyncRedis.from_url(own_redis.url) as other:
            assert await books(other) == (billed(llm), 0)
    else:
        assert (result.status, result.error.type) == (State.TIMEOUT, ErrorType.TIMEOUT)
        assert time.monotonic() - started >= deadline_s
        assert llm.calls() == []


async def test_call_that_is_too_early_for_its_rate_holds_nothing_and_leaves_no_probe(guards, aredis):
    guards.paces = {MODEL: Pace(calls_per_minute=1)}
    await guards.settle(TaskGuard(guards), await admit(guards), Outcome.OK, Used(1, 1))
    await open_breaker(aredis)
    with pytest.raises(ProviderUnavailableError, match="rate per minute") as refused:
        await admit(guards)
    assert refused.value.is_rate_limited
    assert 50 < refused.value.retry_after_s <= 60
    assert await books(aredis) == (2, 0)
    assert await probes_in_flight(aredis) == 0


async def pace_of(aredis):
    return float(await aredis.hget(f"agent:pace:{BREAKER}", "tokens_at") or 0) - time.time() * 1000


async def test_rate_is_booked_with_the_estimate_and_corrected_by_what_was_used(guards, aredis):
    guards.paces = {MODEL: Pace(tokens_per_minute=1_000)}
    task = TaskGuard(guards)
    admitted = await admit(guards, task)
    booked_ms = await pace_of(aredis)
    assert HELD * 60 - 2_000 < booked_ms <= HELD * 60
    await guards.settle(task, admitted, Outcome.OK, Used(HELD - 100, 0))
    assert await pace_of(aredis) < booked_ms - 100 * 60
    await guards.settle(task, admitted, Outcome.OK, Used(HELD - 100, 0))  # as a repeated request
    assert await pace_of(aredis) > booked_ms - 100 * 60 - 5_000


async def test_call_that_the_budget_refuses_takes_nothing_of_the_rate(guards, aredis):
    guards.paces = {MODEL: Pace(calls_per_minute=60, tokens_per_minute=10_000)}
    guards.budget = BudgetLimits(daily_tokens=10)
    for _ in range(5):
        with pytest.raises(BudgetExceeded):
            await admit(guards)
    assert await pace_of(aredis) <= 0


async def test_model_without_a_rate_leaves_no_trace_of_pacing(guards, aredis):
    guards.paces = {"another": Pace(calls_per_minute=1)}
    for _ in range(3):
        await guards.settle(TaskGuard(guards), await admit(guards), Outcome.OK, Used(1, 1))
    assert await aredis.keys("agent:pace:*") == []


@pytest.mark.parametrize("is_guarded", [True, False])
async def test_paced_calls_wait_for_their_turn_and_provoke_no_429(is_guarded, redis_url, llm, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()

    async def node(_state):
        await asyncio.gather(*(model.ainvoke("hi") for _ in range(12)))

    result = await run_node(redis_url, node, paces={MODEL: Pace(calls_per_minute=240)})
    assert result.status is State.SUCCESS
    calls = llm.calls()
    assert len(calls) == 12
    assert calls[-1]["started_monotonic_s"] - calls[0]["started_monotonic_s"] > 1.5


async def test_what_a_provider_adds_to_short_prompts_is_no_ratio_for_long_ones(guards, aredis):
    for _ in range(4):
        task = TaskGuard(guards)
        admitted = await guards.admit(task, BREAKER, MODEL, CallSize(Prompt(2, messages=1), 50), 60)
        await guards.settle(task, admitted, Outcome.OK, Used(360, 10))
    assert (await held_for(guards, aredis, Prompt(9_000, messages=1))) == 3_000 + 8 + 4 + 50


async def test_ratio_of_tokens_to_bytes_is_learned_from_long_prompts_of_text(guards, aredis):
    task = TaskGuard(guards)
    admitted = await guards.admit(task, BREAKER, MODEL, CallSize(Prompt(1_000, messages=2), 50), 60)
    await guards.settle(task, admitted, Outcome.OK, Used(500 + 8 + 2 * 4, 10))
    await held_for(guards, aredis, Prompt(0))
    assert (await held_for(guards, aredis, Prompt(9_000, messages=1))) == 4_500 + 8 + 4 + 50


async def test_ratio_is_never_more_than_a_token_per_byte(guards, aredis):
    task = TaskGuard(guards)
    admitted = await guards.admit(task, BREAKER, MODEL, CallSize(Prompt(1_000, messages=2), 50), 60)
    await guards.settle(task, admitted, Outcome.OK, Used(5_000, 10))
    await held_for(guards, aredis, Prompt(0))
    assert (await held_for(guards, aredis, Prompt(9_000, messages=1))) == 9_000 + 8 + 4 + 50


async def held_for(guards, aredis, prompt):
    before = (await books(aredis))[1]
    task = TaskGuard(guards)
    admitted = await guards.admit(task, BREAKER, MODEL, CallSize(prompt, 50), 60)
    held = (await books(aredis))[1] - before
    await guards.settle(task, admitted, Outcome.CANCEL, Used(0, 0))
    return held
