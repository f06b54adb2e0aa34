"""A provider that reports its rates is approached, and not stormed: no setting, and an unchanged graph."""

import asyncio

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai.chat_models.base import BaseChatOpenAI

from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.pacing.learned_rates import learned_call
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.rate_headers import read_rate_headers
from tests.model_calls import run_node
from tests.waiting import until

BREAKER = "openai/gpt-4o-mini"
HEADERS = {"x-ratelimit-limit-requests": "240", "x-ratelimit-limit-tokens": "2000000"}


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    for model in (BaseChatOpenAI, ChatAnthropic):
        for name in ("_generate", "_agenerate", "_stream", "_astream"):
            monkeypatch.setattr(model, name, getattr(model, name))
    read_rate_headers()
    read_rate_headers()  # as a second context in one process does


@pytest.fixture
def provider(llm):
    llm.set_headers(HEADERS)
    yield llm
    llm.set_headers({})


def node_that(call):
    async def node(_state):
        await call()

    return node


async def invoke(model):
    return await model.ainvoke("hi")


async def invoke_sync(model):
    return await asyncio.to_thread(model.invoke, "hi")


async def stream(model):
    return [chunk async for chunk in model.astream("hi")]


async def stream_sync(model):
    return await asyncio.to_thread(lambda: list(model.stream("hi")))


@pytest.mark.parametrize("is_guarded", [True, False])
@pytest.mark.parametrize("call", [invoke, invoke_sync, stream, stream_sync])
async def test_rates_are_learned_from_every_kind_of_call(call, is_guarded, provider, redis_url, aredis, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()
    result = await run_node(redis_url, node_that(lambda: call(model)))
    assert result.status is State.SUCCESS, result.error

    async def is_learned():
        return await run(aredis, learned_call()) == {BREAKER: Pace(240, 2_000_000)}

    await until(is_learned)


@pytest.mark.parametrize("is_guarded", [True, False])
async def test_calls_after_the_first_answer_come_at_the_providers_rate(is_guarded, provider, redis_url, chat):
    model = guarded_chat_model(chat()) if is_guarded else chat()

    async def node(_state):
        await model.ainvoke("hi")
        await asyncio.gather(*(model.ainvoke("hi") for _ in range(12)))

    result = await run_node(redis_url, node)
    assert result.status is State.SUCCESS, result.error
    calls = provider.calls()
    assert len(calls) == 13
    assert calls[-1]["started_monotonic_s"] - calls[1]["started_monotonic_s"] > 1.5


async def test_call_with_a_model_of_its_own_tells_nothing(provider, redis_url, aredis, chat):
    model = chat()
    result = await run_node(redis_url, node_that(lambda: model.ainvoke("hi", model="gpt-4o")))
    assert result.status is State.SUCCESS, result.error
    assert len(provider.calls()) == 1
    assert await run(aredis, learned_call()) == {}


async def test_odd_headers_spoil_no_answer(llm, redis_url, aredis, chat):
    llm.set_headers({"x-ratelimit-limit-requests": "lots", "x-ratelimit-limit-tokens": "-1"})
    try:
        result = await run_node(redis_url, node_that(lambda: chat().ainvoke("hi")))
    finally:
        llm.set_headers({})
    assert result.status is State.SUCCESS, result.error
    assert await aredis.exists("agent:pacing") == 0


async def test_hook_stands_once_on_a_client_of_many_calls(provider, redis_url, chat):
    model = chat()

    async def node(_state):
        for _ in range(3):
            await model.ainvoke("hi")

    before = list(model.root_async_client._client.event_hooks["response"])
    await run_node(redis_url, node)
    assert len(model.root_async_client._client.event_hooks["response"]) - len(before) == 1
