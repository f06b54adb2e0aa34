"""Projects in the form of LangChain's templates run unchanged, with default settings, in two processes."""

import json
import re

import pytest
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.graphs.langgraph_json import INSTEAD
from tests.installation import ROOT, start_worker
from tests.servers import redis_stack
from tests.waiting import until_sync

CONFIG = ROOT / "tests/projects/foreign/langgraph.json"


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with redis_stack(tcp=True) as redis, OfflineLLM() as model:
        environment = {
            "REDIS_URL": redis.url,
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "offline",
            "ANTHROPIC_BASE_URL": model.anthropic_url,
            "ANTHROPIC_API_KEY": "offline",
        }
        arguments = ("--config", str(CONFIG), "--processes", "2")
        with start_worker(tmp_path_factory.mktemp("foreign"), environment, *arguments) as worker:
            worker.wait_until_ready(2)
            with Client(redis.url) as client, Redis.from_url(redis.url) as connection:
                yield worker, client, connection
            assert worker.process.poll() is None, worker.said()


@pytest.fixture
def worker(started):
    return started[0]


@pytest.fixture
def client(started):
    return started[1]


@pytest.fixture
def redis(started):
    return started[2]


def run(client, graph, input_, **fields):
    result = client.wait(client.submit(input_, graph=graph, **fields).task_id, 60)
    assert (result.status, result.error) == (State.SUCCESS, None), result.error
    return result.result


def said(text):
    return {"messages": [{"role": "user", "content": text}]}


def texts(messages, type_):
    return [message["content"] for message in messages if message["type"] == type_]


def test_react_agent_gets_the_defaults_of_its_context(client):
    messages = run(client, "agent", said("Search for clocks, please."))["messages"]
    assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]
    assert len(json.loads(messages[2]["content"])["results"]) == 10  # the default of its context


def test_memory_agent_remembers_across_threads_and_processes(client):
    asked = [f"I like number {number}" for number in range(4)]
    for number, text in enumerate(asked):
        messages = run(client, "memory", said(text), thread_id=f"memory-{number}")["messages"]
        assert texts(messages, "ai")[-1] == f"I know: {'; '.join(asked[:number])}"


def test_agent_of_another_provider_without_an_output_limit(client):
    messages = run(client, "claude", said("What is the weather in Rome?"))["messages"]
    assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]


def test_factory_gets_the_config_of_each_run(client):
    for number in range(4):
        found = run(client, "by config", {"name": "Eve"}, thread_id=f"t{number}", user_id=f"u{number}")
        assert found["told"].startswith("thread ")
        assert found["told"].endswith(f"t{number} user u{number} Eve")


def test_factory_is_entered_and_left_around_each_run(client):
    told = [run(client, "by runtime", {"name": "Eve"}, user_id="ada")["told"] for _ in range(6)]
    assert {one.partition(" open in ")[0] for one in told} == {"threads.create_run ada 1"}


def test_graph_of_a_factory_streams_and_continues_its_thread(client):
    for name in ("Eve", "Bob"):
        task = client.submit({"name": name}, graph="by config", thread_id="kept", user_id="ada", stream=["updates"])
        assert client.wait(task.task_id, 60).result["told"].endswith(f"kept user ada {name}")


@pytest.mark.slow
def test_graph_of_a_factory_goes_on_in_another_process_after_a_kill(client, tmp_path):
    marker = tmp_path / "died"
    first, second = run(client, "dies once", {"marker": str(marker)})["steps"]
    assert marker.exists()
    assert first != second


def test_factory_that_fails_ends_its_task_with_the_reason(client):
    result = client.wait(client.submit({"name": "Eve"}, graph="fails", user_id="ada").task_id, 60)
    assert result.status is State.ERROR
    assert "LookupError" in result.error.message
    assert result.error.type == "graph_error"


def test_what_a_factory_cannot_leave_takes_no_result_away(client, worker):
    assert run(client, "not left", {"name": "Eve"})["told"] == "done for Eve"
    until_sync(lambda: worker.events("graph.not_left"))
    assert worker.events("graph.not_left")[0]["error"] == "OSError"


@pytest.mark.parametrize("graph", ["durable", "in memory"])
def test_question_is_answered_with_the_checkpoints_of_the_project_or_the_workers(graph, client, redis):
    for turn in range(1, 4):
        asked = client.wait(client.submit({"question": "why?"}, graph=graph, thread_id=graph[:2]).task_id, 60)
        assert asked.status is State.INTERRUPTED
        assert client.wait(client.resume(asked.task_id, "so").task_id, 60).result == {
            "question": "why?",
            "answer": "so",
            "asked": turn,
        }
    is_own = any(key.startswith(b"projects_own_checkpoint:") for key in redis.scan_iter(count=1000))
    assert is_own or graph == "in memory"


def test_checkpoints_of_a_task_without_thread_do_not_stay_with_the_project(client, redis):
    before = {*redis.scan_iter(match="projects_own_checkpoint:*", count=1000)}
    asked = client.wait(client.submit({"question": "why?"}, graph="durable").task_id, 60)
    assert {*redis.scan_iter(match="projects_own_checkpoint:*", count=1000)} > before
    assert client.wait(client.resume(asked.task_id, "so").task_id, 60).status is State.SUCCESS
    until_sync(lambda: {*redis.scan_iter(match="projects_own_checkpoint:*", count=1000)} == before)


WARNINGS = f"""\
{CONFIG}: http has no effect here: {INSTEAD["http"]}
graph 'fails' (./src/factories/graphs.py:fails): its factory failed without a run, so that its input cannot be checked \
at the door: KeyError: 'user_id'
graph 'not left' (./src/factories/graphs.py:not_left): its factory cannot be left: OSError: the server is gone
the worker's own replaces what graphs were compiled with: \
checkpointer InMemorySaver of in memory (it is in the memory of one process)
"""


def test_only_what_the_operator_can_act_on_is_a_warning(worker):
    warnings = {re.sub(r" \(\w+.py, line \d+\)", "", one["warning"]) for one in worker.events("config.questioned")}
    assert warnings == {*WARNINGS.splitlines()}
