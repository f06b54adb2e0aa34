"""The graphs' long-term memory, as langgraph.json describes it."""

import asyncio
import json
import sys

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, read_langgraph_json
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.redis_stack.store import open_redis_stack_store
from tests.fleet import PRICING

EMBED = """
def embed(texts):
    return [[float("cat" in text), float("dog" in text), 0.1] for text in texts]
"""


@pytest.fixture
async def client(stack_url):
    async with open_async(stack_url) as client:
        yield client


@pytest.fixture
def described(tmp_path, monkeypatch):
    """Write a langgraph.json with this `store` and read it."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(store=None):
        (tmp_path / "embeddings.py").write_text(EMBED)
        path = tmp_path / "langgraph.json"
        path.write_text(json.dumps({"graphs": {"g": "./a.py:g"}, **({"store": store} if store else {})}))
        return read_langgraph_json(path)

    return write


NAMES = ["ada", "Ada", "a", "the", "users", "user-1", "x z", "Ω?*", "*"]


async def test_item_is_found_again_by_its_namespace_and_key_and_by_no_other(client, described):
    async with open_redis_stack_store(client, described()) as store:
        places = [(("users", name), key) for name in NAMES for key in NAMES]
        for namespace, key in places:
            await store.aput(namespace, key, {"is": [*namespace, key]})
        found = [await store.aget(namespace, key) for namespace, key in places]
        assert [(item.namespace, item.key) for item in found] == places
        assert [item.value["is"] for item in found] == [[*namespace, key] for namespace, key in places]
        await store.adelete(("users", "ada"), "Ada")
        assert await store.aget(("users", "ada"), "Ada") is None
        assert len(await store.asearch(("users",), limit=100)) == len(places) - 1


async def test_search_in_a_namespace_finds_nothing_of_one_whose_name_only_begins_alike(client, described):
    async with open_redis_stack_store(client, described()) as store:
        for namespace in (("users", "1"), ("users", "1", "pets"), ("users", "10")):
            await store.aput(namespace, "k", {})
        found = await store.asearch(("users", "1"))
        assert sorted(item.namespace for item in found) == [("users", "1"), ("users", "1", "pets")]


async def test_all_namespaces_are_listed(client, described):
    async with open_redis_stack_store(client, described()) as store:
        for number in range(15):
            await store.aput(("users", str(number), "likes"), "k", {})
        await store.aput(("Teams", "a"), "k", {})
        assert len(await store.alist_namespaces()) == 16
        assert await store.alist_namespaces(max_depth=1) == [("Teams",), ("users",)]
        assert await store.alist_namespaces(prefix=("Teams",)) == [("Teams", "a")]
        assert await store.alist_namespaces(suffix=("3", "*"), limit=5) == [("users", "3", "likes")]


async def test_sync_node_reaches_the_store_from_its_thread(client, described):
    async with open_redis_stack_store(client, described()) as store:
        await asyncio.to_thread(store.put, ("users",), "ada", {"text": "cats"})
        assert (await asyncio.to_thread(store.get, ("users",), "ada")).value == {"text": "cats"}


async def test_items_are_found_by_meaning_with_a_function_of_the_project(client, described):
    index = {"dims": 3, "embed": "./embeddings.py:embed", "fields": ["text"]}
    async with open_redis_stack_store(client, described({"index": index})) as store:
        for pet in ("a cat", "a dog"):
            await store.aput(("pets",), pet, {"text": pet})
        (found,) = await store.asearch(("pets",), query="my dog", limit=1)
        assert found.key == "a dog"


async def test_embeddings_of_the_index_are_paid_by_the_task_that_stores_or_searches(
    client, stack_url, described, monkeypatch
):
    index = {"dims": 1536, "embed": "openai:text-embedding-3-small", "fields": ["$"]}
    guards = Guards(client, stack_url, BreakerLimits(), BudgetLimits(), PRICING)
    task = TaskGuard(guards)
    current_task.set(task)
    with OfflineLLM() as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", "offline")
        async with open_redis_stack_store(client, described({"index": index})) as store:
            for text in ("invoices are paid in May", "the garden has roses"):
                await store.aput(("notes",), text, {"text": text})
            await asyncio.to_thread(store.put, ("notes",), "sync", {"text": "from a sync node"})
            (found,) = await store.asearch(("notes",), query="roses in the garden", limit=1)
            assert len(llm.admin.calls()) == 4
        assert task.input_tokens == llm.admin.stats()["input_tokens"]["text-embedding-3-small"]
    await guards.aclose()
    assert found.key == "the garden has roses"


async def test_spent_budget_refuses_to_store_what_must_be_embedded(client, stack_url, described, monkeypatch):
    index = {"dims": 1536, "embed": "openai:text-embedding-3-small", "fields": ["$"]}
    guards = Guards(client, stack_url, BreakerLimits(), BudgetLimits(daily_tokens=10), PRICING)
    current_task.set(TaskGuard(guards))
    with OfflineLLM() as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", "offline")
        async with open_redis_stack_store(client, described({"index": index})) as store:
            with pytest.raises(BudgetExceeded):
                await store.aput(("notes",), "k", {"text": "cats"})
        assert llm.admin.calls() == []
    await guards.aclose()


async def test_ttl_of_the_file_is_put_on_items(client, described):
    async with open_redis_stack_store(client, described({"ttl": {"default_ttl": 10}})) as store:
        await store.aput(("users",), "ada", {"text": "cats"})
    assert all([0 < await client.ttl(key) <= 600 async for key in client.scan_iter()])


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({"dims": 3}, "expected dims and embed, got: dims"),
        ({"dims": 3, "embed": "./embeddings.py:embde"}, "has no 'embde' (did you mean embed?)"),
        ({"dims": 3, "embed": "nobody:model"}, "nobody"),
    ],
)
async def test_index_that_cannot_be_made_is_refused(index, expected, client, described):
    with pytest.raises(GraphLoadError) as caught:
        async with open_redis_stack_store(client, described({"index": index})):
            pass
    assert expected in str(caught.value)
