"""What survives when the primary dies. Without a fault nothing here is about time; the sentinels' own delays are."""

import asyncio
import threading
from contextlib import suppress

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq import Client, RedisUnavailableError
from langgraph_rq.shared.connections.clients import has_moved, open_async, open_sync
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import _free_port
from langgraph_rq.shared.queue.keys import task_hash
from tests import fleet
from tests.sentinels import PASSWORD_OF_THE_DEPOSED, SERVICE, depose, open_as_admin, port_of, replicated, watched
from tests.waiting import until, until_sync


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


@pytest.mark.slow
async def test_all_clients_of_a_process_leave_a_primary_that_was_deposed_and_lives_when_one_learns_it(redis):
    with open_sync(redis.url) as looking:
        async with open_async(redis.url) as client:
            kept = KeptConnection(client)
            await kept.exchange([("SET", "by", "all")])
            await client.set("by", "all")
            looking.set("by", "all")
            promoted = await asyncio.to_thread(depose, redis)
            await until(lambda: has_moved(looking))
            looking.set("by the one", "that looked")
            await client.set("by another", "at once")
            with open_as_admin(promoted) as new:
                assert new.mget("by the one", "by another") == ["that looked", "at once"]

                async def has_left():
                    await kept.exchange([("SET", "by one that is kept", "within a second")])
                    return new.get("by one that is kept")

                assert await until(has_left) == "within a second"
            await kept.release()


async def test_sentinels_that_name_one_primary_by_its_host_and_by_its_number_move_no_client(redis):
    other = redis.sentinels[0]
    for option in ("resolve-hostnames", "announce-hostnames"):
        other.execute_command("SENTINEL", "CONFIG", "SET", option, "yes")
    monitor_anew(other, redis.primary, "localhost")
    await until(lambda: other.info("sentinel")["master0"]["status"] == "ok")
    with open_sync(redis.url) as looking:
        first = looking.client_id()
        for _ in range(2 * len(redis.sentinels)):
            assert not has_moved(looking)
            assert looking.client_id() == first
            async with open_async(redis.url) as client:
                await client.ping()


def monitor_anew(sentinel, server, host="127.0.0.1"):
    """Let a sentinel watch a server as if there had been no failover yet."""
    sentinel.sentinel_remove(SERVICE)
    sentinel.sentinel_monitor(SERVICE, host, port_of(server), 2)
    sentinel.sentinel_set(SERVICE, "auth-pass", PASSWORD_OF_THE_DEPOSED)


def port_that_is_found(url):
    """Return the primary's port as a client that connects now finds it; None: no sentinel names one that lives."""
    with open_sync(url) as client, suppress(RedisConnectionError):
        return client.connection_pool.get_master_address()[1]


@pytest.mark.slow
def test_sentinel_that_names_a_former_primary_is_passed_over(redis):
    promoted = depose(redis)
    until_sync(lambda: port_that_is_found(redis.url) == port_of(promoted))
    former = redis.sentinels[0]
    monitor_anew(former, redis.primary)
    until_sync(lambda: former.info("sentinel")["master0"]["status"] == "ok")
    assert redis.promoted() is redis.primary
    assert port_that_is_found(redis.url) == port_of(promoted)


@pytest.mark.slow
def test_sentinels_that_were_all_set_up_anew_are_believed(redis):
    promoted = depose(redis)
    until_sync(lambda: port_that_is_found(redis.url) == port_of(promoted))
    for sentinel in redis.sentinels:
        monitor_anew(sentinel, redis.primary)
    until_sync(lambda: port_that_is_found(redis.url) == port_of(redis.primary))


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
