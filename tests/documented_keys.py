"""The keys of the system as the docstrings of their owners list them, and which of them stay."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType

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


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether a key is one of those that patterns name."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)
