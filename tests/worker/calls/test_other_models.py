"""Chat models beside ChatOpenAI on chat completions: what they use is booked as their provider bills it."""

import asyncio

import pytest
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError
from tests.budget import Budget
from tests.fleet import PRICING
from tests.model_calls import billed, books, run_node

CLAUDE = "claude-opus-4-8"
QUESTION = "What is the weather in Lima?"


@tool
def get_weather(place: str) -> str:
    """Look up the forecast for a place."""
    return f"sunny in {place}"


def claude(server, **options):
    given = {"model": CLAUDE, "max_tokens": 2_000, "max_retries": 0, **options}
    return ChatAnthropic(base_url=server.anthropic_url, api_key="offline", **given)


def responses(server, **options):
    given = {"model": "gpt-5", "max_tokens": 2_000, "max_retries": 0, "use_responses_api": True, **options}
    return ChatOpenAI(base_url=server.url, api_key="offline", **given)


MODELS = {
    "claude": claude,
    "claude that thinks": lambda server: claude(server, thinking={"type": "enabled", "budget_tokens": 1_024}),
    "claude with tools": lambda server: claude(server).bind_tools([get_weather]),
    "responses": responses,
    "responses that reason": lambda server: responses(server, reasoning={"effort": "low", "summary": "auto"}),
    "responses with tools": lambda server: responses(server).bind_tools([get_weather]),
    "init_chat_model": lambda server: init_chat_model(
        f"anthropic:{CLAUDE}", base_url=server.anthropic_url, api_key="offline", max_tokens=100
    ),
    "configurable init_chat_model": lambda server: init_chat_model(
        base_url=server.url, api_key="offline", max_tokens=100, stream_usage=True
    ).with_config(configurable={"model": "openai:gpt-4o-mini"}),
}


def invoke(model):
    return model.invoke(QUESTION)


def stream(model):
    return list(model.stream(QUESTION))


def batch(model):
    return model.batch([QUESTION, QUESTION])


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "offline")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "offline")


async def usage_of(aredis):
    (model,) = (await Budget(aredis).usage()).models
    return model


async def run(redis_url, call):
    """Run a task whose sync node makes the call."""

    def node(_state):
        call()
        return {"text": "done"}

    result = await run_node(redis_url, node)
    assert result.status is State.SUCCESS, result.error
    return result


@pytest.mark.parametrize("call", [invoke, stream, batch])
@pytest.mark.parametrize("name", MODELS)
async def test_tokens_are_booked_as_they_are_billed(name, call, server, llm, redis_url, aredis):
    model = MODELS[name](server)
    result = await run(redis_url, lambda: call(model))
    assert await books(aredis) == (billed(llm), 0)
    assert billed(llm) == result.metadata.input_tokens + result.metadata.output_tokens > 0
    usage = await usage_of(aredis)
    assert (usage.calls, usage.estimated_calls) == (len(llm.calls()), 0)


def marked(text):
    return [
        SystemMessage([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]),
        HumanMessage("Why?"),
    ]


@pytest.mark.parametrize("is_guarded", [False, True])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_a_cache_writes_and_reads_is_priced_as_such(is_stream, is_guarded, server, llm, redis_url, aredis):
    model = guarded_chat_model(claude(server)) if is_guarded else claude(server)
    prompt = marked(f"{is_guarded} {is_stream} " + "word " * 2_000)
    usages = []

    def ask():
        for _ in range(2):
            if is_stream:
                first, *rest = model.stream(prompt)
                usages.append(sum(rest, start=first).usage_metadata)
            else:
                usages.append(model.invoke(prompt).usage_metadata)

    await run(redis_url, ask)
    written, read = (usage["input_token_details"] for usage in usages)
    assert written["ephemeral_5m_input_tokens"] == read["cache_read"] > 1_024
    expected = sum(
        PRICING.cost_nano_usd(CLAUDE, usage["input_tokens"], usage["output_tokens"], cached, writes).nano_usd
        for usage, cached, writes in (
            (usages[0], 0, written["ephemeral_5m_input_tokens"]),
            (usages[1], read["cache_read"], 0),
        )
    )
    assert (await usage_of(aredis)).cost_nano_usd == expected
    assert await books(aredis) == (billed(llm), 0)


@pytest.mark.parametrize("call", [invoke, stream])
async def test_guarded_claude_is_called_once_per_attempt(call, server, llm, redis_url, aredis):
    plain = claude(server, max_retries=5)
    plain.invoke("warm up")  # its client is made, with retries
    llm.clear()
    llm.set_faults([{"fault": "500", "times": 1}])
    model = guarded_chat_model(plain, limits=CallLimits(attempts=1))

    def fail_and_succeed():
        with pytest.raises(ProviderUnavailableError):
            call(model)
        call(model)

    await run(redis_url, fail_and_succeed)
    assert [record["status"] for record in llm.calls()] == [500, 200]
    assert await books(aredis) == (billed(llm), 0)


FAKES = {
    "generic": lambda: GenericFakeChatModel(messages=iter([AIMessage("It is sunny in Lima.")])),
    "list": lambda: FakeListChatModel(responses=["It is sunny in Lima."]),
    "guarded": lambda: guarded_chat_model(FakeListChatModel(responses=["It is sunny in Lima."])),
    "completions": lambda: FakeListLLM(responses=["It is sunny in Lima."]),
}


@pytest.mark.parametrize("make", FAKES.values(), ids=FAKES)
async def test_fake_models_are_counted_by_their_text_and_cost_nothing(make, redis_url, aredis):
    model = make()
    result = await run(redis_url, lambda: model.invoke(QUESTION))
    usage = await usage_of(aredis)
    assert (usage.calls, usage.estimated_calls, usage.cost_nano_usd) == (1, 1, 0)
    assert usage.input_tokens >= len(QUESTION) // 3
    assert usage.output_tokens >= len("It is sunny in Lima.") // 4
    assert result.metadata.usage_estimated


async def test_answer_of_langchains_cache_is_not_paid_again(server, llm, redis_url, aredis):
    model = claude(server, cache=InMemoryCache())
    await run(redis_url, lambda: [model.invoke(QUESTION) for _ in range(3)])
    assert len(llm.calls()) == 1
    assert await books(aredis) == (billed(llm), 0)


async def test_calls_at_once_are_booked_each(server, llm, redis_url, aredis):
    model = claude(server)

    async def node(_state):
        await asyncio.gather(*(asyncio.to_thread(model.invoke, QUESTION) for _ in range(5)))
        return {"text": "done"}

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert (await usage_of(aredis)).calls == 5
    assert await books(aredis) == (billed(llm), 0)
