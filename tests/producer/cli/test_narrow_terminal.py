"""The widest views on a terminal of 80 columns: no line is longer, and no name is cut."""

import sys

import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, report_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.keys import own_key
from langgraph_rq.shared.queue.upkeep import renew_call
from tests.outputs import in_terminal, lines

MODEL = "anthropic/claude-of-a-long-name"
WORKER = "worker-7c9d8b6f54-x2x9k-1-0a1b2c3d"
QUEUES = ["agent_tasks_high", "agent_tasks", "agent_tasks_low"]
GRAPHS = {f"graph_of_a_long_name_{number}": "{}" for number in range(5)}


@pytest.fixture
def task_id(redis_url, monkeypatch):
    """A task of a fleet with one worker, an open breaker and an entry of the audit log."""
    monkeypatch.setenv("LGRQ_AUDIT_KEY", "a-key-of-32-characters-and-more-")
    with Redis.from_url(redis_url) as redis, Client(redis_url) as client:
        redis.hset(f"rq:worker:{WORKER}", mapping={"queues": ",".join(QUEUES)})
        redis.sadd(own_key(WORKER), "t")
        scripts.run_sync(redis, renew_call(WORKER, 60_000, QUEUES, GRAPHS, join=True))
        scripts.run_sync(redis, report_call(MODEL, "t", 0, Outcome.QUOTA, BreakerLimits()))
        return client.submit({"n": 1}, graph=next(iter(GRAPHS)), user_id="ann").task_id


@pytest.fixture
def show(redis_url, task_id):
    def words(command, width=80):
        program = [sys.executable, "-m", "langgraph_rq.producer", command]
        shown = lines(in_terminal(program, width, {"REDIS_URL": redis_url}))
        assert max(map(len, shown)) <= width
        return set(" ".join(shown).replace(",", "").split())

    return words


@pytest.mark.parametrize("width", [80, 120])
def test_workers_are_shown_with_their_queues_and_graphs(show, width):
    assert {WORKER, "busy", *GRAPHS, *QUEUES} <= show("workers", width)


def test_breakers_are_shown_with_their_names(show):
    assert {MODEL, "open", "quota"} <= show("breaker")


def test_audit_shows_ids_and_instants_whole(show, task_id):
    words = show("audit")
    assert {task_id, "submitted"} <= words
    assert any(word.startswith("20") and word.endswith("+00:00") for word in words)


def test_doctor_has_room_for_its_findings_on_a_terminal_of_40_columns(redis_url):
    program = [sys.executable, "-m", "langgraph_rq.producer", "doctor"]
    shown = lines(in_terminal(program, 40, {"REDIS_URL": redis_url}, exit_code=2))  # no worker is alive
    assert max(map(len, shown)) <= 40
    assert any("Redis keeps an append-only" in line for line in shown)
