"""Graphs that know nothing of the guards: what a call holds of the budget, and what it is charged without a usage."""

import asyncio
import math
from contextlib import suppress

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Charge, Hold, Payer, Request
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from tests.breakers import Breakers
from tests.budget import Budget
from tests.model_calls import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    QUESTION,
    WORST_TOKENS,
    ainvoke,
    astream,
    billed,
    books,
    counted,
    node_of,
    run_node,
    stream,
)
from tests.waiting import until


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
    assert "langgraph-producer budget set request 64062" in result.error.message
    assert llm.calls() == []


async def test_user_with_little_left_may_ask_a_short_question(redis_url, aredis, llm, chat):
    budget = BudgetLimits(user_daily_tokens=1_000)
    result = await run_node(redis_url, node_of(ainvoke, chat(max_tokens=None)), budget=budget)
    assert result.status is State.SUCCESS, result.error
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
