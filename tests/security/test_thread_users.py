"""The shipped users of Redis may do what threads and the store need: the gateway, a tenant's producers, and workers."""

from contextlib import asynccontextmanager

import pytest
from langgraph_sdk import get_client
from redis import Redis

from langgraph_rq import AsyncClient
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.settings import TaskSettings
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from tests.fleet import Number, one_node_graph, worker
from tests.gateways import listening
from tests.shipped_users import shipped_users

GRAPHS = {"same": one_node_graph(lambda state: state, Number)}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets"), TENANTS="acme") as users:
        users.load_scripts()
        with Redis.from_url(users.url("admin")) as redis:
            redis.acl_log_reset()
        yield users


@asynccontextmanager
async def serving(users, **context):
    url = users.url("worker")
    async with open_async(url) as stored:
        loops = EventLoops(stored, url)
        async with worker(url, GRAPHS, checkpoints=True, store=Store(Access(loops, Outages())), **context):
            yield
        await loops.aclose()


async def test_gateway_makes_keeps_copies_and_prunes_threads_and_serves_the_store(users):
    async with serving(users), listening(users.url("producer")) as (http, _), get_client(url=str(http.base_url)) as sdk:
        await sdk.store.put_item(["n"], key="k", value={"v": 1}, ttl=5)
        assert (await sdk.store.search_items(["n"]))["items"][0]["value"] == {"v": 1}
        step = {"updates": [{"as_node": "__input__", "values": {"n": 1}}]}
        thread = (await sdk.threads.create(ttl=5, graph_id="same", supersteps=[step]))["thread_id"]
        await sdk.runs.wait(thread, "same", input={"n": 2})
        await sdk.threads.update(thread, metadata={"a": 1}, ttl=10)
        copy = (await sdk.threads.copy(thread))["thread_id"]
        assert {one["thread_id"] for one in await sdk.threads.search(metadata={"a": 1})} == {thread, copy}
        assert (await http.get(f"/threads/{copy}/storage")).json()["total_bytes"] > 0
        await sdk.runs.create(thread, "same", input={"n": 2}, after_seconds=600)
        await sdk.runs.cancel_many(status="pending")
        assert await sdk.threads.prune([thread], strategy="keep_latest") == {"pruned_count": 1}
        await sdk.threads.delete(thread)
        assert await sdk.threads.prune([copy]) == {"pruned_count": 1}
    assert users.refusals() == []


async def test_producer_of_a_tenant_reaches_its_threads_and_its_store(users):
    keys = TaskKeys.parse((users.secrets / "task_keys").read_text())
    own = TaskSettings(task_keys=(users.secrets / "task_key_acme").read_text())
    async with serving(users, keys=keys), AsyncClient(users.url("producer-acme"), tasks=own) as shared:
        client = shared.for_tenant("acme")
        task = await client.submit({"n": 1}, graph="same", thread_id="t")
        await client.wait(task.task_id, 20)
        copy = await client.threads.copy("t", graph="same")
        assert (await client.threads.state(copy, graph="same"))["values"] == {"n": 1}
        assert await client.threads.prune(["t", copy], graph="same") == ["t", copy]
        await client.store.put(["n"], "k", {"v": 1})
        assert await client.store.list_namespaces() == [["n"]]
    assert users.refusals() == []
