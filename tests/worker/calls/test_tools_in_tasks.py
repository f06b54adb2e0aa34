"""Guarded tools inside the tasks of a worker: how the task ends when the service fails or is not called."""

import asyncio

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.types import interrupt

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.tools import guarded
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.refusals import ToolError
from tests.fleet import ended, one_node_graph, worker

LIMITS = BreakerLimits(failure_threshold=2, window_s=0)


@guarded("search")
async def unreachable_search():
    raise httpx.ConnectError("no route")


@guarded("search")
def unreachable_search_sync():
    raise httpx.ConnectError("no route")


async def search_node(_state: dict) -> dict:
    await unreachable_search()


def sync_search_node(_state: dict) -> dict:
    unreachable_search_sync()


async def careful_node(_state: dict) -> dict:
    try:
        await unreachable_search()
    except ToolError as error:
        return {"found": str(error)}


@pytest.mark.parametrize("node", [search_node, sync_search_node])
async def test_task_ends_as_tool_error_when_its_graph_does_not_handle_the_failure(node, redis_url, client):
    async with worker(redis_url, {"g": one_node_graph(node)}):
        result = await ended(client, client.submit({}, graph="g").task_id)
    assert (result.status, result.error.type) == (State.ERROR, "tool_error")
    assert result.error.message == "search: ConnectError"


async def test_task_says_when_a_refused_service_may_be_called_again(redis_url, client):
    async with worker(redis_url, {"g": one_node_graph(search_node)}, breaker=LIMITS):
        for _ in range(LIMITS.failure_threshold):
            await ended(client, client.submit({}, graph="g").task_id)
        result = await ended(client, client.submit({}, graph="g").task_id)
    assert (result.error.type, 0 < result.error.retry_after_s <= 33) == ("tool_error", True)


async def test_graph_may_go_on_without_the_service(redis_url, client):
    async with worker(redis_url, {"g": one_node_graph(careful_node)}):
        result = await ended(client, client.submit({}, graph="g").task_id)
    assert (result.status, result.result) == (State.SUCCESS, {"found": "search: ConnectError"})


async def test_cancelled_task_starts_no_call(redis_url, client, redis_client):
    called, is_running, go_on = [], asyncio.Event(), asyncio.Event()

    @guarded("search")
    async def search():
        called.append(1)

    async def node(_state: dict) -> dict:
        is_running.set()
        await go_on.wait()
        await search()

    async with worker(redis_url, {"g": one_node_graph(node)}):
        task_id = client.submit({}, graph="g").task_id
        await is_running.wait()
        redis_client.hset(f"agent:task:{task_id}", "cancel", 1)
        go_on.set()
        result = await ended(client, task_id)
    assert (result.status, called) == (State.CANCELLED, [])


async def test_interrupt_inside_a_guarded_tool_interrupts_the_task(redis_url, client):
    @guarded("search")
    async def search():
        return interrupt("which city?")

    async def node(_state: dict) -> dict:
        return {"found": await search()}

    async with worker(redis_url, {"g": one_node_graph(node)}, checkpoints=True):
        result = await ended(client, client.submit({}, graph="g").task_id)
    assert result.status is State.INTERRUPTED


@tool
@guarded("weather")
async def weather(city: str) -> str:
    """Say how the weather in a city is."""
    httpx.Response(503, request=httpx.Request("GET", "http://weather.example")).raise_for_status()


async def test_agent_whose_tool_fails_ends_as_tool_error(redis_url, client, monkeypatch):
    with OfflineLLM() as llm:
        model = ChatOpenAI(model="gpt-4o-mini", base_url=llm.url, api_key="offline", max_retries=0)
        agent = create_agent(model, [weather])
        async with worker(redis_url, {"agent": agent}):
            question = {"messages": [{"role": "user", "content": "Use weather for Paris"}]}
            result = await ended(client, client.submit(question, graph="agent").task_id)
    assert (result.status, result.error.type) == (State.ERROR, "tool_error")
    assert result.error.message == "weather: HTTPStatusError (HTTP 503)"
