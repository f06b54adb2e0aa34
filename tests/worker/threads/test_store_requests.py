"""Both clients read and write the store through any worker, as the tenant that they are for."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from langgraph.store.memory import InMemoryStore

from langgraph_rq import AsyncClient, Client, ThreadRequestError
from langgraph_rq.producer.client.transport import requests
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.errors import InvalidInputError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.settings import TaskSettings
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.threads import requests as lane
from tests.fleet import one_node_graph, worker
from tests.waiting import until


@asynccontextmanager
async def remembering(redis_url, redis_client, **context):
    """A worker with a store."""
    async with open_async(redis_url) as stored:
        loops = EventLoops(stored, redis_url)
        context = {"store": Store(Access(loops, Outages()), scan_items=50), **context}
        async with worker(redis_url, {"any": one_node_graph(lambda state: state)}, **context):
            await until(lambda: redis_client.zscore("agent:graphs", "any"))
            yield
        await loops.aclose()


async def test_blocking_client_puts_gets_searches_lists_and_deletes(redis_url, redis_client):
    def use(client: Client):
        client.store.put(["users", "ann"], "likes", {"tea": True}, ttl=5)
        client.store.put(["users", "bob"], "likes", {"tea": False})
        yield [item["key"] for item in client.store.search(["users"], filter={"tea": True})]
        yield client.store.list_namespaces(max_depth=1)
        yield client.store.get(["users", "ann"], "likes", refresh_ttl=True)["value"]
        client.store.delete(["users", "ann"], "likes")
        yield client.store.get(["users", "ann"], "likes")

    async with remembering(redis_url, redis_client):
        with Client(redis_url) as client:
            assert await asyncio.to_thread(list, use(client)) == [["likes"], [["users"]], {"tea": True}, None]


async def test_tenants_do_not_see_each_others_items(redis_url, redis_client):
    async with remembering(redis_url, redis_client), AsyncClient(redis_url) as client:
        acme = client.for_tenant("acme")
        await acme.store.put(["n"], "k", {"of": "acme"})
        assert await client.store.get(["n"], "k") is None
        assert await client.store.search() == []
        assert (await acme.store.search())[0]["namespace"] == ["n"]


async def test_what_the_store_does_not_take_is_refused_with_the_reason(redis_url, redis_client):
    async with remembering(redis_url, redis_client), AsyncClient(redis_url) as client:
        for name, value, expected in (
            ([], {}, "namespace: expected labels"),
            ("text", {}, "namespace: expected a list of labels without periods"),
            (["a.b"], {}, "namespace: expected a list of labels without periods"),
            (["a"], {"set": {1}}, "value: expected what JSON can hold"),
            (["a"], {"nan": float("nan")}, "value: expected what JSON can hold"),
            (["a"], [1], "value: expected an object"),
        ):
            with pytest.raises(InvalidInputError, match=expected):
                await client.store.put(name, "k", value)
        with pytest.raises(InvalidInputError, match="ttl of more than 0 minutes"):
            await client.store.put(["a"], "k", {}, ttl=-1)
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1000"):
            await client.store.search(limit=0)
        for i in range(51):
            await client.store.put(["many"], f"k{i}", {"i": i})
        with pytest.raises(InvalidInputError, match="LGRQ_STORE_SCAN_ITEMS"):
            await client.store.search(["many"], filter={"i": -1})


async def test_reply_that_is_too_long_is_refused(redis_url, redis_client, monkeypatch):
    monkeypatch.setattr(lane, "MOST_REPLY_BYTES", 1_000)
    async with remembering(redis_url, redis_client), AsyncClient(redis_url) as client:
        for key in "ab":
            await client.store.put(["n"], key, {"text": "x" * 600})
        assert len(await client.store.search(["n"], limit=1)) == 1
        with pytest.raises(InvalidInputError, match="at most 1,000 bytes"):
            await client.store.search(["n"])


async def test_store_that_does_not_tell_tenants_apart_is_the_default_tenants_only(redis_url, redis_client):
    async with remembering(redis_url, redis_client, store=InMemoryStore()), AsyncClient(redis_url) as client:
        await client.store.put(["n"], "k", {"v": 1})
        assert (await client.store.get(["n"], "k"))["value"] == {"v": 1}
        with pytest.raises(InvalidInputError, match="does not tell tenants apart"):
            await client.for_tenant("acme").store.get(["n"], "k")


async def test_nobody_answers_where_no_worker_lives(redis_url):
    async with AsyncClient(redis_url) as client:
        with pytest.raises(ThreadRequestError, match="no worker is there"):
            await client.store.get(["n"], "k")


async def test_values_are_masked_and_names_are_not(redis_url, redis_client):
    masking = Redaction(Redactor())
    async with remembering(redis_url, redis_client, redaction=masking), AsyncClient(redis_url) as client:
        await client.store.put(["+1 212 555 0123"], "ann@example.org", {"mail": "ann@example.org"})
        item = await client.store.get(["+1 212 555 0123"], "ann@example.org")
        assert (item["namespace"], item["key"]) == (["+1 212 555 0123"], "ann@example.org")
        assert item["value"] == {"mail": "[email]"}
        assert [one["namespace"] for one in await client.store.search()] == [["+1 212 555 0123"]]
        assert await client.store.list_namespaces() == [["+1 212 555 0123"]]


async def test_workers_with_task_keys_answer_only_what_the_tenant_signed(redis_url, redis_client, monkeypatch):
    signing = TaskSettings(task_keys="default:k1:" + "s" * 32)
    async with (
        remembering(redis_url, redis_client, keys=signing.keys()),
        AsyncClient(redis_url, tasks=signing) as client,
        AsyncClient(redis_url) as unsigned,
    ):
        await client.store.put(["n"], "k", {"v": 1})
        assert (await client.store.get(["n"], "k"))["value"] == {"v": 1}
        monkeypatch.setattr(requests, "ANSWERED_WITHIN_S", 0.5)
        with pytest.raises(ThreadRequestError, match="no worker answered"):
            await unsigned.store.get(["n"], "k")
