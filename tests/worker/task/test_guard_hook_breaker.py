"""Graphs that know nothing of the guards while a provider fails or limits its rate: breaker, waits, fallbacks."""

import asyncio

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState, Outcome
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from tests.breakers import Breakers
from tests.model_calls import (
    ASYNC,
    SYNC,
    ainvoke,
    astream,
    billed,
    books,
    invoke,
    node_of,
    run_node,
    stream,
)
from tests.waiting import until


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
