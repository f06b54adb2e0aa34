"""Every key has an owner and a TTL, or stands on the short list of those that stay."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import ModuleType

import pytest
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.producer.client.transport import event_feed
from langgraph_rq.producer.gateway.admission import rates
from langgraph_rq.shared.breaker import circuit_breaker
from langgraph_rq.shared.budget import hourly_cost, token_budget
from langgraph_rq.shared.graphs import description as graph_description
from langgraph_rq.shared.queue import keys as queue_keys
from langgraph_rq.shared.queue import records as queue_records
from langgraph_rq.shared.telemetry import anchors, audit
from langgraph_rq.shared.threads import requests as thread_requests
from langgraph_rq.shared.threads import rows as thread_rows
from langgraph_rq.worker.guards import tenant_calls
from langgraph_rq.worker.records import journal, ledger
from langgraph_rq.worker.state import node_cache
from langgraph_rq.worker.state.redis_stack import checkpoints
from langgraph_rq.worker.state.saver import thread_saver
from langgraph_rq.worker.state.store import store

OWNERS = (
    queue_keys,
    circuit_breaker,
    token_budget,
    hourly_cost,
    tenant_calls,
    anchors,
    audit,
    checkpoints,
    journal,
    ledger,
    store,
    thread_saver,
    node_cache,
    event_feed,
    rates,
    graph_description,
    thread_requests,
    thread_rows,
    queue_records,
)
LIBRARIES = ("checkpoint*", "store*", "write_keys_zset*", "rq:clean_groups")
"""Kept by langgraph-checkpoint-redis, and by RQ's own worker; each has to have a TTL."""


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield (pattern, what is said about it) of each key that a module's docstring lists."""
    entries = re.findall(r"^    ((?:agent|rq):.*(?:\n {8,}.*)*)", module.__doc__ or "", flags=re.MULTILINE)
    for entry in entries:
        names = re.match(r"(?:(?:agent|rq):[^\s,;]+(?:, )?)+", entry)
        assert names
        for name in names[0].rstrip(":").split(", "):
            pattern = re.sub(r"\[[^]]*\]", "", name.strip().rstrip(":"))
            yield re.sub(r"<[^>]*>", "*", pattern), entry


STAYS = {pattern for module in OWNERS for pattern, said in documented(module) if re.search(r"stays|as RQ keeps", said)}
KNOWN = {pattern for module in OWNERS for pattern, _ in documented(module)} | {"rq:failed:*", "rq:canceled:*"}


@pytest.fixture(scope="module")
def keys(installation) -> dict[str, int]:
    """Key -> TTL (s; -1 none), after tasks of all kinds have ended."""
    with Client(installation.redis_url) as client:
        receipts = client.submit_many(
            [
                {"input": {"query": "What is a key?"}, "user_id": "ann"},
                {"input": {"query": "Why is the sky blue?"}, "thread_id": "keys"},
                {"input": {"said": ["a"]}, "graph": "chat", "thread_id": "keys-2"},
                {"input": {"seconds": 0}, "graph": "nap", "priority": "high"},
                {"input": {"code": 1}, "graph": "exit", "priority": "low"},
            ]
        )
        results = [client.wait(receipt.task_id, timeout_s=30) for receipt in receipts]
    assert [result.status for result in results] == [State.SUCCESS] * 4 + [State.ERROR]
    with Redis.from_url(installation.redis_url, decode_responses=True) as redis:
        return {key: redis.ttl(key) for key in redis.scan_iter(count=1000)}


def matches(key: str, patterns) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def test_every_key_that_is_left_has_a_ttl_or_stands_on_the_list(keys):
    assert [key for key, ttl in keys.items() if ttl == -1 and not matches(key, STAYS)] == []


def test_every_key_that_is_left_is_documented_by_its_owner(keys):
    assert [key for key in keys if not matches(key, {*KNOWN, *LIBRARIES})] == []


def test_results_and_tasks_are_among_them(keys):
    assert any(key.startswith("agent:result:") for key in keys)
    assert any(key.startswith("agent:thread_state:") for key in keys)


def test_list_of_keys_that_stay_is_short_and_holds_no_tasks_data():
    assert {"agent:open", "agent:delayed", "agent:workers"} <= STAYS
    assert not matches("agent:task:t", STAYS)
    assert not matches("agent:result:t", STAYS)
    assert not matches("rq:job:t", STAYS)
