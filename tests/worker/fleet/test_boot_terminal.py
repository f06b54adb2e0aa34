"""`langgraph-worker` on a terminal: what a person sees while it works."""

import re

import pytest
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.installation import SMALL_PROJECT
from tests.terminals import on_terminal

LINE = re.compile(r"\d\d:\d\d:\d\d \[(debug|info|warning|error) *\] \S")
WORKER = ("langgraph_rq.worker", "--config", str(SMALL_PROJECT))


@pytest.fixture(scope="module")
def own_redis():
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def model():
    with OfflineLLM() as model:
        yield model


@pytest.fixture
def environment(own_redis, model):
    with Redis.from_url(own_redis) as redis:
        redis.flushall()
    return {"REDIS_URL": own_redis, "OPENAI_API_KEY": "offline", "OPENAI_BASE_URL": model.url}


@pytest.fixture
def client(environment):
    with Client(environment["REDIS_URL"]) as client:
        yield client


def test_events_are_a_line_each_with_task_node_model_and_cost_first(environment, client, tmp_path):
    with on_terminal(WORKER, environment, tmp_path) as terminal:
        terminal.wait_for("worker.started")
        task_id = client.submit({"query": "why"}, graph="assistant").task_id
        assert client.wait(task_id, timeout_s=60).status is State.SUCCESS
        terminal.wait_for("task.completed")
    short = task_id[:8]
    assert all(LINE.match(line) for line in terminal.lines), "\n".join(terminal.lines)
    called = terminal.with_text("model.called")[0]
    assert re.search(rf"model\.called +{short} \w+ gpt-\S+ \$0\.\d+ ", called), called
    (completed,) = terminal.with_text("task.completed")
    assert re.search(rf"task\.completed +{short} assistant gpt-\S+ \$0\.\d+ .*state=success", completed), completed
    assert not terminal.with_text(task_id)
