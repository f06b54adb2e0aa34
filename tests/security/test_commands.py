"""What a producer publishes on a worker's channels: only the command to stop a task is obeyed."""

import json

import pytest
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoPermissionError

from langgraph_rq import AsyncClient, State
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.queue.keys import commands_channel
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from tests.fleet import one_node_graph, worker
from tests.shipped_users import shipped_users
from tests.waiting import until


async def echo(state: dict):
    return state


GRAPHS = {"echo": one_node_graph(echo)}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets")) as users:
        yield users


@pytest.mark.parametrize(
    "message",
    [
        '{"command": "shutdown"}',
        '{"command": "kill-horse", "job_id": "x"}',
        '{"command": "stop-job"}',
        '{"command": "' + "x" * 1_000_000 + '"}',
        "garbage",
    ],
    ids=lambda message: message[:30],
)
async def test_worker_refuses_and_counts_what_a_producer_publishes_but_a_stop(users, message):
    metrics = WorkerMetrics(lambda: 0)
    with metrics.listen():
        async with (
            worker(users.url("worker"), GRAPHS) as victim,
            AsyncRedis.from_url(users.url("producer")) as producer,
        ):
            await until(lambda: producer.publish(commands_channel(victim.name), message))
            async with AsyncClient(users.url("producer")) as client:
                task = await client.submit({"n": 1}, graph="echo")
                assert (await client.wait(task.task_id, 10)).status is State.SUCCESS
            assert not victim.is_stopping
    metrics.page()
    assert metrics.registry.get_sample_value("agent_commands_refused_total") == 1


def test_producer_cannot_publish_on_rqs_channel_of_a_worker(users):
    with open_sync(users.url("producer")) as producer, pytest.raises(NoPermissionError):
        producer.publish("rq:pubsub:one", json.dumps({"command": "shutdown"}))
