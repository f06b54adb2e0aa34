"""Tasks that wait for a model or a budget: without a slot, nothing paid twice, and no wake-up lost."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from langgraph.graph import END, START, StateGraph

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import RESERVATIONS, BudgetLimits, Payer, Reservation
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.fleet.outcomes import OutcomeWriter
from langgraph_rq.worker.guards.call_size import CallSize, Prompt
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used, token_of
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.breakers import Breakers
from tests.fleet import PRICING, one_node_graph, worker
from tests.model_calls import Said
from tests.waiting import until

MINI, OTHER = "openai/gpt-4o-mini", "openai/gpt-4o"
LIMITS = BreakerLimits(open_s=60, max_open_s=60, jitter=0)
BUDGET = BudgetLimits(daily_tokens=2_000)
WAIT_S = 20
"""Much less than the minute after which a task goes on without a mark."""


@pytest.fixture
def breakers(aredis):
    return Breakers(aredis, LIMITS)


@pytest.fixture
async def elsewhere(redis_url):
    """The guards of another process."""
    async with open_async(redis_url) as redis:
        guards = Guards(redis, redis_url, LIMITS, BUDGET, PRICING)
        yield guards
        await guards.aclose()


@pytest.fixture
def run_cli(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)

    async def run(*arguments):
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert done.exit_code == 0, done.output

    return run


def calls(*models):
    """A node that calls models in turn."""

    async def node(_state):
        for model in models:
            await model.ainvoke("hi")
        return {"text": "done"}

    return one_node_graph(node, Said)


async def no_model(_state):
    return {"text": "done"}


async def open_breaker(breakers, name):
    await breakers.report(name, "t", 0, Outcome.QUOTA)


async def close_breaker(breakers, elsewhere, name):
    """Let the open time end, and a probe of another process succeed."""
    await breakers.redis.hset(f"agent:breaker:{name}", "open_ends_at", 1)
    probe = await elsewhere.admit(TaskGuard(elsewhere), name, name, CallSize(Prompt(0), output_limit=8), 60)
    await elsewhere.settle(TaskGuard(elsewhere), probe, Outcome.OK, Used(1, 1))


def is_in_set(aredis, task_id, thing=f"breaker:{MINI}"):
    async def condition():
        return await aredis.zscore(f"agent:wait:{thing}", task_id) is not None

    return condition


async def result_of(client, task_id):
    return await asyncio.to_thread(client.wait, task_id, WAIT_S)


async def test_task_waits_for_an_open_breaker_and_says_so(redis_url, client, aredis, llm, chat, breakers, run_cli):
    await open_breaker(breakers, MINI)
    async with worker(redis_url, {"g": calls(chat())}, breaker=LIMITS) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(is_in_set(aredis, task_id))
        status = client.status(task_id)
        assert status.reason.startswith(f"waits for {MINI}, asked again at ")
        assert (status.state, status.attempts) == (State.PENDING, 0)
        await until(lambda: one.in_flight == 0)
        assert llm.calls() == []
        await run_cli("breaker", "--reset", MINI)
        result = await result_of(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)


async def test_half_open_breaker_gets_one_task_and_then_all(redis_url, client, aredis, llm, chat):
    limits = BreakerLimits(open_s=3, max_open_s=3, jitter=0)
    await open_breaker(Breakers(aredis, limits), MINI)
    llm.set_latency(1)
    async with worker(redis_url, {"g": calls(chat())}, breaker=limits, concurrency=50):
        ids = [client.submit({"text": ""}, graph="g").task_id for _ in range(20)]
        await until(lambda: len(llm.calls()) or llm.stats()["in_flight"])
        assert llm.stats()["in_flight"] == 1
        results = [await result_of(client, task_id) for task_id in ids]
    assert {result.status for result in results} == {State.SUCCESS}
    assert len(llm.calls()) == 20


async def test_deadline_holds_in_a_set_and_the_result_says_what_was_waited_for(redis_url, client, llm, chat, breakers):
    await open_breaker(breakers, MINI)
    await breakers.redis.hset(f"agent:breaker:{MINI}", "open_ends_at", round(time.time() * 1000) + 4_000)
    async with worker(redis_url, {"g": calls(chat())}, breaker=LIMITS):
        task_id = client.submit({"text": ""}, graph="g", deadline_s=6).task_id
        await until(lambda: (client.status(task_id).reason or "").startswith("waits for"))
        await breakers.redis.zadd("agent:waits", {f"breaker:{MINI}": 4e12})
        result = await result_of(client, task_id)
    assert result.status is State.TIMEOUT
    assert result.error.message == f"the deadline of 6 s passed while it waited for {MINI}"
    assert llm.calls() == []


class Case(SimpleNamespace):
    """What a test of a waker has at hand."""


async def close(case):
    await close_breaker(case.breakers, case.elsewhere, MINI)


async def reset(case):
    await case.run_cli("breaker", "--reset", MINI)


async def settle(case):
    await case.elsewhere.settle(case.holder, case.held, Outcome.CANCEL, Used(0, 0))


async def expire(case):
    await case.aredis.zadd(RESERVATIONS, {case.held.rid: 1})


async def raise_the_limit(case):
    await case.run_cli("budget", "raise", "global", "1000000")


@pytest.mark.parametrize(
    ("waker", "point"),
    [
        pytest.param(waker, point, marks=() if waker is close or point == "entry" else pytest.mark.slow)
        for waker in (close, reset, settle, expire, raise_the_limit)
        for point in ("refusal", "entry", "waiting")
    ],
)
async def test_no_wake_up_is_lost_wherever_it_strikes(
    waker, point, redis_url, client, aredis, llm, chat, breakers, elsewhere, run_cli, monkeypatch
):
    struck = asyncio.Event()
    case = Case(aredis=aredis, breakers=breakers, elsewhere=elsewhere, run_cli=run_cli)
    case.holder = TaskGuard(elsewhere, payer=Payer(user_id="bob"), deadline_at=time.monotonic() + 60)
    if waker in {close, reset}:
        await open_breaker(breakers, MINI)
    else:
        size = CallSize(Prompt(0), output_limit=1_990)
        case.held = await elsewhere.admit(case.holder, OTHER, "gpt-4o", size, 60)

    async def strike(at):
        if at == point and not struck.is_set():
            struck.set()
            await waker(case)

    ask, release = Guards._ask, OutcomeWriter._release

    async def ask_and_strike(self, task, admitted, ttl_s):
        decision = await ask(self, task, admitted, ttl_s)
        if task.task_id and not (
            decision.allowed and decision.allowed.admitted and isinstance(decision.reserved, Reservation)
        ):
            await strike("refusal")
        return decision

    async def release_and_strike(self, attempt, released):
        await strike("entry")
        await release(self, attempt, released)
        await strike("waiting")

    monkeypatch.setattr(Guards, "_ask", ask_and_strike)
    monkeypatch.setattr(OutcomeWriter, "_release", release_and_strike)
    async with worker(redis_url, {"g": calls(chat(max_tokens=100))}, breaker=LIMITS, budget=BUDGET):
        task_id = client.submit({"text": ""}, graph="g", user_id="ann").task_id
        async with asyncio.timeout(WAIT_S):
            await struck.wait()
        result = await result_of(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert len(llm.calls()) == 1


@pytest.mark.parametrize("is_guarded", [False, True])
async def test_attempt_that_has_paid_keeps_its_memory_and_gives_back_its_slot(
    is_guarded, redis_url, client, aredis, llm, chat, breakers, run_cli
):
    await open_breaker(breakers, OTHER)
    guarded = guarded_chat_model if is_guarded else lambda model: model
    graphs = {"g": calls(guarded(chat()), guarded(chat("gpt-4o"))), "plain": one_node_graph(no_model, Said)}
    async with worker(redis_url, graphs, breaker=LIMITS, concurrency=1) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        others = [client.submit({"text": ""}, graph="plain").task_id for _ in range(3)]
        assert {(await result_of(client, other)).status for other in others} == {State.SUCCESS}
        status = client.status(task_id)
        assert (status.state, status.reason) == (State.RUNNING, f"waits for {OTHER} in its worker's memory")
        llm.set_latency(2)
        await run_cli("breaker", "--reset", OTHER)
        await until(lambda: llm.stats()["in_flight"] == 1, WAIT_S)
        await until(lambda: client.status(task_id).reason is None)
        assert client.status(task_id).state is State.RUNNING
        result = await result_of(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o"]


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "unchanged"])
async def test_attempt_whose_call_is_under_way_again_holds_a_slot(
    is_guarded, redis_url, client, llm, chat, breakers, run_cli
):
    await open_breaker(breakers, OTHER)
    guarded = guarded_chat_model if is_guarded else lambda model: model
    graphs = {"g": calls(guarded(chat()), guarded(chat("gpt-4o")))}
    async with worker(redis_url, graphs, breaker=LIMITS, concurrency=1) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        llm.set_latency(2)
        await run_cli("breaker", "--reset", OTHER)
        await until(lambda: llm.stats()["in_flight"] == 1, WAIT_S)
        assert one._running.slots == 1
        assert (await result_of(client, task_id)).status is State.SUCCESS


async def test_failure_of_a_call_that_waited_in_memory_is_not_waited_for(
    redis_url, client, llm, chat, breakers, run_cli
):
    await open_breaker(breakers, OTHER)
    llm.set_faults([{"fault": "500", "model": "gpt-4o"}])
    async with worker(redis_url, {"g": calls(chat(), chat("gpt-4o"))}, breaker=LIMITS) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        await run_cli("breaker", "--reset", OTHER)
        result = await result_of(client, task_id)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.PROVIDER_UNAVAILABLE)


async def test_sync_node_that_has_paid_keeps_its_memory_too(redis_url, client, llm, chat, breakers, run_cli):
    await open_breaker(breakers, OTHER)
    first, second = chat(), chat("gpt-4o")

    def node(_state):
        first.invoke("hi")
        second.invoke("hi")
        return {"text": "done"}

    async with worker(redis_url, {"g": one_node_graph(node, Said)}, breaker=LIMITS) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        await run_cli("breaker", "--reset", OTHER)
        result = await result_of(client, task_id)
    assert result.status is State.SUCCESS
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o"]


async def test_attempt_beyond_the_limit_goes_to_the_set_and_is_counted(
    redis_url, client, aredis, llm, chat, breakers, run_cli, lines
):
    await open_breaker(breakers, OTHER)
    async with worker(redis_url, {"g": calls(chat(), chat("gpt-4o"))}, breaker=LIMITS, kept=1):
        ids = [client.submit({"text": ""}, graph="g").task_id for _ in range(2)]
        await until(lambda: sum(client.status(task_id).state is State.PENDING for task_id in ids) == 1)
        await run_cli("breaker", "--reset", OTHER)
        results = [await result_of(client, task_id) for task_id in ids]
    assert {result.status for result in results} == {State.SUCCESS}
    assert sorted(call["model"] for call in llm.calls()) == ["gpt-4o"] * 2 + ["gpt-4o-mini"] * 3
    assert [line["waits_for"] for line in lines.named("task.pays_again")] == [f"breaker:{OTHER}"]


async def test_attempt_that_paid_before_its_last_checkpoint_goes_to_the_set(
    redis_url, client, aredis, llm, chat, breakers, run_cli
):
    await open_breaker(breakers, OTHER)
    graph = StateGraph(Said)
    for name, model in (("first", chat()), ("second", chat("gpt-4o"))):

        async def node(_state, model=model):
            await model.ainvoke("hi")
            return {"text": "done"}

        graph.add_node(name, node)
    graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
    async with worker(redis_url, {"g": graph.compile()}, breaker=LIMITS, checkpoints=True):
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(is_in_set(aredis, task_id, f"breaker:{OTHER}"))
        await run_cli("breaker", "--reset", OTHER)
        result = await result_of(client, task_id)
    assert result.status is State.SUCCESS
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o"]


class SavesLate(ThreadSaver):
    """Saves the checkpoint behind the first node when the second one has paid, as one that Redis answers late."""

    paid: asyncio.Event
    saved: asyncio.Event

    async def aput(self, config, checkpoint, metadata, new_versions):
        if metadata["step"] == 1:
            await self.paid.wait()
        written = await super().aput(config, checkpoint, metadata, new_versions)
        if metadata["step"] == 1:
            self.saved.set()
        return written


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
async def test_attempt_that_paid_while_the_checkpoint_before_its_node_was_saved_keeps_its_memory(
    is_sync, redis_url, client, llm, chat, breakers, run_cli
):
    await open_breaker(breakers, OTHER)
    first, second, loop = chat(), chat("gpt-4o"), asyncio.get_running_loop()

    async def pay(_state):
        await first.ainvoke("hi")
        SavesLate.paid.set()
        await SavesLate.saved.wait()
        await second.ainvoke("hi")
        return {"text": "done"}

    def pay_in_thread(_state):
        first.invoke("hi")
        loop.call_soon_threadsafe(SavesLate.paid.set)
        asyncio.run_coroutine_threadsafe(SavesLate.saved.wait(), loop).result(WAIT_S)
        second.invoke("hi")
        return {"text": "done"}

    SavesLate.paid, SavesLate.saved = asyncio.Event(), asyncio.Event()
    graph = StateGraph(Said).add_node("free", no_model).add_node("pays", pay_in_thread if is_sync else pay)
    graph.add_edge(START, "free").add_edge("free", "pays").add_edge("pays", END)
    async with open_async(redis_url) as saved:
        saver = SavesLate(saved, token=token_of, is_beside_tasks=True)
        async with worker(redis_url, {"g": graph.compile()}, breaker=LIMITS, checkpointer=saver) as one:
            task_id = client.submit({"text": ""}, graph="g", durability="async").task_id
            await until(lambda: one._running.slots == 0 and one.in_flight == 1)
            await run_cli("breaker", "--reset", OTHER)
            result = await result_of(client, task_id)
    assert result.status is State.SUCCESS
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o"]


@pytest.mark.parametrize("is_guarded", [False, True])
async def test_attempt_that_has_paid_does_not_wait_for_a_model_that_has_a_fallback(
    is_guarded, redis_url, client, llm, chat, breakers
):
    await open_breaker(breakers, OTHER)
    guarded = guarded_chat_model if is_guarded else lambda model: model
    model = guarded(chat("gpt-4o")).with_fallbacks([chat()])
    async with worker(redis_url, {"g": calls(chat(), model)}, breaker=LIMITS):
        result = await result_of(client, client.submit({"text": ""}, graph="g").task_id)
    assert result.status is State.SUCCESS
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o-mini"]


async def test_deadline_of_an_attempt_in_memory_says_what_was_waited_for(redis_url, client, chat, breakers):
    await open_breaker(breakers, OTHER)
    async with worker(redis_url, {"g": calls(chat(), chat("gpt-4o"))}, breaker=LIMITS) as one:
        task_id = client.submit({"text": ""}, graph="g", deadline_s=4).task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        result = await result_of(client, task_id)
    assert (result.status, result.error.type) == (State.TIMEOUT, ErrorType.TIMEOUT)
    assert result.error.message == f"the deadline of 4 s passed while it waited for {OTHER}"


async def test_worker_that_ends_releases_an_attempt_in_memory(redis_url, client, chat, breakers):
    await open_breaker(breakers, OTHER)
    async with worker(redis_url, {"g": calls(chat(), chat("gpt-4o"))}, breaker=LIMITS, drain_s=0) as one:
        task_id = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
    assert client.status(task_id).state is State.PENDING


async def test_draining_worker_releases_an_attempt_in_memory_while_others_run(redis_url, client, chat, breakers):
    await open_breaker(breakers, OTHER)
    goes_on = asyncio.Event()

    async def last(_state):
        await goes_on.wait()
        return {"text": "done"}

    graphs = {"g": calls(chat(), chat("gpt-4o")), "lasting": one_node_graph(last, Said)}
    async with worker(redis_url, graphs, breaker=LIMITS, drain_s=60) as one:
        waiting = client.submit({"text": ""}, graph="g").task_id
        await until(lambda: one._running.slots == 0 and one.in_flight == 1)
        running = client.submit({"text": ""}, graph="lasting").task_id
        await until(lambda: one.in_flight == 2)
        one.stop()
        await until(lambda: client.status(waiting).state is State.PENDING)
        assert client.status(running).state is State.RUNNING
        goes_on.set()
        assert (await result_of(client, running)).status is State.SUCCESS


async def test_task_that_has_paid_nothing_waits_for_the_budget_in_its_set(
    redis_url, client, aredis, llm, chat, elsewhere
):
    holder = TaskGuard(elsewhere, payer=Payer(user_id="bob"), deadline_at=time.monotonic() + 60)
    held = await elsewhere.admit(holder, OTHER, "gpt-4o", CallSize(Prompt(0), output_limit=1_990), 60)
    async with worker(redis_url, {"g": calls(chat())}, budget=BUDGET) as one:
        task_id = client.submit({"text": ""}, graph="g", user_id="ann").task_id
        await until(is_in_set(aredis, task_id, "budget:global"))
        await until(lambda: one.in_flight == 0)
        assert client.status(task_id).reason.startswith("waits for room in the budget of the fleet")
        await elsewhere.settle(holder, held, Outcome.CANCEL, Used(0, 0))
        result = await result_of(client, task_id)
    assert (result.status, len(llm.calls())) == (State.SUCCESS, 1)
