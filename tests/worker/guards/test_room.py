"""Calls that wait while running calls hold the budget."""

import asyncio
import time

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.event_loops import stops_a_loop
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetBusy, BudgetExceeded, TaskGone
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used
from tests.breakers import Breakers
from tests.fleet import PRICING
from tests.model_calls import OUTPUT_TOKENS, billed, books
from tests.waiting import until

MODEL = "gpt-4o-mini"
SIZE = CallSize(Prompt(0), output_limit=92)
HELD = 100
BREAKER_LIMITS = BreakerLimits(open_s=0.001, max_open_s=0.001)


@pytest.fixture
async def client(redis_url):
    async with open_async(redis_url) as client:
        yield client


def guards_of(client, redis_url, **limits):
    return Guards(client, redis_url, BREAKER_LIMITS, BudgetLimits(**limits), PRICING)


@pytest.fixture
async def guards(client, redis_url):
    """With room for two calls of the fleet at once, and for one of each user."""
    guards = guards_of(client, redis_url, daily_tokens=2 * HELD, user_daily_tokens=HELD)
    yield guards
    await guards.aclose()


class Caller:
    """Calls of one user, which use nothing, so that each leaves all its room to the next."""

    def __init__(self, guards, user="ann"):
        self._guards = guards
        self._task = TaskGuard(guards, payer=Payer(user_id=user), deadline_at=time.monotonic() + 30)

    async def admit(self, size=SIZE):
        return await self._guards.admit(self._task, f"openai/{MODEL}", MODEL, size, 60)

    async def settle(self, admitted):
        await self._guards.settle(self._task, admitted, Outcome.CANCEL, Used(0, 0))

    async def call(self, order, name):
        admitted = await self.admit()
        order.append(name)
        await self.settle(admitted)


def waiting(guards, calls):
    return lambda: sum(map(len, guards._room._lines.values())) == calls


async def test_call_waits_until_a_running_one_settles(guards, aredis):
    ann = Caller(guards)
    running = await ann.admit()
    waits = asyncio.create_task(ann.admit())
    await until(waiting(guards, 1))
    assert await books(aredis) == (0, HELD)
    await ann.settle(running)
    await ann.settle(await waits)
    assert await books(aredis) == (0, 0)
    assert guards._room._lines == {}


async def test_waiting_calls_go_on_in_order_and_a_new_one_does_not_overtake_them(guards):
    ann, order = Caller(guards), []
    running = await ann.admit()
    calls = []
    for name in range(10):
        calls.append(asyncio.create_task(ann.call(order, name)))
        await until(waiting(guards, name + 1))
    await ann.settle(running)
    await asyncio.gather(*calls, ann.call(order, "new"))
    assert order == [*range(10), "new"]


async def test_calls_of_another_user_do_not_wait_behind_those_of_one(guards):
    ann, bob = Caller(guards), Caller(guards, "bob")
    running = await ann.admit()
    waits = asyncio.create_task(ann.admit())
    await until(waiting(guards, 1))
    async with asyncio.timeout(1):
        await bob.settle(await bob.admit())
    assert not waits.done()
    await ann.settle(running)
    await waits


async def test_cancelled_call_leaves_its_place_to_the_next(guards, aredis):
    ann, order = Caller(guards), []
    running = await ann.admit()
    calls = []
    for name in range(3):
        calls.append(asyncio.create_task(ann.call(order, name)))
        await until(waiting(guards, name + 1))
    calls[0].cancel()
    calls[1].cancel()
    await ann.settle(running)
    await calls[2]
    assert order == [2]
    assert guards._room._lines == {}
    await asyncio.sleep(0)
    assert await books(aredis) == (0, 0)


async def test_call_that_is_cancelled_as_its_turn_comes_wakes_the_next(guards):
    ann, order = Caller(guards), []
    for turns in range(6):
        running = await ann.admit()
        first = asyncio.create_task(ann.call(order, "first"))
        await until(waiting(guards, 1))
        second = asyncio.create_task(ann.call(order, "second"))
        await until(waiting(guards, 2))
        await ann.settle(running)
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(5):
            await second
        await asyncio.wait([first])


async def test_sync_call_that_waits_ends_with_its_worker(client, redis_url):
    guards = guards_of(client, redis_url, daily_tokens=HELD)
    await Caller(guards).admit()
    waits = asyncio.create_task(asyncio.to_thread(guards.loops.run_sync, Caller(guards).admit()))
    await until(waiting(guards, 1))
    await guards.aclose()
    async with asyncio.timeout(5):
        [ended] = await asyncio.gather(waits, return_exceptions=True)
    assert isinstance(ended, TaskGone)
    assert guards._room._lines == {}


async def test_calls_of_other_processes_are_noticed(guards, client, redis_url):
    elsewhere = guards_of(client, redis_url)
    other, ann = Caller(elsewhere), Caller(guards)
    running = await ann.admit()
    waits = asyncio.create_task(ann.admit())
    await until(waiting(guards, 1))
    await other.settle(running)
    async with asyncio.timeout(5):
        await waits
    await elsewhere.aclose()


async def test_call_waits_no_longer_than_its_deadline(guards, aredis):
    ann = Caller(guards)
    await ann.admit()
    ann._task.deadline_at = time.monotonic() + 0.3
    with pytest.raises(BudgetExceeded, match="user's budget was held by running calls until the deadline"):
        await ann.admit()
    assert await books(aredis) == (0, HELD)


async def test_probe_that_waits_for_the_budget_lets_another_one_probe(guards, aredis):
    ann, bob = Caller(guards), Caller(guards, "bob")
    running = await ann.admit()
    await Breakers(aredis, BREAKER_LIMITS).report(f"openai/{MODEL}", "t", 0, Outcome.QUOTA)
    await asyncio.sleep(0.01)
    waits = asyncio.create_task(ann.admit())
    await until(waiting(guards, 1))
    await bob.admit()
    (status,) = await Breakers(aredis, BREAKER_LIMITS).states()
    assert status.probes_in_flight == 1
    waits.cancel()
    await asyncio.wait([waits])
    await ann.settle(running)


@pytest.mark.parametrize("is_sync", [False, True])
async def test_two_hundred_calls_share_the_room_for_a_few(is_sync, client, redis_url, aredis, llm, chat):
    guards = guards_of(client, redis_url, daily_tokens=200 * 60)
    model = guarded_chat_model(chat(max_tokens=3_000), guards=guards)
    call = (lambda: asyncio.to_thread(model.invoke, "hi")) if is_sync else (lambda: model.ainvoke("hi"))
    await asyncio.gather(*(call() for _ in range(200)))
    assert len(llm.calls()) == 200
    assert await books(aredis) == (billed(llm), 0)
    await guards.aclose()


@pytest.mark.parametrize("limits", [{"daily_tokens": 1_000}, {"daily_cost_nano_usd": 1_000_000}])
async def test_output_limit_is_lowered_to_what_is_left(limits, client, redis_url, aredis, llm, chat, monkeypatch):
    guards = guards_of(client, redis_url, **limits)
    asked = []
    model = guarded_chat_model(chat(max_tokens=None), guards=guards)
    inner = model._inner[0].model
    generate = type(inner)._agenerate

    async def spied(self, *args, **kwargs):
        asked.append(kwargs["max_tokens"])
        return await generate(self, *args, **kwargs)

    monkeypatch.setattr(type(inner), "_agenerate", spied)
    await model.ainvoke("hi")
    assert OUTPUT_TOKENS < asked[0] < 1_000 or "daily_cost_nano_usd" in limits
    assert await books(aredis) == (billed(llm), 0)
    await guards.aclose()


async def test_small_calls_of_another_process_do_not_keep_out_a_large_one(client, redis_url):
    limits = {"daily_tokens": 10_000}
    guards, elsewhere = guards_of(client, redis_url, **limits), guards_of(client, redis_url, **limits)
    large, small = CallSize(Prompt(0), output_limit=3_992), CallSize(Prompt(0), output_limit=992)
    others = Caller(elsewhere, "bob")
    started = []

    async def stream(number):
        while True:
            admitted = await others.admit(small)
            started.append(number)
            await asyncio.sleep(0.02 + number / 1_000)  # the call itself; they do not end all at once
            await others.settle(admitted)

    streams = [asyncio.create_task(stream(number)) for number in range(7)]
    await until(lambda: len(started) > 20)
    async with asyncio.timeout(8):
        admitted = await Caller(guards).admit(large)
    await Caller(guards).settle(admitted)
    for one in streams:
        one.cancel()
    await asyncio.wait(streams)
    await guards.aclose()
    await elsewhere.aclose()


async def test_waiting_call_asks_for_what_its_model_has_turned_out_to_use(client, redis_url, aredis):
    guards = guards_of(client, redis_url, daily_tokens=10_000)
    guess = CallSize(Prompt(0))
    elsewhere = guards_of(client, redis_url, daily_tokens=10_000)
    running = await Caller(elsewhere).admit(CallSize(Prompt(0), output_limit=4_000))
    task = TaskGuard(elsewhere)
    for _ in range(50):
        short = await elsewhere.admit(task, f"openai/{MODEL}", MODEL, SIZE, 60)
        await elsewhere.settle(task, short, Outcome.OK, Used(1, 8))
    second = await Caller(elsewhere).admit(CallSize(Prompt(0), output_limit=3_900))
    async with asyncio.timeout(8):
        admitted = await Caller(guards).admit(guess)
    assert admitted.held.held.tokens == 8 + 8
    for one in (running, second, admitted):
        await Caller(guards).settle(one)
    await guards.aclose()
    await elsewhere.aclose()


async def waiters(aredis):
    """Return the calls that the scopes keep room for."""
    keys = [key async for key in aredis.scan_iter("agent:budget:*", _type="hash")]
    found = [await aredis.hget(key, "waiter") for key in keys]
    return {one.split()[-1].decode() for one in found if one}


async def test_waiting_call_that_is_cancelled_keeps_room_from_nobody(guards, aredis):
    running = await Caller(guards).admit()
    waiting = asyncio.create_task(Caller(guards).admit())

    async def is_first():
        return await waiters(aredis) != set()

    await until(is_first)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def nobody():
        return await waiters(aredis) == set()

    await until(nobody, timeout_s=1)
    await Caller(guards).settle(running)


async def test_waiting_call_whose_deadline_passes_keeps_room_from_nobody(guards, aredis):
    await Caller(guards).admit()
    late = Caller(guards)
    late._task.deadline_at = time.monotonic() + 0.3
    with pytest.raises(BudgetBusy):
        await late.admit()

    async def nobody():
        return await waiters(aredis) == set()

    await until(nobody, timeout_s=1)


async def test_call_that_may_not_wait_keeps_room_from_nobody(guards, aredis):
    await Caller(guards).admit()
    token = stops_a_loop.set(True)
    with pytest.raises(BudgetBusy):
        await Caller(guards).admit()
    stops_a_loop.reset(token)
    assert await waiters(aredis) == set()
