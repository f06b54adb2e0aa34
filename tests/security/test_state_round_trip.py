"""State of many types is the same after the crash of a worker, and in the next task of its thread."""

import pytest

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.installation import ROOT, start_worker

CONFIG = str(ROOT / "tests/projects/typed_state/langgraph.json")


@pytest.mark.parametrize(
    "key", [pytest.param(None, id="plain", marks=pytest.mark.slow), pytest.param("a" * 32, id="encrypted")]
)
def test_state_of_many_types_survives_a_crash_and_goes_on_in_the_next_task(tmp_path, key):
    killed = tmp_path / "killed"
    with EmbeddedRedis() as redis, Client(redis.url) as client:
        environment = {"REDIS_URL": redis.url, "LGRQ_LEASE_S": "2", **({"LGRQ_STATE_KEY": key} if key else {})}
        with start_worker(tmp_path, environment, "--config", CONFIG) as worker:
            worker.wait_until_ready()
            first = client.submit({"kill": str(killed)}, graph="typed", thread_id="t").task_id
            assert worker.process.wait(30) != 0
        with start_worker(tmp_path, environment, "--config", CONFIG):
            results = [client.wait(first, 60)]
            results.append(client.wait(client.submit({"kill": ""}, graph="typed", thread_id="t").task_id, 60))
    assert killed.exists()
    assert [(one.status, one.error) for one in results] == [(State.SUCCESS, None)] * 2
    assert [one.result for one in results] == [{"differences": []}] * 2
    assert results[0].metadata.attempts == 2
