"""Every key has an owner and a TTL, or stands on the short list of those that stay."""

import pytest
from redis import Redis

from langgraph_rq import Client, State
from tests.documented_keys import KNOWN, LIBRARIES, STAYS, matches


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
