"""Threads are found by what is at the top of their metadata, however many there are."""

import json

import pytest
from redis import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.queue.verbs import QueueTimes, submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.shared.threads.finding import FIRST, find_threads_call
from langgraph_rq.shared.threads.rows import change_call, create_call, describe_call
from langgraph_rq.shared.threads.terms import MOST_TERMS, groups_for, terms_of

NOW_MS = 1_800_000_000_000
WEEK_MS = 7 * 86_400_000
MOST_COMMANDS = 100


class Threads:
    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.now_ms = NOW_MS

    def make(self, thread, tenant="default", **metadata):
        self.now_ms += 1
        return run_sync(self.redis, create_call(thread, tenant, json.dumps(metadata), now_ms=self.now_ms))

    async def make_all(self, aredis, threads):
        for start in range(0, len(threads), 1_000):
            calls = []
            for thread, metadata in threads[start : start + 1_000]:
                self.now_ms += 1
                calls.append(create_call(thread, "default", json.dumps(metadata), now_ms=self.now_ms))
            await scripts.run_many(aredis, calls)

    def run(self, thread, graph="assistant"):
        self.now_ms += 1
        task = Task.parse({"input": {}, "graph": graph, "thread_id": thread}, TaskLimits())
        return run_sync(self.redis, submit_call(task, "q", QueueTimes(), self.now_ms))

    def find(self, tenant="default", limit=100, graphs=None, **metadata):
        """Return the threads of all pages."""
        found, after = [], FIRST
        groups = groups_for(metadata, graphs or {})
        while after is not None:
            self.redis.config_resetstat()
            page = run_sync(self.redis, find_threads_call(tenant, groups, after, limit))
            assert sum(stat["calls"] for stat in self.redis.info("commandstats").values()) < MOST_COMMANDS
            assert len(page.threads) <= limit
            found += page.threads
            after = page.after
        return found


@pytest.fixture
def threads(redis_url):
    with Redis.from_url(redis_url) as client:
        yield Threads(client)


def test_threads_are_found_by_each_pair_of_their_metadata_the_last_used_first(threads):
    threads.make("t1", owner="ann", topic="a")
    threads.make("t2", owner="bob", topic="a")
    threads.make("t3", owner="ann", topic="b")
    assert threads.find() == ["t3", "t2", "t1"]
    assert threads.find(owner="ann") == ["t3", "t1"]
    assert threads.find(owner="ann", topic="a") == ["t1"]
    assert threads.find(owner="cid") == threads.find(topic=1) == threads.find(tenant="acme", owner="ann") == []


async def test_few_are_found_among_many_that_were_used_later(threads, aredis):
    await threads.make_all(aredis, [(f"old-{n}", {"owner": "ann"}) for n in range(5)])
    await threads.make_all(aredis, [(f"new-{n}", {"owner": "bob"}) for n in range(6_000)])
    assert threads.find(owner="ann") == [f"old-{n}" for n in range(4, -1, -1)]
    assert threads.find(owner="ann", limit=2) == [f"old-{n}" for n in range(4, -1, -1)]
    # Where every term has many threads, all threads are looked through.
    await threads.make_all(aredis, [(f"more-{n}", {"owner": "ann", "of": n % 2}) for n in range(2_200)])
    assert len(threads.find(owner="ann")) == 2_205
    assert threads.find(owner="ann", of=1)[:2] == ["more-2199", "more-2197"]
    assert threads.find(owner="bob", limit=1_000) == [f"new-{n}" for n in range(5_999, -1, -1)]


@pytest.mark.parametrize(("kept", "asked"), [(1, 1.0), (True, 1), (None, None), ("ä", "ä"), (10**400, 10**400)])
def test_values_that_are_equal_have_one_term(threads, kept, asked):
    threads.make("t1", value=kept)
    assert threads.find(value=asked) == ["t1"]
    assert threads.find(value="other") == []


def test_objects_and_lists_are_no_terms_as_a_part_of_them_may_be_asked_for():
    assert groups_for({"a": {"b": 1}, "c": [1]}, {}) == []
    assert len(groups_for({"a": {"b": 1}, "c": 1}, {})) == 1


def test_graph_with_a_line_break_in_its_name_is_no_further_term():
    ((*terms,),) = groups_for({"graph_id": "x\nx"}, {"graph_id": "x\nx"})
    assert len("\n".join(terms).split("\n")) == 2


def test_thread_with_more_pairs_than_are_listed_is_found_by_all_of_them(threads):
    many = {f"k{n:02}": n for n in range(MOST_TERMS + 5)}
    threads.make("t1", **many)
    threads.make("t2", k20=20)
    assert len(terms_of(many)) == MOST_TERMS + 1
    assert threads.find(k00=0) == ["t1"]
    assert threads.find(k20=20) == ["t2", "t1"]


def test_changed_metadata_are_found_and_the_old_ones_no_more(threads):
    threads.make("t1", owner="ann")
    before, after = '{"owner": "ann"}', '{"owner": "bob"}'
    assert run_sync(threads.redis, describe_call("t1", "default", before, after, now_ms=threads.now_ms)) == 1
    assert (threads.find(owner="ann"), threads.find(owner="bob")) == ([], ["t1"])


def test_threads_are_found_by_the_graph_of_their_newest_run(threads):
    threads.make("t1", graph_id="one")
    threads.run("t2", "one")
    threads.run("t3", "two")
    graphs = {"graph_id": "one"}
    assert threads.find(graph_id="one", graphs=graphs) == ["t2", "t1"]
    threads.run("t2", "two")
    assert threads.find(graph_id="one", graphs=graphs) == ["t1"]
    assert threads.find(graph_id="two", graphs={"graph_id": "two"}) == ["t2", "t3"]
    assert threads.find(assistant_id="of-one", graphs={"assistant_id": None}) == ["t2", "t3", "t1"]


def test_threads_that_are_listed_no_more_are_not_found_and_leave_the_index_one_by_one(threads):
    for n in range(20):
        threads.make(f"old-{n}", owner="ann")
    threads.now_ms += 2 * WEEK_MS
    for n in range(20):
        threads.make(f"new-{n}", owner="ann")
    assert threads.find(owner="ann") == [f"new-{n}" for n in range(19, -1, -1)]
    assert threads.find() == [f"new-{n}" for n in range(19, -1, -1)]
    (key,) = threads.redis.keys("agent:threads_by:*")
    assert threads.redis.scard(key) < 40
    assert WEEK_MS < threads.redis.pttl(key) <= 10 * WEEK_MS / 7


def test_terms_live_on_with_a_thread_whose_state_is_changed(threads):
    threads.make("t1", owner="ann")
    (key,) = threads.redis.keys("agent:threads_by:*")
    threads.redis.pexpire(key, 1_000_000)
    run_sync(threads.redis, change_call("t1", "default", State.SUCCESS, "g", threads.now_ms))
    assert threads.redis.pttl(key) > WEEK_MS


def test_index_of_another_type_finds_nothing_and_is_replaced(threads):
    threads.make("t1", owner="ann")
    (key,) = threads.redis.keys("agent:threads_by:*")
    threads.redis.delete(key)
    threads.redis.set(key, "x")
    assert threads.find(owner="ann") == []
    threads.make("t2", owner="ann")
    assert threads.find(owner="ann") == ["t2"]
