"""A tenant has so many model calls in flight as it may, whatever users it invents, and leaves the others theirs."""

import asyncio
import time

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings, load
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.event_loops import stops_a_loop
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetBusy, BudgetExceeded
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used
from langgraph_rq.worker.guards.tenant_calls import CALLS
from tests.fleet import PRICING
from tests.waiting import until

MODEL = "gpt-4o-mini"
SIZE = CallSize(Prompt(0), output_limit=92)
ACME = f"{CALLS}acme"


@pytest.fixture
async def process(redis_url):
    """Start what stands for a worker process, each with connections of its own; all obey a limit of two."""
    opened = []

    async with open_async(redis_url) as client:

        def process(**limits) -> Guards:
            opened.append(Guards(client, redis_url, BreakerLimits(), BudgetLimits(**limits), PRICING, tenant_calls=2))
            return opened[-1]

        yield process
        for guards in opened:
            await guards.aclose()


def task_of(guards: Guards, user: str, tenant: str = "acme") -> TaskGuard:
    return TaskGuard(guards, payer=Payer(tenant, user), deadline_at=time.monotonic() + 30)


async def admit(task: TaskGuard):
    return await task.guards.admit(task, f"openai/{MODEL}", MODEL, SIZE, 60)


async def settle(task: TaskGuard, admitted) -> None:
    await task.guards.settle(task, admitted, Outcome.OK, Used(1, 1))


async def test_calls_of_a_tenant_in_flight_are_bounded_in_the_whole_fleet(process, aredis):
    one, other = process(), process()
    first, second, third = (task_of(guards, f"invented-{n}") for n, guards in enumerate((one, other, one)))
    running = await admit(first)
    await admit(second)
    waits = asyncio.create_task(admit(third))
    await until(lambda: one._room._lines)
    assert await aredis.zcard(ACME) == 2
    async with asyncio.timeout(1):
        await admit(task_of(one, "victim", "beta"))
    assert not waits.done()
    await settle(first, running)
    await waits
    assert await aredis.zcard(ACME) == 2


async def test_operators_own_tenant_has_no_limit(process, aredis):
    task = task_of(process(), "ann", "default")
    for _ in range(3):
        await admit(task)
    assert await aredis.keys(f"{CALLS}*") == []


async def test_place_goes_with_its_call_and_the_key_with_the_last(process, aredis):
    task = task_of(process(), "ann")
    calls = [await admit(task), await admit(task)]
    assert 60_000 < await aredis.pttl(ACME) <= 90_000
    for admitted in calls:
        await settle(task, admitted)
    assert not await aredis.exists(ACME)


async def test_places_of_workers_that_died_go_at_the_end_of_their_calls(process, aredis):
    await aredis.zadd(ACME, {f"dead-{n}": 1 for n in range(250)})
    task = task_of(process(), "ann")
    async with asyncio.timeout(5):
        await admit(task)
    assert await aredis.zcard(ACME) < 250


async def test_call_that_its_budget_refuses_takes_no_place(process, aredis):
    task = task_of(process(daily_tokens=10), "ann")
    with pytest.raises(BudgetExceeded):
        await admit(task)
    assert not await aredis.exists(ACME)


async def test_call_that_cannot_wait_says_what_it_would_wait_for(process):
    task = task_of(process(), "ann")
    await admit(task)
    await admit(task)
    stops_a_loop.set(True)
    with pytest.raises(BudgetBusy, match="tenant's model calls: 2 of 2 in flight") as error:
        await admit(task)
    assert error.value.wait.thing == "budget:tenant:acme"


async def test_call_that_is_cancelled_while_it_waits_leaves_no_place(process, aredis):
    guards = process()
    task = task_of(guards, "ann")
    running = [await admit(task), await admit(task)]
    waits = asyncio.create_task(admit(task))
    await until(lambda: guards._room._lines)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    for admitted in running:
        await settle(task, admitted)
    await guards.aclose()
    assert not await aredis.exists(ACME)


async def test_worker_obeys_the_setting(redis_url, tmp_path, monkeypatch):
    (tmp_path / "graphs.py").write_text(
        "from langgraph.graph import START, StateGraph\n"
        "g = StateGraph(dict).add_node('node', lambda state: state).add_edge(START, 'node')\n"
    )
    (tmp_path / "langgraph.json").write_text('{"graphs": {"g": "./graphs.py:g"}}')
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LGRQ_TENANT_CALLS", "7")
    settings = load(WorkerSettings, config=tmp_path / "langgraph.json", checkpoints=False)
    async with open_context(settings, load(RedisSettings)) as context:
        assert context.guards.tenant_calls == 7
