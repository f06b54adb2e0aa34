"""What a node has done is not done again when its worker process is killed before the node's checkpoint."""

import pytest

from langgraph_rq import Client
from langgraph_rq.shared.tasks import State
from tests.installation import ROOT, start_worker
from tests.model_calls import billed, counted

CONFIG = ROOT / "tests/projects/journaled/langgraph.json"
WAIT_S = 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes(tmp_path_factory, redis_server, server):
    """Worker processes, each started again when it was killed."""
    environment = {
        "REDIS_URL": redis_server.url,
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "offline",
        "LGRQ_ANSWER_JOURNAL": "true",
        "LGRQ_STATE_KEY": "a-secret-of-at-least-32-characters",
        "LGRQ_LEASE_S": "2",
    }
    folder = tmp_path_factory.mktemp("journaled")
    with start_worker(folder, environment, "--config", str(CONFIG), "--processes", "2") as started:
        started.wait_until_ready(2)
        yield started


@pytest.fixture
def client(redis_server):
    with Client(redis_server.url) as client:
        yield client


def test_provider_is_asked_once_when_a_process_is_killed_behind_its_answers(processes, client, server, tmp_path):
    task_id = client.submit({"folder": str(tmp_path)}, graph="asker").task_id
    result = client.wait(task_id, timeout_s=WAIT_S)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2), processes.said()
    calls = server.admin.calls()
    assert len(calls) == 6
    assert len(set(result.result["answers"])) == 6
    assert counted(result) == billed(server.admin)


def paid(folder):
    return [tuple(line.split()) for line in (folder / "paid").read_text().splitlines()]


def test_tool_whose_process_is_killed_is_not_called_again(processes, client, tmp_path):
    task_id = client.submit({"folder": str(tmp_path)}, graph="payer").task_id
    result = client.wait(task_id, timeout_s=WAIT_S)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2), processes.said()
    assert result.result["said"] == ["paid first", "OutcomeUnknown"]
    assert paid(tmp_path) == [("first",), ("second",)]


def test_tool_that_takes_the_key_is_called_again_with_the_same_one(processes, client, tmp_path):
    task_id = client.submit({"folder": str(tmp_path)}, graph="keyed_payer").task_id
    result = client.wait(task_id, timeout_s=WAIT_S)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 2), processes.said()
    assert result.result["said"] == ["paid first", "paid second"]
    first, second, again = paid(tmp_path)
    assert second == again != first
