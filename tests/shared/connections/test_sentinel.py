"""What survives when the primary dies. Without a fault nothing here is about time; the sentinels' own delays are."""

import asyncio
import threading

import pytest
from redis import Redis

from langgraph_rq import Client, RedisUnavailableError
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import _free_port
from langgraph_rq.shared.queue.keys import task_hash
from tests import fleet
from tests.sentinels import port_of, replicated, watched
from tests.waiting import until


@pytest.fixture
def replicated_submits(monkeypatch):
    monkeypatch.setenv("LGRQ_SUBMIT_REPLICAS", "1")
    monkeypatch.setenv("LGRQ_SUBMIT_REPLICAS_TIMEOUT_S", "0.2")


class Producer(threading.Thread):
    """Submits one task after the other until told to stop; an unanswered submit is repeated under its id."""

    def __init__(self, url):
        super().__init__()
        self.url, self.acknowledged, self.refusals, self.stopping = url, [], 0, threading.Event()
        self.start()

    def run(self):
        with Client(self.url) as client:
            number = 0
            while not self.stopping.is_set():
                try:
                    client.submit({"number": number}, task_id=f"task-{number}")
                except RedisUnavailableError:
                    self.refusals += 1
                    continue
                self.acknowledged.append(f"task-{number}")
                number += 1

    def stop(self):
        self.stopping.set()
        self.join()


@pytest.fixture
def redis(tmp_path):
    with watched(tmp_path) as servers:
        yield servers


@pytest.mark.slow
async def test_failover_under_load_loses_no_acknowledged_task(redis, replicated_submits):
    graph = fleet.one_node_graph(lambda state: {"number": state["number"]})
    with Client(redis.url) as client:
        async with fleet.worker(redis.url, {"assistant": graph}, checkpoints=True, concurrency=20):
            producer = await asyncio.to_thread(Producer, redis.url)
            try:
                await until(lambda: len(producer.acknowledged) > 50)
                redis.primary.kill()
                before = len(producer.acknowledged)
                await until(lambda: len(producer.acknowledged) > before + 50, 60)
            finally:
                await asyncio.to_thread(producer.stop)
            ended = await asyncio.to_thread(lambda: list(client.wait_each(producer.acknowledged, 60)))
    assert producer.refusals > 0
    assert {result.task_id for result in ended} == set(producer.acknowledged)
    assert {result.status for result in ended} == {"success"}


async def test_no_sentinel_is_lost_when_many_ask_at_a_time_and_the_first_is_away(redis):
    others = redis.url.removeprefix("redis+sentinel://127.0.0.1:").partition(",")[2]
    async with open_async(f"redis+sentinel://127.0.0.1:{_free_port()},{others}") as client:
        asked = client.connection_pool.sentinel_manager
        wanted = set(asked.sentinels)
        found = await asyncio.gather(*(asked.discover_master("agents") for _ in range(20)))
        assert set(found) == {("127.0.0.1", port_of(redis.primary))}
        assert set(asked.sentinels) == wanted


def submit_while_the_replica_is_away(primary, replica):
    """Answer what became of a submit, and whether the replica has the task once it is the primary."""
    replica.kill()
    with Client(primary.url) as client:
        try:
            client.submit({"query": "hello"}, task_id="one")
            answer = "acknowledged"
        except RedisUnavailableError as error:
            answer = str(error)
    primary.kill()
    replica.start()
    with Redis.from_url(replica.url) as client:
        return answer, bool(client.exists(task_hash("one")))


def test_submit_that_only_the_primary_has_is_lost_with_it():
    with replicated(1) as servers:
        answer, is_kept = submit_while_the_replica_is_away(*servers)
    assert answer == "acknowledged"
    assert not is_kept


def test_submit_that_no_replica_has_is_not_acknowledged_when_replicas_are_asked_for(replicated_submits):
    with replicated(1) as servers:
        answer, is_kept = submit_while_the_replica_is_away(*servers)
    # Three tries under the same id: the later ones find the task there and write nothing themselves.
    assert "expected 1 replicas to have it within 200 ms, got: 0" in answer
    assert not is_kept


def test_submit_that_a_replica_has_is_acknowledged_and_kept(replicated_submits):
    with replicated(1) as (primary, replica):
        with Client(primary.url) as client:
            client.submit({"query": "hello"}, task_id="one")
        primary.kill()
        with Redis.from_url(replica.url) as reader:
            assert reader.exists(task_hash("one"))
