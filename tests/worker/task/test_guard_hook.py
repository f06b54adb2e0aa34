"""Graphs that know nothing of the guards: however a node calls a model, it is asked for before and booked after."""

import asyncio
import gc
import json
import math
from contextlib import suppress

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState, Outcome
from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Charge, Hold, Payer, Request
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.task.node_watch import NodeWatch
from tests.breakers import Breakers
from tests.budget import Budget, limit_day
from tests.fleet import one_node_graph
from tests.model_calls import (
    OUTPUT_TOKENS,
    Said,
    billed,
    books,
    counted,
    run_graph,
    run_node,
    two_nodes_at_once,
)
from tests.waiting import until

NOTHING_LEFT = BudgetLimits(daily_tokens=10)
QUESTION = "What is 2 + 2?"
INPUT_TOKENS = 5 + 8 + 4
"""The estimate of the question: a third of its bytes, and what a provider adds to a call and to a message."""
WORST_TOKENS = len(QUESTION) + 32 + 16 + OUTPUT_TOKENS


async def ainvoke(model):
    return (await model.ainvoke(QUESTION)).text


async def astream(model):
    return "".join([chunk.text async for chunk in model.astream(QUESTION)])


async def abatch(model):
    return "".join(one.text for one in await model.abatch([QUESTION, QUESTION]))


async def sync_in_async(model):
    return model.invoke(QUESTION).text


def invoke(model):
    return model.invoke(QUESTION).text


def stream(model):
    return "".join(chunk.text for chunk in model.stream(QUESTION))


ASYNC = [ainvoke, astream, abatch, sync_in_async]
SYNC = [invoke, stream]


def node_of(call, model):
    if call in SYNC:
        return lambda _state: {"text": call(model)}

    async def node(_state):
        return {"text": await call(model)}

    return node


@pytest.mark.parametrize("call", ASYNC + SYNC)
async def test_call_is_booked_as_it_is_billed(call, redis_url, aredis, llm, chat):
    result = await run_node(redis_url, node_of(call, chat()))
    assert result.status is State.SUCCESS, result.error
    assert "You asked" in result.result["text"]
    assert await books(aredis) == (billed(llm), 0)
    assert counted(result) == billed(llm) > 0
    assert result.metadata.model == "gpt-4o-mini"
    assert result.metadata.cost_usd > 0
    assert not result.metadata.usage_estimated


@pytest.mark.parametrize("call", ASYNC + SYNC)
async def test_spent_budget_ends_the_run_without_a_call_whatever_the_node_catches(call, redis_url, aredis, llm, chat):
    caught = []
    inner = node_of(call, chat())

    async def stubborn(state):
        try:
            return await inner(state)
        except Exception as error:
            caught.append(error)

    def stubborn_sync(state):
        try:
            return inner(state)
        except Exception as error:
            caught.append(error)

    node = stubborn_sync if call in SYNC else stubborn
    result = await run_node(redis_url, node, budget=NOTHING_LEFT)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.BUDGET_EXCEEDED)
    assert result.error.message.startswith("daily token budget spent: 0 of 10 used")
    assert result.error.retry_after_s > 0
    assert caught == llm.calls() == []
    assert await books(aredis) == (0, 0)


@pytest.mark.parametrize("call", ASYNC + SYNC)
async def test_open_breaker_ends_the_run_without_a_call(call, redis_url, aredis, llm, chat):
    await Breakers(aredis, BreakerLimits()).report("openai/gpt-4o-mini", "t", 0, Outcome.QUOTA)
    result = await run_node(redis_url, node_of(call, chat()), deadline_s=5)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.PROVIDER_UNAVAILABLE)
    assert "the circuit breaker is open (quota)" in result.error.message
    assert 5 < result.error.retry_after_s <= 35
    assert llm.calls() == []
    assert await books(aredis) == (0, 0)


async def test_task_waits_in_the_queue_for_a_breaker_that_opens_up_before_its_deadline(redis_url, aredis, llm, chat):
    limits = BreakerLimits(open_s=4.0, jitter=0)
    await Breakers(aredis, limits).report("openai/gpt-4o-mini", "t", 0, Outcome.QUOTA)
    result = await run_node(redis_url, node_of(ainvoke, chat()), breaker=limits)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert len(llm.calls()) == 1
    assert await aredis.hget(f"agent:task:{result.task_id}", "epoch") == b"2"


@pytest.mark.parametrize(("call", "fault"), [(ainvoke, "500"), (invoke, "500"), (astream, "cut"), (stream, "cut")])
async def test_failing_calls_open_the_breaker_for_everybody(call, fault, redis_url, aredis, llm, chat):
    llm.set_faults([{"fault": fault}])
    limits = BreakerLimits(failure_threshold=1, window_s=0)
    result = await run_node(redis_url, node_of(call, chat()), breaker=limits)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.PROVIDER_UNAVAILABLE)
    (status,) = await Breakers(aredis, limits).states()
    assert (status.name, status.state) == ("openai/gpt-4o-mini", "open")
    used, held = await books(aredis)
    assert billed(llm) <= used
    assert held == 0


@pytest.mark.parametrize("call", [astream, pytest.param(stream, marks=pytest.mark.slow)])
async def test_stream_of_a_probe_closes_the_breaker_at_its_first_chunk(call, redis_url, aredis, llm, chat):
    limits = BreakerLimits(open_s=0.001, max_open_s=0.001, jitter=0)
    breaker = Breakers(aredis, limits)
    await breaker.report("openai/gpt-4o-mini", "t", 0, Outcome.QUOTA)
    llm.set_latency(2)
    running = asyncio.create_task(run_node(redis_url, node_of(call, chat()), breaker=limits))

    async def is_closed():
        return (await breaker.states())[0].state is BreakerState.CLOSED

    await until(is_closed)
    assert not running.done()
    assert (await running).status is State.SUCCESS
    assert await books(aredis) == (billed(llm), 0)


@pytest.mark.parametrize("call", [ainvoke, *(pytest.param(one, marks=pytest.mark.slow) for one in (invoke, astream))])
async def test_task_waits_for_a_rate_limit_and_runs_its_node_again(call, redis_url, llm, chat):
    llm.set_faults([{"fault": "429", "retry_after_s": 3, "times": 1}])
    result = await run_node(redis_url, node_of(call, chat()))
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert [one["fault"] for one in llm.calls()] == ["429", None]


@pytest.mark.parametrize("is_guarded", [True, False])
async def test_rate_limit_beyond_the_deadline_ends_the_task_at_once(is_guarded, redis_url, llm, chat):
    llm.set_faults([{"fault": "429", "retry_after_s": 60}])
    model = guarded_chat_model(chat()) if is_guarded else chat()
    result = await run_node(redis_url, node_of(ainvoke, model), deadline_s=20)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.PROVIDER_UNAVAILABLE)
    assert len(llm.calls()) == 1


@pytest.mark.parametrize("call", [ainvoke, invoke])
async def test_short_cooldown_is_waited_for_in_place(call, redis_url, aredis, llm, chat):
    await Breakers(aredis, BreakerLimits()).report(
        "openai/gpt-4o-mini", "t", 0, Outcome.RATE_LIMITED, retry_after_ms=1_500
    )
    result = await run_node(redis_url, node_of(call, chat()))
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert len(llm.calls()) == 1


class Parrot(BaseChatModel):
    """Another chat model than OpenAI's, which neither streams nor says how much it wrote at most."""

    calls: list

    @property
    def _llm_type(self):
        return "parrot"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.calls.append(messages)
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("You asked", usage_metadata=usage))])


@pytest.mark.parametrize("call", [ainvoke, astream, sync_in_async, invoke, stream])
async def test_other_chat_models_are_guarded_too(call, redis_url, aredis):
    parrot = Parrot(calls=[])
    result = await run_node(redis_url, node_of(call, parrot))
    assert result.status is State.SUCCESS, result.error
    assert await books(aredis) == (12, 0)
    await limit_day(aredis, 20)
    refused = await run_node(redis_url, node_of(call, parrot))
    assert refused.error.type is ErrorType.BUDGET_EXCEEDED
    assert len(parrot.calls) == 1


async def test_agent_with_tools_is_booked_call_by_call(redis_url, aredis, llm, chat):
    @tool
    def weather(city: str) -> str:
        """Say the weather of a city."""
        return f"sunny in {city}"

    agent = create_agent(chat(), [weather])
    task = {"messages": [{"role": "user", "content": "What is the weather in 'Rome'?"}]}
    result = await run_graph(redis_url, agent, task=task)
    assert [message["type"] for message in result.result["messages"]] == ["human", "ai", "tool", "ai"]
    assert len(llm.calls()) == 2
    assert await books(aredis) == (billed(llm), 0)


async def test_parallel_branches_are_booked_each(redis_url, aredis, llm, chat):
    model, together = chat(), asyncio.Barrier(2)

    async def ask(_state):
        await together.wait()
        await model.ainvoke(QUESTION)

    result = await run_graph(redis_url, two_nodes_at_once(ask, ask))
    assert result.status is State.SUCCESS, result.error
    assert len(llm.calls()) == 2
    assert await books(aredis) == (billed(llm), 0)
    assert counted(result) == billed(llm)


async def test_refusal_of_one_branch_ends_the_run(redis_url, aredis, llm, chat):
    async def ask(_state):
        await chat().ainvoke(QUESTION)

    async def wait(_state):
        await asyncio.Event().wait()

    result = await run_graph(redis_url, two_nodes_at_once(ask, wait), budget=NOTHING_LEFT)
    assert result.error.type is ErrorType.BUDGET_EXCEEDED


@pytest.mark.parametrize("call", [ainvoke, invoke])
async def test_subgraph_is_guarded(call, redis_url, aredis, llm, chat):
    inner = one_node_graph(node_of(call, chat()), Said)
    graph = StateGraph(Said).add_node("inner", inner).add_edge(START, "inner").add_edge("inner", END).compile()
    assert (await run_graph(redis_url, graph)).status is State.SUCCESS
    assert await books(aredis) == (billed(llm), 0)
    await limit_day(aredis, 10)
    assert (await run_graph(redis_url, graph)).error.type is ErrorType.BUDGET_EXCEEDED
    assert len(llm.calls()) == 1


@pytest.mark.parametrize("call", [ainvoke, invoke])
async def test_fallback_of_a_failing_model_is_booked_too(call, redis_url, aredis, llm, chat):
    llm.set_faults([{"fault": "500", "model": "gpt-4o"}])
    model = chat("gpt-4o").with_fallbacks([chat("gpt-4o-mini")])
    result = await run_node(redis_url, node_of(call, model))
    assert result.status is State.SUCCESS, result.error
    assert [one["model"] for one in llm.calls()] == ["gpt-4o", "gpt-4o-mini"]
    assert result.metadata.model == "gpt-4o-mini"
    assert await books(aredis) == (billed(llm), 0)


async def test_fallback_answers_for_a_model_whose_breaker_is_open(redis_url, aredis, llm, chat):
    await Breakers(aredis, BreakerLimits()).report("openai/gpt-4o", "t", 0, Outcome.QUOTA)
    model = chat("gpt-4o").with_fallbacks([chat("gpt-4o-mini")])
    result = await run_node(redis_url, node_of(ainvoke, model))
    assert result.status is State.SUCCESS, result.error
    assert [one["model"] for one in llm.calls()] == ["gpt-4o-mini"]


async def test_spent_budget_is_no_reason_for_a_fallback(redis_url, llm, chat):
    model = chat("gpt-4o").with_fallbacks([chat("gpt-4o-mini")])
    result = await run_node(redis_url, node_of(ainvoke, model), budget=NOTHING_LEFT)
    assert result.error.type is ErrorType.BUDGET_EXCEEDED
    assert llm.calls() == []


# LangChain awaits one handler after the other, and drops the rest when one raises.
@pytest.mark.filterwarnings(
    "ignore:coroutine 'ahandle_event' was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("call", [ainvoke, invoke])
async def test_callbacks_of_a_nodes_own_do_not_switch_the_guards_off(call, redis_url, aredis, llm, chat):
    model, own = chat(), BaseCallbackHandler()

    async def node(_state):
        config = {"callbacks": [own]}
        message = await model.ainvoke(QUESTION, config) if call is ainvoke else model.invoke(QUESTION, config)
        return {"text": message.text}

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert await books(aredis) == (billed(llm), 0)
    await limit_day(aredis, 10)
    assert (await run_node(redis_url, node)).error.type is ErrorType.BUDGET_EXCEEDED
    gc.collect()  # a handler that was dropped would be a warning


@pytest.mark.parametrize("hold", Hold)
@pytest.mark.parametrize("is_async", [True, False])
async def test_stream_that_a_node_breaks_off_is_charged(is_async, hold, redis_url, aredis, llm, chat):
    model = chat()

    async def read_one(_state):
        async for chunk in model.astream(QUESTION):
            return {"text": chunk.text}
        return None

    def read_one_sync(_state):
        for chunk in model.stream(QUESTION):
            return {"text": chunk.text}
        return None

    node, budget = read_one if is_async else read_one_sync, BudgetLimits(hold=hold)
    assert (await run_node(redis_url, node, budget=budget)).status is State.SUCCESS
    used, held = await books(aredis)
    assert held == 0
    if hold is Hold.WORST:
        assert used == WORST_TOKENS > billed(llm) > 0
    else:
        assert INPUT_TOKENS <= used < INPUT_TOKENS + OUTPUT_TOKENS


@pytest.mark.parametrize("call", [astream, stream])
@pytest.mark.parametrize("hold", Hold)
async def test_stream_without_usage_is_charged_by_its_text(hold, call, redis_url, aredis, llm, chat):
    node = node_of(call, chat(stream_usage=False))
    result = await run_node(redis_url, node, budget=BudgetLimits(hold=hold))
    by_text = INPUT_TOKENS + math.ceil(len(result.result["text"].encode()) / 3)
    assert await books(aredis) == (by_text if hold is Hold.ESTIMATE else WORST_TOKENS, 0)


async def test_estimate_of_an_earlier_attempt_is_flagged_in_the_result_too(redis_url, aredis, llm, chat):
    attempts = []

    async def node(_state):
        attempts.append(await chat(stream_usage=len(attempts) > 0).ainvoke(QUESTION, stream=True))
        if len(attempts) == 1:
            raise ConnectionError("once more")
        return {"text": "done"}

    result = await run_node(redis_url, node, fields={"max_attempts": 2})
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2)
    assert result.metadata.usage_estimated
    assert counted(result) == (await books(aredis))[0]


async def test_hundred_sync_calls_at_once_inside_async_nodes_do_not_deadlock(redis_url, aredis, llm, chat):
    model = chat(max_tokens=10)

    async def node(_state):
        async def ask():
            return model.invoke("hi")

        await asyncio.gather(*(ask() for _ in range(100)))

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert len(llm.calls()) == 100
    assert await books(aredis) == (billed(llm), 0)


async def test_two_hundred_calls_at_once_fit_into_the_default_budget(redis_url, aredis, llm, chat):
    model = chat(max_tokens=None)

    async def node(_state):
        await asyncio.gather(*(model.ainvoke("hi") for _ in range(200)))

    result = await run_node(redis_url, node)
    assert result.status is State.SUCCESS, result.error
    assert len(llm.calls()) == 200
    assert await books(aredis) == (billed(llm), 0)


async def test_large_output_limit_of_a_model_is_no_reason_to_refuse(redis_url, aredis, llm, chat):
    result = await run_node(redis_url, node_of(ainvoke, chat(max_tokens=64_000)), budget=BudgetLimits(daily_tokens=500))
    assert result.status is State.SUCCESS, result.error
    assert await books(aredis) == (billed(llm), 0)


async def test_large_output_limit_counts_if_the_worst_is_held(redis_url, llm, chat):
    budget = BudgetLimits(request_tokens=64_000, hold=Hold.WORST)
    result = await run_node(redis_url, node_of(ainvoke, chat(max_tokens=64_000)), budget=budget)
    assert result.error.message.startswith("request too large: 64,062 tokens requested, 64,000 allowed")
    assert "LGRQ_BUDGET_REQUEST_TOKENS to 64062" in result.error.message
    assert llm.calls() == []


async def test_user_with_little_left_may_ask_a_short_question(redis_url, aredis, llm, chat):
    budget = BudgetLimits(user_daily_tokens=1_000)
    result = await run_node(redis_url, node_of(ainvoke, chat(max_tokens=None)), budget=budget)
    assert result.status is State.SUCCESS, result.error
    assert await books(aredis) == (billed(llm), 0)


async def test_hundred_sync_nodes_at_once_do_not_deadlock(redis_url, aredis, llm, chat):
    model = chat(max_tokens=10)

    async def node(_state):
        await asyncio.gather(*(asyncio.to_thread(model.invoke, "hi") for _ in range(100)))

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert len(llm.calls()) == 100
    assert await books(aredis) == (billed(llm), 0)


@pytest.mark.parametrize("hold", Hold)
async def test_cancelled_call_is_settled_at_the_end_of_its_task(hold, redis_url, aredis, llm, chat):
    llm.set_faults([{"fault": "hang"}])
    model, seen = chat(), []

    async def impatient(_state):
        with suppress(TimeoutError):
            await asyncio.wait_for(model.ainvoke(QUESTION), 0.3)
        seen.append(await books(aredis))
        return {"text": "gave up"}

    result = await run_node(redis_url, impatient, budget=BudgetLimits(hold=hold))
    assert result.status is State.SUCCESS
    ((used, held),) = seen
    assert used == 0 < held
    charged = INPUT_TOKENS if hold is Hold.ESTIMATE else held
    assert await books(aredis) == (charged, 0)
    assert counted(result) == charged
    assert result.metadata.usage_estimated
    (status,) = await Breakers(aredis, BreakerLimits()).states()
    assert status.failures == 0


async def test_guarded_call_is_not_counted_twice(redis_url, aredis, llm, chat):
    result = await run_node(redis_url, node_of(ainvoke, guarded_chat_model(chat())))
    assert result.status is State.SUCCESS, result.error
    assert await books(aredis) == (billed(llm), 0)
    assert counted(result) == billed(llm)


@pytest.mark.parametrize("call", [ainvoke, sync_in_async])
@pytest.mark.parametrize("is_guarded", [True, False])
async def test_cancel_stops_the_next_call(is_guarded, call, redis_url, aredis, llm, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()

    async def node(_state):
        (task,) = [key async for key in aredis.scan_iter("agent:task:*")]
        await aredis.hset(task, "cancel", 1)
        return {"text": await call(model)}

    result = await run_node(redis_url, node)
    assert result.status is State.CANCELLED
    assert llm.calls() == []
    assert await books(aredis) == (0, 0)


@pytest.mark.parametrize("is_guarded", [True, False])
async def test_run_that_no_longer_owns_its_task_makes_no_call_and_writes_no_result(
    is_guarded, redis_url, aredis, llm, chat
):
    model, ran = guarded_chat_model(chat()) if is_guarded else chat(), []

    async def node(state):
        ran.append(state)
        if len(ran) > 1:
            return {"text": "the next run"}
        (task,) = [key async for key in aredis.scan_iter("agent:task:*")]
        await aredis.hincrby(task, "epoch", 1)
        with suppress(Exception):
            await model.ainvoke(QUESTION)
        return {"text": "the first run"}

    result = await run_node(redis_url, node)
    assert (result.result, len(ran)) == ({"text": "the next run"}, 2)
    assert llm.calls() == []


async def test_broken_json_of_a_node_is_the_graphs_error(redis_url, llm, chat):
    async def node(_state):
        json.loads((await chat().ainvoke(QUESTION)).text)

    result = await run_node(redis_url, node)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)


async def test_model_calls_itself_in_a_graph_of_messages(redis_url, aredis, llm, chat):
    model = chat()

    async def answer(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    task = {"messages": [HumanMessage(QUESTION).model_dump()]}
    result = await run_graph(redis_url, one_node_graph(answer, MessagesState), task=task, checkpoints=True)
    assert result.status is State.SUCCESS, result.error
    assert await books(aredis) == (billed(llm), 0)


@pytest.mark.parametrize(
    ("node", "status"), [(lambda _state: {"text": "fine"}, "success"), (lambda _state: 1 / 0, "error")]
)
async def test_node_that_cannot_be_told_about_ends_as_it_would(node, status, redis_url, monkeypatch, caplog):
    def fail(*_told):
        raise ValueError("cannot be told")

    for told in ("began", "ended", "failed"):
        monkeypatch.setattr(NodeWatch, told, fail)
    result = await run_node(redis_url, node)
    assert result.status == status
    assert "cannot be told" not in str(result.error)
    assert "node.not_recorded" in caplog.text


@pytest.mark.parametrize("is_guarded", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_sync_call_in_an_async_node_does_not_stop_the_loop_of_the_call_that_holds_the_budget(
    is_guarded, redis_url, aredis, llm, chat
):
    model = guarded_chat_model(chat()) if is_guarded else chat()
    limits = BudgetLimits(daily_tokens=INPUT_TOKENS + OUTPUT_TOKENS)
    budget = Budget(aredis, limits)
    attempts = []

    async def node(_state):
        attempts.append("sync call")
        return {"text": model.invoke(QUESTION).text}

    async def settle_in_the_same_loop():
        await until(lambda: attempts)
        await budget.settle("other:1:1", Charge(0, 0), "gpt-4o-mini", Payer())

    await budget.reserve("other:1:1", Request(Amount(50)), "gpt-4o-mini", Payer())
    async with asyncio.TaskGroup() as group:
        group.create_task(settle_in_the_same_loop())
        result = await run_node(redis_url, node, budget=limits, deadline_s=20)
    assert result.status is State.SUCCESS, result.error
    assert len(attempts) > 1
    assert await books(aredis) == (billed(llm), 0)
