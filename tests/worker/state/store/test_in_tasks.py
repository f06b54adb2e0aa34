"""The store as the nodes of tasks use it."""

import asyncio
from typing import TypedDict

import pytest
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph

from langgraph_rq import Client, State
from langgraph_rq.worker.state.store.access import StoreFencedError
from tests.fleet import worker

ADA = ("users", "ada")


class Said(TypedDict, total=False):
    text: str
    before: list[str]


def graph_with(store, node):
    graph = StateGraph(Said).add_node("node", node).add_edge(START, "node").add_edge("node", END)
    return graph.compile(store=store)


async def remember(state: Said):
    store = get_store()
    before = [item.value["text"] for item in await store.asearch(ADA)]
    await store.aput(ADA, state["text"], {"text": state["text"]})
    return {"before": before}


def remember_in_a_thread(state: Said):
    store = get_store()
    before = [item.value["text"] for item in store.search(ADA)]
    store.put(ADA, state["text"], {"text": state["text"]})
    return {"before": before}


async def ended(redis_url, tenant="default", **fields):
    with Client(redis_url) as clients:
        client = clients.for_tenant(tenant)
        return await asyncio.to_thread(client.wait, client.submit(graph="g", **fields).task_id, 30)


@pytest.mark.parametrize("node", [remember, remember_in_a_thread])
async def test_task_finds_what_tasks_of_its_tenant_have_put(node, store, redis_url):
    async with worker(redis_url, {"g": graph_with(store, node)}, store=store):
        for text, tenant, before in (("a", "default", []), ("b", "acme", []), ("c", "default", ["a"])):
            result = await ended(redis_url, tenant, input={"text": text})
            assert (result.status, result.result["before"]) == (State.SUCCESS, before)
    assert [item.key for item in await store.asearch(())] == ["c", "a"]


async def test_attempt_that_puts_nothing_still_bars_earlier_ones(store, redis_url, acting, opened):
    runs = []

    async def fails_first(_state: Said):
        runs.append(1)
        if len(runs) == 1:
            raise ConnectionError("again")
        return {"text": "done"}

    async with worker(redis_url, {"g": graph_with(store, fails_first)}, store=store):
        result = await ended(redis_url, input={}, max_attempts=2)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2)
    async with opened() as cut_off:
        acting(result.task_id, epoch=1)
        with pytest.raises(StoreFencedError):
            await cut_off.aput(ADA, "late", {})
