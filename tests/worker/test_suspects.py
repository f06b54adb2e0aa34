"""A task that ends its process is found, and its neighbours are not taken for it."""

from pathlib import Path

from redis import Redis

from producer import Client, State
from shared.embedded_redis import EmbeddedRedis
from shared.errors import ErrorType
from tests.installation import start_worker

CONFIG = str(Path(__file__).parents[1] / "projects/killers/langgraph.json")


def test_task_that_ends_its_process_is_poisoned_and_its_neighbours_succeed(tmp_path):
    with EmbeddedRedis() as redis:
        environment = {"REDIS_URL": redis.url, "LGRQ_LEASE_S": "1"}
        with (
            start_worker(tmp_path, environment, "--config", CONFIG, "--processes", "2") as worker,
            Client(redis.url) as client,
        ):
            worker.wait_until_ready(2)
            innocents = client.submit_many(
                [{"input": {"seconds": 1.0}, "graph": "killer", "deadline_s": 120} for _ in range(20)]
            )
            killer = client.submit({"kills": True}, graph="killer", deadline_s=120)
            result = client.wait(killer.task_id, 100)
            others = list(client.wait_each([one.task_id for one in innocents], 100))
        assert (result.status, result.error.type) == (State.ERROR, ErrorType.POISONED)
        assert "in node 'strike': killed by SIGKILL" in result.error.message
        assert [one.status for one in others] == [State.SUCCESS] * 20
        with Redis.from_url(redis.url) as raw:
            assert int(raw.hget(f"agent:task:{killer.task_id}", "crashes")) == 2
