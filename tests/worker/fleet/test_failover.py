"""What a worker makes of a Redis that has forgotten its last moments, as a replica that is promoted has."""

import asyncio
import operator
from contextlib import contextmanager
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.keys import WORKERS, task_hash
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.worker.fleet.outcomes import OutcomeWriter
from langgraph_rq.worker.guards.task_guard import current_task
from tests import fleet
from tests.clocks import needs_faketime, set_clock, settable
from tests.sentinels import depose, replicated, watched
from tests.waiting import until


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def two_nodes(second):
    async def one(_state):
        return {"steps": ["one"]}

    graph = StateGraph(Steps).add_node("one", one).add_node("two", second)
    return graph.add_edge(START, "one").add_edge("one", "two").add_edge("two", END).compile()


def copy_checkpoints(source, target):
    """Let what a worker wrote after the failover arrive."""
    with Redis.from_url(source.url) as old, Redis.from_url(target.url) as new:
        for key in old.scan_iter("agent:thread_[si]*"):
            new.restore(key, 0, old.dump(key))


@pytest.fixture
def servers():
    with replicated(1) as both:
        yield both


async def test_first_attempt_after_a_forgotten_one_continues_from_its_checkpoint(servers):
    reached = asyncio.Event()

    async def hang(_state):
        reached.set()
        await asyncio.sleep(60)

    async def two(_state):
        return {"steps": ["two"]}

    primary, replica = servers
    with Client(primary.url) as client:
        client.submit({}, task_id="t")
    with Redis.from_url(replica.url) as reader:
        await until(lambda: reader.exists("agent:task:t"))
        reader.replicaof("NO", "ONE")
    async with fleet.worker(primary.url, {"assistant": two_nodes(hang)}, checkpoints=True, drain_s=0.1):
        await asyncio.wait_for(reached.wait(), 10)
        copy_checkpoints(primary, replica)
    async with fleet.worker(replica.url, {"assistant": two_nodes(two)}, checkpoints=True):
        with Client(replica.url) as client:
            result = await asyncio.to_thread(client.wait, "t", 20)
    assert result.result == {"steps": ["one", "two"]}


def forget_the_last_checkpoint(url):
    with Redis.from_url(url) as redis:
        (index,) = redis.scan_iter("agent:thread_index:*")
        (last,) = redis.zrange(index, -1, -1)
        assert redis.zrem(index, last)
        assert redis.hdel(index.replace(b"index", b"state"), b"c" + last)


async def test_turn_is_ended_again_whose_last_checkpoint_was_forgotten_before_its_end(redis_url, monkeypatch):
    commit, forgets = OutcomeWriter._commit, iter([forget_the_last_checkpoint])

    async def two(_state):
        return {"steps": ["two"]}

    async def commit_at_a_promoted_replica(*args, **options):
        for forget in forgets:
            forget(redis_url)
        return await commit(*args, **options)

    monkeypatch.setattr(OutcomeWriter, "_commit", commit_at_a_promoted_replica)
    with Client(redis_url) as client:
        async with fleet.worker(redis_url, {"assistant": two_nodes(two)}, checkpoints=True):
            for turn in ("first", "second"):
                client.submit({}, task_id=turn, thread_id="thread")
                result = await asyncio.to_thread(client.wait, turn, 20)
    assert result.result == {"steps": ["one", "two", "one", "two"]}


@pytest.mark.parametrize("by", ["client", "saver"])
async def test_task_whose_thread_is_deleted_right_before_its_end_is_not_run_again(redis_url, monkeypatch, by):
    commit, runs = OutcomeWriter._commit, []

    async def two(_state):
        runs.append(1)
        return {"steps": ["two"]}

    async def commit_after_the_deletion(self, attempt, *args, **options):
        if by == "client":
            await asyncio.to_thread(client.threads.delete, "thread", force=True)
        else:
            current_task.set(None)
            await attempt.context.checkpointer.adelete_thread("thread")
        return await commit(self, attempt, *args, **options)

    monkeypatch.setattr(OutcomeWriter, "_commit", commit_after_the_deletion)
    with Client(redis_url) as client, Redis.from_url(redis_url) as redis:
        async with fleet.worker(redis_url, {"assistant": two_nodes(two)}, checkpoints=True):
            client.submit({}, task_id="t", thread_id="thread")
            result = await asyncio.to_thread(client.wait, "t", 20)
        assert not list(redis.scan_iter("agent:thread_index:*"))
    assert result.result == {"steps": ["one", "two"]}
    assert runs == [1]


TASKS = ("a", "b")


@contextmanager
def two_tasks(url):
    with Client(url) as client, Redis.from_url(url) as redis:
        for task in TASKS:
            client.submit({}, task_id=task)
        yield redis


async def until_dead_workers_are_reaped(redis):
    for name in ("dead", "dead-too"):
        redis.zadd(WORKERS, {name: 1})
        await until(lambda name=name: redis.zscore(WORKERS, name) is None)


async def crashes_after(change, url):
    """Count the crashes that are charged to a task on each of two workers that live when `change` has come."""
    gate = asyncio.Event()

    async def wait(_state):
        await gate.wait()
        return {}

    graphs = {"assistant": fleet.one_node_graph(wait)}
    with two_tasks(url) as redis:
        # Their renewals come at different times, so that one of them meets a lease that is not renewed yet.
        async with (
            fleet.worker(url, graphs, concurrency=1, times=QueueTimes(lease_ms=2_000)),
            fleet.worker(url, graphs, concurrency=1, times=QueueTimes(lease_ms=3_100)),
        ):
            await until(lambda: all(redis.hget(task_hash(task), "state") == b"running" for task in TASKS))
            await until_dead_workers_are_reaped(redis)
            change(redis)
            await until_dead_workers_are_reaped(redis)
            gate.set()
            await until(lambda: all(redis.hget(task_hash(task), "state") == b"success" for task in TASKS))
        return [int(redis.hget(task_hash(task), "crashes") or 0) for task in TASKS]


def forget_renewals(redis):
    """Set the leases of both workers back in one step, as a replica has them that was that far behind."""
    workers = "for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do"
    redis.eval(f"{workers} redis.call('ZINCRBY', KEYS[1], -4000, worker) end", 1, WORKERS)


async def test_live_worker_is_not_reaped_when_redis_has_forgotten_the_last_renewals(redis_url):
    assert await crashes_after(forget_renewals, redis_url) == [0, 0]


@pytest.fixture
def clock(tmp_path):
    return tmp_path / "clock"


@pytest.fixture
def server_of_a_clock(clock):
    with settable(clock):
        server = EmbeddedRedis().start()
    yield server
    server.stop()


@needs_faketime
@pytest.mark.parametrize("by_s", [pytest.param(10.0, marks=pytest.mark.slow), -10.0])
async def test_live_worker_is_not_reaped_when_the_clock_of_redis_jumps(server_of_a_clock, clock, by_s):
    assert await crashes_after(lambda _redis: set_clock(clock, by_s), server_of_a_clock.url) == [0, 0]


@pytest.fixture
def redis(tmp_path):
    with watched(tmp_path) as servers:
        yield servers


async def test_live_worker_whose_primary_was_deposed_and_lives_is_not_reaped_at_the_new_one(redis, lines):
    gate = asyncio.Event()

    async def wait(_state):
        await gate.wait()
        return {}

    graphs = {"assistant": fleet.one_node_graph(wait)}
    with Client(redis.url) as client:
        client.submit({}, task_id="t")
    async with fleet.worker(redis.url, graphs):
        with Redis.from_url(redis.primary.url) as old:
            await until(lambda: old.hget(task_hash("t"), "state") == b"running")
            await until(lambda: old.wait(2, 0) == 2)
        promoted = await asyncio.to_thread(depose, redis)
        with Redis.from_url(promoted.url) as new:
            async with fleet.worker(promoted.url, graphs, times=QueueTimes(lease_ms=4_000)):
                await until_dead_workers_are_reaped(new)
                gate.set()
                await until(lambda: new.hget(task_hash("t"), "state") == b"success")
            assert new.hget(task_hash("t"), "crashes") is None
    assert lines.named("redis.moved")
