"""LangGraph's stock SDK reads and writes the store through our gateway, and finds there what graphs put."""

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import BadRequestError

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.langgraph_api.servers import serving


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


async def test_what_a_graph_puts_is_found_and_what_a_client_puts_is_found_by_the_graph(sdk):
    await sdk.store.put_item(["memo", "demo"], key="by-hand", value={"text": "by-hand"})
    ran = await sdk.runs.wait(None, "memo", input={"text": "by-graph"})
    found = await sdk.store.get_item(["memo", "demo"], key="by-graph")
    assert ran["seen"] == ["by-graph", "by-hand"]
    assert (found["namespace"], found["key"], found["value"]) == (["memo", "demo"], "by-graph", {"text": "by-graph"})
    assert found["created_at"].endswith("+00:00")


async def test_items_are_searched_for_by_filter_and_paged_with_the_last_put_first(sdk):
    for i in range(4):
        await sdk.store.put_item(["users", f"u{i % 2}"], key=f"k{i}", value={"age": 20 + i})
    await sdk.store.put_item(["things"], key="t", value={"k": "v"})

    async def keys(prefix, **options):
        found = await sdk.store.search_items(prefix, **options)
        assert all(item["score"] is None for item in found["items"])
        return [item["key"] for item in found["items"]]

    assert await keys(["users"]) == ["k3", "k2", "k1", "k0"]
    assert await keys([]) == ["t", "k3", "k2", "k1", "k0"]
    assert await keys(["users"], limit=2, offset=1) == ["k2", "k1"]
    assert await keys(["users"], filter={"age": {"$gte": 22}}) == ["k3", "k2"]
    assert await keys([], filter={"k": "v"}) == ["t"]
    assert await keys([], query="there is no index, so this is ignored", limit=1) == ["t"]


async def test_namespaces_are_listed_by_prefix_suffix_wildcard_and_depth(sdk):
    for namespace in (["a", "x"], ["a", "y", "deep"], ["b", "x"]):
        await sdk.store.put_item(namespace, key="k", value={})

    async def listed(**options):
        return (await sdk.store.list_namespaces(**options))["namespaces"]

    assert await listed() == [["a", "x"], ["a", "y", "deep"], ["b", "x"]]
    assert await listed(prefix=["a"], max_depth=1) == [["a"]]
    assert await listed(suffix=["x"]) == [["a", "x"], ["b", "x"]]
    assert await listed(prefix=["*", "x"]) == [["a", "x"], ["b", "x"]]
    assert await listed(limit=1, offset=1) == [["a", "y", "deep"]]


async def test_item_is_overwritten_as_a_whole_and_deleted_twice(sdk):
    await sdk.store.put_item(["n"], key="k", value={"a": 1, "b": 2})
    await sdk.store.put_item(["n"], key="k", value={"a": 3}, index=False, ttl=5)
    assert (await sdk.store.get_item(["n"], key="k", refresh_ttl=True))["value"] == {"a": 3}
    for _ in range(2):
        await sdk.store.delete_item(["n"], key="k")
    assert await sdk.store.get_item(["n"], key="k") is None


async def test_names_that_the_store_does_not_take_are_refused(sdk):
    for namespace in ([], ["langgraph", "x"]):
        with pytest.raises(BadRequestError):
            await sdk.store.put_item(namespace, key="k", value={})
    http: httpx.AsyncClient = sdk.http.client

    async def status(method, path, **body):
        return (await http.request(method, path, **({"json": body} if body else {}))).status_code

    assert await status("PUT", "/store/items", namespace=["a.b"], key="k", value={}) == 422
    assert await status("PUT", "/store/items", namespace=["a", ""], key="k", value={}) == 422
    assert await status("PUT", "/store/items", namespace=["a"], key="k", value=[1]) == 422
    assert await status("PUT", "/store/items", namespace=["a"], value={}) == 422
    assert await status("PUT", "/store/items", namespace=["a"], key="k", value={}, ttl=-1) == 422
    assert await status("PUT", "/store/items", namespace=["a"], key="k", value={}, tll=1) == 422
    assert await status("GET", "/store/items?namespace=a") == 400
    assert await status("GET", "/store/items?key=k") == 422
    assert await status("DELETE", "/store/items?namespace=a&key=k") == 422
    assert await status("POST", "/store/items/search", namespace_prefix=["a"], limit=0) == 422
    assert await status("POST", "/store/items/search", filter={"a": {"$near": 1}}) == 422


async def test_tenants_with_the_same_namespace_have_two_stores(redis_url, redis_client):
    (acme_key, acme_line), (other_key, other_line) = make_key("acme"), make_key("other")
    async with serving(redis_url, redis_client, keys=f"{acme_line}\n{other_line}\n") as sdk:
        url = str(sdk.http.client.base_url)
        async with get_client(url=url, api_key=acme_key) as acme, get_client(url=url, api_key=other_key) as other:
            await acme.store.put_item(["memo", "demo"], key="k", value={"text": "acme's"})
            ran = await acme.runs.wait(None, "memo", input={"text": "mine"})
            foreign = await other.runs.wait(None, "memo", input={"text": "yours"})
            assert (ran["seen"], foreign["seen"]) == (["acme's", "mine"], ["yours"])
            assert await other.store.get_item(["memo", "demo"], key="k") is None
            found = await acme.store.search_items([])
            assert [item["namespace"] for item in found["items"]] == [["memo", "demo"]] * 2
            assert (await other.store.list_namespaces())["namespaces"] == [["memo", "demo"]]
