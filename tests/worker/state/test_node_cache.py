"""The cache of node results in Redis: what is shared, by whom, and what is no error."""

import asyncio
import sys
from collections import deque
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import pytest
from langgraph.cache.memory import InMemoryCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.state.node_cache import LONGEST_BYTES, NodeCache, code_version
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys

KEY, OTHER = (("writes", "module.node", "node"), "input-1"), (("writes", "module.other", "other"), "input-1")
WRITES, ACMES = deque([("number", 1), ("branch:to:end", None)]), [("number", 2)]


def cache(redis, *, graph="g", ttl_s=60.0, serializer=None):
    return NodeCache(redis, serializer or StateSerializer(), (graph, "version"), ttl_s)


def names(redis_client):
    return [*redis_client.scan_iter(match="agent:cache:*")]


def ttl_s(redis_client):
    (name,) = names(redis_client)
    return redis_client.pttl(name) / 1000


async def test_result_is_found_by_every_worker_with_its_types(aredis):
    await cache(aredis).aset({KEY: (WRITES, None)})
    assert await cache(aredis).aget([OTHER, KEY]) == {KEY: WRITES}
    assert await cache(aredis).aget([]) == {}


@pytest.mark.parametrize(("given_s", "kept_s"), [(None, 60), (10, 10), (3_600, 60), (0, 0.001)])
async def test_result_is_kept_as_long_as_its_policy_says_within_the_settings(given_s, kept_s, aredis, redis_client):
    await cache(aredis).aset({KEY: (WRITES, given_s)})
    found = names(redis_client)
    assert kept_s < 1 or kept_s - 5 < ttl_s(redis_client) <= kept_s
    assert len(found) <= 1


async def test_result_is_not_found_by_another_graph_or_tenant(aredis):
    await cache(aredis).aset({KEY: (WRITES, None)})
    assert await cache(aredis, graph="other").aget([KEY]) == {}
    current_task.set(SimpleNamespace(payer=Payer("acme", None, None)))
    assert await cache(aredis).aget([KEY]) == {}
    await cache(aredis).aset({KEY: (ACMES, None)})
    assert await cache(aredis).aget([KEY]) == {KEY: ACMES}


async def test_results_of_a_node_are_cleared_alone(aredis):
    one = cache(aredis)
    await one.aset({KEY: (WRITES, None), OTHER: (WRITES, None)})
    await one.aclear([KEY[0]])
    assert await one.aget([KEY, OTHER]) == {OTHER: WRITES}
    await one.aclear()
    assert await one.aget([KEY, OTHER]) == {}


@dataclass
class Secret:
    value: int


async def test_what_state_may_not_hold_or_is_too_long_is_not_cached(aredis, redis_client):
    await cache(aredis).aset({KEY: ((("x", Secret(1)),), None), OTHER: ((("x", b"1" * LONGEST_BYTES),), None)})
    assert names(redis_client) == []


@pytest.mark.parametrize(
    "planted", [b"", b"no end", b"pickle\nx", b"msgpack\n\xff", b"msgpack\n\x91\x01", b"\xff\nx", "a list"]
)
async def test_planted_entry_is_a_miss(planted, aredis, redis_client):
    await cache(aredis).aset({KEY: (WRITES, None)})
    (name,) = names(redis_client)
    if isinstance(planted, str):
        redis_client.delete(name)
        redis_client.rpush(name, planted)
    else:
        redis_client.set(name, planted)
    assert await cache(aredis).aget([KEY]) == {}


async def test_encrypted_result_is_read_at_its_own_key_only(aredis, redis_client):
    secret = "a-secret-of-at-least-thirty-two-characters"
    one = cache(aredis, serializer=StateSerializer(StateKeys.parse(secret)))
    await one.aset({KEY: (WRITES, None), OTHER: (ACMES, None)})
    assert await one.aget([KEY, OTHER]) == {KEY: WRITES, OTHER: ACMES}
    assert await cache(aredis).aget([KEY, OTHER]) == {}
    first, second = names(redis_client)
    redis_client.copy(first, second, replace=True)
    assert len(await one.aget([KEY, OTHER])) == 1


async def test_without_redis_the_node_runs():
    one = cache(Redis(host="127.0.0.1", port=9, retry=Retry(NoBackoff(), 0)))
    await one.aset({KEY: (WRITES, None)})
    assert await one.aget([KEY]) == {}


async def test_sync_caller_in_a_thread_shares_it_too(aredis):
    one = cache(aredis)
    await asyncio.to_thread(one.set, {KEY: (WRITES, None)})
    assert await asyncio.to_thread(one.get, [KEY]) == {KEY: WRITES}
    assert one.get([KEY]) == {}  # it would stop the event loop
    await asyncio.to_thread(one.clear)
    assert await one.aget([KEY]) == {}


def test_other_source_files_are_another_version(tmp_path):
    def version(folder, source):
        file = tmp_path / folder / "nodes.py"
        file.parent.mkdir()
        file.write_text(source)
        spec = spec_from_file_location("nodes_of_a_cached_graph", file)
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return code_version(module.graph)

    code = (
        "from langgraph.graph import START, StateGraph\ndef node(state): return {'number': 1}\n"
        "graph = StateGraph(dict).add_node(node).add_edge(START, 'node').compile()\n"
    )
    assert version("one", code) == version("same", code)
    assert version("other", code.replace("1", "2")) != version("again", code)
    del sys.modules["nodes_of_a_cached_graph"]


def test_interface_is_langgraphs():
    public = {name for name in vars(NodeCache) if not name.startswith("_")}
    assert public == {name for name in vars(InMemoryCache) if not name.startswith("_")}
