"""Well-known agents run to their end with default settings, unchanged and without an output limit of their own."""

import pytest

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.installation import ROOT, start_worker

CONFIG = ROOT / "tests/projects/ordinary/langgraph.json"
TURNS, TURN = 100, "Tell me more about the history of clocks. " * 14  # 0.6 kB, and as much for the answer


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with EmbeddedRedis(tcp=True) as redis, OfflineLLM() as model:
        environment = {"REDIS_URL": redis.url, "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "offline"}
        with start_worker(tmp_path_factory.mktemp("ordinary"), environment, "--config", str(CONFIG)) as worker:
            worker.wait_until_ready()
            with Client(redis.url) as client:
                yield client
            assert worker.process.poll() is None, worker.said()


def run(client, graph, input_, **fields):
    result = client.wait(client.submit(input_, graph=graph, user_id="ann", **fields).task_id, 120)
    assert (result.status, result.error) == (State.SUCCESS, None), result.error
    return result


def said(text):
    return {"messages": [{"role": "user", "content": text}]}


def test_agent_with_a_tool(client):
    messages = run(client, "tool_agent", said("What is the weather in Rome?")).result["messages"]
    assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]


def test_deep_agent(client):
    assert run(client, "deep_agent", said("Plan a trip to Rome.")).result["messages"][-1]["type"] == "ai"


def test_research_with_a_long_prompt(client):
    result = run(client, "researcher", {"topic": "tides"})
    assert result.result["report"]
    assert result.metadata.input_tokens > 2 * 12_000 / 4


def test_conversation_of_a_hundred_turns(client):
    """The last turns alone cost a hundred thousand tokens: every one is sent with all before it."""
    history = [{"role": role, "content": TURN} for _ in range(TURNS - 5) for role in ("user", "assistant")]
    run(client, "talk", {"messages": [*history, *said(TURN)["messages"]]}, thread_id="long")
    for _ in range(4):
        result = run(client, "talk", said(TURN), thread_id="long")
    assert len(result.result["messages"]) == 2 * TURNS


def test_two_hundred_calls_at_once_and_then_another_user(client):
    assert len(run(client, "fan_out", {"width": 200}).result["answers"]) == 200
    run(client, "talk", said("hello"))
