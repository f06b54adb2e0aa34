"""Graphs that know nothing of the guards: however a node calls a model, it is asked for before and booked after."""

import asyncio
import gc
import json
from contextlib import suppress

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.task.node_watch import NodeWatch
from tests.budget import limit_day
from tests.fleet import one_node_graph
from tests.model_calls import (
    ASYNC,
    QUESTION,
    SYNC,
    Said,
    ainvoke,
    astream,
    billed,
    books,
    counted,
    invoke,
    node_of,
    run_graph,
    run_node,
    stream,
    sync_in_async,
    two_nodes_at_once,
)

NOTHING_LEFT = BudgetLimits(daily_tokens=10)


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


async def test_hundred_sync_calls_at_once_inside_async_nodes_do_not_deadlock(redis_url, aredis, llm, chat):
    model = chat(max_tokens=10)

    async def node(_state):
        async def ask():
            return model.invoke("hi")

        await asyncio.gather(*(ask() for _ in range(100)))

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert len(llm.calls()) == 100
    assert await books(aredis) == (billed(llm), 0)


async def test_hundred_sync_nodes_at_once_do_not_deadlock(redis_url, aredis, llm, chat):
    model = chat(max_tokens=10)

    async def node(_state):
        await asyncio.gather(*(asyncio.to_thread(model.invoke, "hi") for _ in range(100)))

    assert (await run_node(redis_url, node)).status is State.SUCCESS
    assert len(llm.calls()) == 100
    assert await books(aredis) == (billed(llm), 0)


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
