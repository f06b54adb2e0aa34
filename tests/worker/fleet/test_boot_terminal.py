"""`langgraph-worker` on a terminal: what a person sees while it works."""

import re
import urllib.request
from contextlib import ExitStack

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.gateways import free_port
from tests.installation import SMALL_PROJECT, START_TIMEOUT_S
from tests.terminals import on_terminal
from tests.waiting import until_sync

LINE = re.compile(r"\d\d:\d\d:\d\d \[(debug|info|warning|error) *\] \S")
MANY = 20
"""Calls that Redis does not answer: those of some seconds."""
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


@pytest.mark.slow
def test_outage_of_redis_is_a_line_when_it_begins_and_one_when_it_is_over(model, tmp_path):
    def failed_calls() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            families = text_string_to_metric_families(page.read().decode())
        return sum(one.value for family in families for one in family.samples if one.name == "agent_redis_errors_total")

    port = free_port()
    folder = tmp_path / "redis"
    with EmbeddedRedis(folder) as redis:
        environment = {
            "REDIS_URL": redis.url,
            "LGRQ_METRICS_PORT": str(port),
            "OPENAI_API_KEY": "offline",
            "OPENAI_BASE_URL": model.url,
        }
        leave = ExitStack()
        terminal = leave.enter_context(on_terminal(WORKER, environment, tmp_path))
        terminal.wait_for("worker.started")
        before = len(terminal.lines)
    with leave:
        terminal.wait_for("redis.lost")
        until_sync(lambda: failed_calls() > MANY)
        assert len(terminal.lines) == before + 1, "\n".join(terminal.lines)
        with EmbeddedRedis(folder) as redis, Client(redis.url) as client:
            terminal.wait_for("redis.recovered")
            task_id = client.submit({"seconds": 0}, graph="nap").task_id
            assert client.wait(task_id, timeout_s=30).status is State.SUCCESS
            assert len(terminal.with_text("redis.lost")) == len(terminal.with_text("redis.recovered")) == 1


def test_first_ctrl_c_says_what_the_worker_waits_for_and_a_second_one_ends_that(environment, client, tmp_path):
    with on_terminal(WORKER, environment, tmp_path) as terminal:
        terminal.wait_for("worker.started")
        task_id = client.submit({"seconds": 600}, graph="nap").task_id
        until_sync(lambda: client.status(task_id).state is State.RUNNING)
        terminal.press_ctrl_c()
        terminal.wait_for("drain.started")
        (line,) = terminal.with_text("drain.started")
        assert "waits_for='1 task, at most 30 s' second_signal='returns what runs to the queue'" in line, line
        assert client.status(task_id).state is State.RUNNING
        terminal.press_ctrl_c()
        assert terminal.process.wait(START_TIMEOUT_S) == 0
        assert client.status(task_id).state is State.PENDING
    assert terminal.with_text("drain.shortened")
    assert "worker.stopped" in terminal.lines[-1]
    assert not terminal.with_text("Traceback")


@pytest.mark.slow
def test_lines_of_several_processes_and_of_the_one_that_starts_them_look_the_same(environment, tmp_path):
    with on_terminal((*WORKER, "--processes", "2"), environment, tmp_path) as terminal:
        terminal.wait_for("worker.started", times=2)
        psutil.Process(terminal.process.pid).children()[0].kill()
        terminal.wait_for("worker.started", times=3)
        terminal.press_ctrl_c()
        assert terminal.process.wait(START_TIMEOUT_S) == 0
    (replaced,) = terminal.with_text("process.replaced")
    assert "[warning] process.replaced" in replaced
    assert "exit_code=-9" in replaced
    assert len(terminal.with_text("drain.started")) == len(terminal.with_text("worker.stopped")) == 2
    assert all(LINE.match(line.removeprefix("^C")) for line in terminal.lines), "\n".join(terminal.lines)
