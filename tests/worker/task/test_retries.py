"""A failing graph is tried again only when its task allows it and it may help; what is no fault of it never counts."""

import asyncio
from dataclasses import replace
from typing import TypedDict

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.refusals import ToolError
from tests.fleet import one_node_graph, worker


class Number(TypedDict, total=False):
    n: int
    m: int


class FlakyError(Exception):
    """An error of the user's own."""


def failing(*errors):
    """A graph that raises these errors, one a run, and then succeeds; and its runs."""
    runs = []

    async def node(_state: Number):
        runs.append(1)
        if len(runs) <= len(errors):
            raise errors[len(runs) - 1]
        return {"n": len(runs)}

    return one_node_graph(node, Number), runs


async def ended(client, **fields):
    task = client.submit({}, graph="flaky", **fields)
    return await asyncio.to_thread(client.wait, task.task_id, 30)


@pytest.mark.parametrize(
    "error",
    [
        FlakyError("again"),
        pytest.param(ConnectionError("reset"), marks=pytest.mark.slow),
        pytest.param(ToolError("the search is down"), marks=pytest.mark.slow),
    ],
)
async def test_graph_is_tried_again_up_to_max_attempts(redis_url, client, error):
    graph, runs = failing(error, error)
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client, max_attempts=3)
    assert (result.status, result.result, len(runs)) == (State.SUCCESS, {"n": 3}, 3)
    assert result.metadata.attempts == 3


async def test_graph_is_tried_once_unless_its_task_asks_for_more(redis_url, client):
    graph, runs = failing(FlakyError("again"))
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client)
    assert (result.error.type, len(runs)) == (ErrorType.GRAPH_ERROR, 1)


async def test_last_failure_is_the_result(redis_url, client):
    graph, runs = failing(FlakyError("one"), FlakyError("two"), FlakyError("three"))
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client, max_attempts=2)
    assert (result.status, result.error.message, len(runs)) == (State.ERROR, "FlakyError: two", 2)


@pytest.mark.parametrize("error", [TypeError("never works"), KeyError("missing"), ValueError("bad")])
async def test_error_that_would_only_come_again_is_not_tried_again(redis_url, client, error):
    graph, runs = failing(error)
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client, max_attempts=5)
    assert (result.status, len(runs)) == (State.ERROR, 1)


async def test_outage_of_redis_is_not_an_attempt(redis_url, client):
    graph, runs = failing(RedisConnectionError("away"), FlakyError("its own"))
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client, max_attempts=2)
    assert (result.status, len(runs)) == (State.SUCCESS, 3)


async def test_attempt_that_would_begin_after_the_deadline_is_not_made(redis_url, client):
    graph, runs = failing(FlakyError("one"))
    async with worker(redis_url, {"flaky": graph}):
        result = await ended(client, max_attempts=2, deadline_s=0.4)
    assert (result.status, len(runs)) == (State.ERROR, 1)


async def test_next_attempt_goes_on_from_the_last_checkpoint(redis_url, client):
    first_runs, second_runs = [], []

    async def first(_state: Number):
        first_runs.append(1)
        return {"m": 7}

    async def second(state: Number):
        second_runs.append(1)
        if len(second_runs) == 1:
            raise FlakyError("once")
        return {"n": state["m"]}

    builder = StateGraph(Number).add_node("first", first).add_node("second", second)
    graph = builder.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()
    async with worker(redis_url, {"flaky": graph}, checkpoints=True):
        result = await ended(client, max_attempts=2)
    assert (result.result["n"], len(first_runs), len(second_runs)) == (7, 1, 2)


async def test_fault_of_the_worker_itself_ends_the_task_and_not_the_worker(redis_url, client):
    class Broken(dict):
        def get(self, _name):
            raise RuntimeError("a bug")

    graph, _runs = failing()
    async with worker(redis_url, {"flaky": graph}) as graph_worker:
        assert (await ended(client)).status is State.SUCCESS
        running = graph_worker._running
        good, running._context = running._context, replace(running._context, graphs=Broken())
        result = await ended(client)
        running._context = good
        assert (await ended(client)).status is State.SUCCESS
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)
    assert "the worker failed: RuntimeError('a bug')" in result.error.message


async def test_metadata_counts_the_tokens_of_all_attempts(redis_url, client):
    runs = []

    with OfflineLLM() as model:
        async with openai.DefaultAsyncHttpxClient(verify=False) as http:
            chat = ChatOpenAI(
                model="gpt-4o-mini",
                base_url=model.url,
                api_key="offline",
                max_tokens=50,
                http_client=openai.DefaultHttpxClient(verify=False),
                http_async_client=http,
            )

            async def ask(_state: Number):
                runs.append((await chat.ainvoke("What is 2 + 2?")).usage_metadata["total_tokens"])
                if len(runs) == 1:
                    raise FlakyError("after the call")

            async with worker(redis_url, {"flaky": one_node_graph(ask, Number)}):
                result = await ended(client, max_attempts=2)
    assert len(runs) == 2
    assert result.metadata.input_tokens + result.metadata.output_tokens == sum(runs)
    assert result.metadata.cost_usd > 0
