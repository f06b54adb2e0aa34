"""Records of runs on a real Redis: what is listed of tasks, how long, and how many bytes it takes."""

from datetime import UTC, datetime, timedelta

import pytest

from langgraph_rq import AsyncClient, UnknownTaskError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished, Submitted, Use
from langgraph_rq.shared.queue.attempts import finish_call, use_call
from langgraph_rq.shared.queue.records import (
    RunFilter,
    forget_run_call,
    list_runs_call,
    list_thread_runs_call,
    read_runs_call,
    write_about,
)
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis

MOST_COMMANDS = 2_000
RECORD_BYTES = 700
ID_BYTES = 120
DAY_MS = 86_400_000


class Records(QueueOnRedis):
    """The verbs, and the lists."""

    async def page(self, *, before=0, limit=100, tenant="default", most=TIMES.records, **only):
        call = list_runs_call(tenant, RunFilter(**only), most_records=most, before=before, limit=limit)
        return await scripts.run(self.redis, call)

    async def listed(self, **only):
        """Return the ids of all pages."""
        found, before = [], 0
        while True:
            page = await self.page(before=before, **only)
            found += [run.key for run in page.runs]
            before = page.before
            if not before:
                return found

    async def read(self, task_id="t1", thread=""):
        (record,) = await scripts.run(self.redis, read_runs_call([task_id], thread, self.now_ms))
        return record

    async def forget(self, task_id, thread):
        return await scripts.run(self.redis, forget_run_call(task_id, thread or "", self.now_ms))

    async def submit_all(self, tasks, times=TIMES):
        for start in range(0, len(tasks), 500):
            calls = [submit_call(task, QUEUE, times, self.now_ms) for task in tasks[start : start + 500]]
            assert {one.outcome for one in await scripts.run_many(self.redis, calls)} == {Submitted.CREATED}

    async def cancel_all(self, tasks, times=TIMES, change=lambda call: call):
        for start in range(0, len(tasks), 500):
            some = tasks[start : start + 500]
            calls = [change(cancel_call(task.key, State.CANCELLED, b"{}", times, self.now_ms)) for task in some]
            assert {one.state for one in await scripts.run_many(self.redis, calls)} == {State.CANCELLED}

    async def bytes_of(self, *patterns):
        keys = [key for pattern in patterns for key in await self.redis.keys(pattern)]
        pipeline = self.redis.pipeline(transaction=False)
        for key in keys:
            pipeline.memory_usage(key, samples=0)
        return sum(await pipeline.execute())


def crowded(call):
    """Return a call after which all ids share one hash: in a week of 50 tasks/s 3,700 do."""
    source = call.script.source.replace("% (1024)", "% (1)")
    assert source != call.script.source
    return call._replace(script=scripts.make_script(call.script.name, source))


@pytest.fixture
async def queue(aredis):
    queue = Records(aredis)
    await queue.join(graphs={"assistant": "{}", "other": "{}"})
    return queue


def task(n, **fields):
    return Task.parse({"input": {}, "task_id": f"0f1e2d3c-4b5a-4000-8000-{n:012}", **fields}, TaskLimits())


@pytest.mark.parametrize("thread", [None, "th"])
async def test_record_follows_a_task_from_its_submit_to_its_end(queue, thread):
    fields = {"thread_id": thread} if thread else {}
    await queue.submit(user_id="ann", metadata={"source": "test"}, **fields)
    pending = await queue.read()
    claimed = await queue.claim_one()
    running = await queue.read()
    await scripts.run(queue.redis, use_call("t1", Use(10, 5, 1_000)))
    queue.now_ms += 1_500
    call = finish_call(claimed, "w1", State.ERROR, b"{}", TIMES, error_type="graph_error", now_ms=queue.now_ms)
    assert await scripts.run(queue.redis, call) is Finished.WRITTEN
    ended = await queue.read()
    assert [one.state for one in (pending, running, ended)] == [State.PENDING, State.RUNNING, State.ERROR]
    assert (ended.thread, ended.graph, ended.user_id, ended.about) == (
        thread, "assistant", "ann", {"metadata": {"source": "test"}},
    )  # fmt: skip
    assert (ended.attempts, ended.input_tokens, ended.output_tokens, ended.cost_nano_usd) == (1, 10, 5, 1_000)
    assert (ended.error_type, pending.ended, ended.ended - ended.started) == (
        "graph_error", None, timedelta(seconds=1.5),
    )  # fmt: skip
    await queue.redis.delete("agent:task:t1")
    assert (await queue.page()).runs == (ended,)
    assert await queue.read(thread=thread or "") == ended


async def test_task_that_never_ran_has_a_record(queue):
    await queue.submit(metadata={"source": "test"})
    call = cancel_call("t1", State.TIMEOUT, b"{}", TIMES, queue.now_ms, error_type="timeout")
    await scripts.run(queue.redis, call)
    (run,) = (await queue.page(state=State.TIMEOUT)).runs
    assert (run.key, run.error_type, run.started, run.attempts) == ("t1", "timeout", None, 0)


async def test_runs_are_listed_by_state_graph_user_and_time_the_newest_first(queue):
    for n in range(8):
        queue.now_ms += 1_000
        await queue.submit(f"t{n}", graph=("assistant", "other")[n % 2], user_id=("ann", "bob", None)[n % 3])
    began = datetime.fromtimestamp((queue.now_ms - 7_000) / 1000, UTC)
    await queue.renew()
    (claimed,) = (await queue.claim(n=1)).tasks
    await queue.finish(claimed)
    await queue.claim(n=1)
    assert await queue.listed() == [f"t{n}" for n in range(7, -1, -1)]
    assert await queue.listed(state=State.SUCCESS) == [claimed.id]
    assert len(await queue.listed(state=State.RUNNING)) == 1
    assert len(await queue.listed(state=State.PENDING)) == 6
    assert await queue.listed(graph="other") == ["t7", "t5", "t3", "t1"]
    assert await queue.listed(user_id="ann") == ["t6", "t3", "t0"]
    assert await queue.listed(user_id="") == ["t5", "t2"]
    assert await queue.listed(user_id="ann", graph="other") == ["t3"]
    two, four = began + timedelta(seconds=2), began + timedelta(seconds=4)
    assert await queue.listed(since=two, until=four) == ["t4", "t3", "t2"]
    assert await queue.listed(graph="unheard-of") == await queue.listed(tenant="acme") == []


async def test_pages_go_on_where_the_one_before_ended_although_runs_come_meanwhile(queue):
    await queue.submit_all([task(n) for n in range(700)])
    first = await queue.page(limit=40)
    await queue.submit_all([task(n) for n in range(700, 720)])
    second = await queue.page(limit=40, before=first.before)
    keys = [run.key for run in (*first.runs, *second.runs)]
    assert keys == [task(n).key for n in range(699, 619, -1)]
    assert len(await queue.listed()) == 720


async def test_client_lists_tasks_with_and_without_their_hashes(queue, redis_url):
    for n in range(3):
        await queue.submit(f"t{n}", user_id="ann", thread_id=f"th{n}")
    await queue.finish(await queue.claim_one())
    await queue.redis.delete("agent:task:t0")
    async with AsyncClient(redis_url) as client:
        first = await client.tasks(user_id="ann", limit=2)
        rest = await client.tasks(user_id="ann", limit=2, before=first.following)
    found = [(one.task_id, one.state, one.thread_id) for one in (*first.tasks, *rest.tasks)]
    pending = [(f"t{n}", State.PENDING, f"th{n}") for n in (2, 1)]
    assert found == [*pending, ("t0", State.SUCCESS, "th0")]
    assert (len(first.tasks), rest.following) == (2, 0)


async def test_runs_of_tenants_are_apart(queue):
    await queue.submit("t1", tenant="acme", user_id="ann")
    await queue.submit("t1", user_id="ann")
    assert await queue.listed(tenant="acme", user_id="ann") == ["acme--t1"]
    assert await queue.listed(user_id="ann") == ["t1"]


async def test_only_the_newest_runs_stay_listed_and_a_threads_own_as_long_as_it(queue):
    times = QueueTimes(records=512)
    await queue.submit_all([task(0, thread_id="th")], times)
    await queue.submit_all([task(n) for n in range(1, 1_600)], times)
    assert await queue.listed(most=512) == [task(n).key for n in range(1_599, 1_599 - 512, -1)]
    assert len(await queue.redis.keys("agent:runs:*")) <= 3
    await queue.cancel_all([task(0, thread_id="th")], times)
    await queue.redis.delete(f"agent:task:{task(0).key}")
    assert (await queue.read(task(0).key, "th")).state is State.CANCELLED
    week_ms = 7 * DAY_MS
    assert week_ms - 60_000 < await queue.redis.pttl("agent:thread_runs:th") <= week_ms
    ttls = [await queue.redis.pttl(key) for key in await queue.redis.keys("agent:runs:*")]
    assert all(DAY_MS - 60_000 < ttl <= DAY_MS + 3_600_000 for ttl in ttls)


async def test_list_of_which_nothing_is_asked_for_looks_at_few_entries(queue):
    await queue.submit_all([task(n, user_id=f"user-{n}", thread_id=f"th{n % 7}") for n in range(1_200)])
    await queue.redis.set("agent:run_count:default", 10_000_000)
    for only in ({"user_id": "nobody"}, {"state": State.RUNNING}):
        await queue.redis.config_resetstat()
        page = await queue.page(most=10_000_000, **only)
        stats = await queue.redis.info("commandstats")
        assert sum(stat["calls"] for stat in stats.values()) <= MOST_COMMANDS
        assert page.before
    await queue.redis.set("agent:run_count:default", 1_200)
    await queue.redis.config_resetstat()
    page = await queue.page(state=State.RUNNING)
    stats = await queue.redis.info("commandstats")
    assert sum(stat["calls"] for stat in stats.values()) <= MOST_COMMANDS
    assert (page.runs, page.before > 0) == ((), True)
    assert await queue.listed(state=State.RUNNING) == []


async def test_runs_of_a_thread_are_listed_page_by_page_and_the_newest_thousand_kept(queue):
    tasks = [task(n, thread_id="th", metadata={"n": n}) for n in range(1_005)]
    await queue.submit_all(tasks)
    await queue.cancel_all(tasks[900:])
    await queue.redis.delete(*(f"agent:task:{one.key}" for one in tasks[900:]))
    pages = [await scripts.run(queue.redis, list_thread_runs_call("th", start)) for start in range(0, 1_100, 100)]
    runs = [run for page in pages for run in page]
    assert [run.key for run in runs] == [one.key for one in reversed(tasks[5:])]
    assert [run.about["metadata"]["n"] for run in runs] == list(range(1_004, 4, -1))
    assert [run.state for run in runs] == [State.CANCELLED] * 105 + [State.PENDING] * 895
    assert await queue.redis.llen("agent:thread_runs:th") == 3_000


async def test_old_runs_of_a_long_thread_are_listed_a_few_at_a_time(queue):
    tasks = [task(n, thread_id="th") for n in range(1_000)]
    await queue.submit_all(tasks)
    assert len((await queue.page()).runs) == 100
    assert len((await queue.page(before=200)).runs) < 20, "each is found behind 2,400 entries"
    assert await queue.listed() == [one.key for one in reversed(tasks)]


async def test_run_of_a_thread_that_was_deleted_is_listed_by_what_its_hash_says(queue):
    await queue.submit("t1", thread_id="th", metadata={"n": 1})
    await queue.redis.delete("agent:thread_runs:th", "agent:thread_row:th")
    (run,) = (await queue.page()).runs
    assert (run.key, run.thread, run.state, run.about) == ("t1", "th", State.PENDING, {})


async def test_entry_of_another_program_hides_no_run_that_comes_after_it(queue):
    await queue.submit("t1", thread_id="th")
    await queue.redis.lpush("agent:thread_runs:th", "odd")
    await queue.submit("t2", thread_id="th")
    assert (await queue.read("t2", "th")).key == "t2"
    assert await queue.redis.llen("agent:thread_runs:th") == 3


@pytest.mark.parametrize("thread", [None, "th"])
async def test_run_that_is_deleted_is_known_only_as_an_id_that_was_used(queue, thread):
    fields = {"thread_id": thread} if thread else {}
    await queue.submit("t0", **fields)
    await queue.submit(user_id="ann", **fields)
    assert not await queue.forget("t1", thread)
    for _ in range(2):
        await queue.finish(await queue.claim_one())
    assert await queue.forget("t1", thread)
    assert await queue.listed() == ["t0"]
    assert await queue.read("t1", thread or "") is None
    assert (await queue.read("t0", thread or "")).state is State.SUCCESS
    assert not await queue.redis.exists("agent:result:t1", "agent:events:t1")
    await queue.redis.delete("agent:task:t1")
    assert await queue.forget("t1", thread)
    forgotten = await queue.read("t1")
    assert (forgotten.state, forgotten.created, forgotten.user_id) == (State.SUCCESS, None, None)
    assert (await queue.submit(user_id="ann", **fields)).outcome is Submitted.EXISTS


@pytest.mark.parametrize("runs_each", [0, 1, 2, 10, 100])
async def test_record_with_its_indexes_takes_at_most_700_bytes(queue, runs_each):
    """Each of another user, with metadata, as the largest usual case."""
    tasks = [
        task(
            n,
            user_id=f"user-{n:06}@example.com",
            metadata={"source": "web", "release": "2026.11.3", "session": f"{n:032x}"},
            **({"thread_id": f"0f1e2d3c-4b5a-4000-9000-{n // runs_each:012}"} if runs_each else {}),
        )
        for n in range(1_000)
    ]
    await queue.submit_all(tasks)
    await queue.cancel_all(tasks)
    record = await queue.bytes_of("agent:runs:*", "agent:run_count:*", "agent:thread_runs:*")
    assert record / len(tasks) <= RECORD_BYTES


@pytest.mark.parametrize("change", [lambda call: call, crowded], ids=["few", "many"])
async def test_id_that_is_only_remembered_takes_at_most_120_bytes(queue, change):
    tasks = [task(n) for n in range(4_000)]
    await queue.redis.set("agent:run_count:default", 30_000_000)  # so many are remembered
    await queue.submit_all(tasks)
    await queue.cancel_all(tasks, change=change)
    assert await queue.bytes_of("agent:ids:*") / len(tasks) <= ID_BYTES
    await queue.redis.delete(*(f"agent:task:{task.key}" for task in tasks))
    again = await scripts.run(queue.redis, change(submit_call(tasks[2_777], QUEUE, TIMES, queue.now_ms)))
    assert (again.outcome, again.detail) == (Submitted.EXISTS, "cancelled")


async def test_id_whose_task_is_forgotten_is_not_run_again(queue):
    await queue.submit()
    await queue.finish(await queue.claim_one())
    await queue.redis.delete("agent:task:t1", "agent:result:t1", "rq:job:t1")
    again, other = await queue.submit(), await queue.submit(user_id="ann")
    assert [(one.outcome, one.detail) for one in (again, other)] == [
        (Submitted.EXISTS, "success"),
        (Submitted.CONFLICT, "success"),
    ]
    await queue.redis.hset("rq:job:t1", "data", '["langgraph_rq.run_task",null,[{"input":{}}],{}]')
    await queue.redis.rpush(f"rq:queue:{QUEUE}", "t1")
    assert (await queue.claim()).tasks == ()
    call = cancel_call("t1", State.CANCELLED, b"{}", TIMES, queue.now_ms)
    assert (await scripts.run(queue.redis, call)).state is State.SUCCESS


async def test_client_knows_how_a_task_ended_whose_result_is_forgotten(queue, redis_url):
    await queue.submit(thread_id="th", user_id="ann")
    await queue.finish(await queue.claim_one())
    await queue.redis.delete("agent:task:t1", "agent:result:t1", "agent:events:t1", "rq:job:t1")
    async with AsyncClient(redis_url) as client:
        status = await client.status("t1")
        assert (status.state, status.thread_id, status.user_id, status.attempts) == (State.SUCCESS, "th", "ann", 1)
        assert await client.cancel("t1") is State.SUCCESS
        with pytest.raises(UnknownTaskError, match="ended as success"):
            await client.wait("t1", timeout_s=5)
        assert [event.type async for event in client.events("t1")] == ["end"]
        for pattern in ("agent:runs:*", "agent:thread_runs:*"):
            await queue.redis.delete(*await queue.redis.keys(pattern))
        assert (await client.status("t1")).state is State.SUCCESS
        with pytest.raises(UnknownTaskError, match="no task 't2'"):
            await client.status("t2")


async def test_id_is_forgotten_when_its_window_is_over(queue):
    await queue.submit()
    await queue.finish(await queue.claim_one())
    await queue.redis.delete("agent:task:t1")
    queue.now_ms += TIMES.window_ms
    assert (await queue.submit()).outcome is Submitted.EXISTS
    await queue.redis.delete("agent:task:t1")
    queue.now_ms += TIMES.window_ms // 4
    await queue.renew(join=True)
    assert (await queue.submit()).outcome is Submitted.CREATED
    ttls = [await queue.redis.pttl(key) for key in await queue.redis.keys("agent:ids:*")]
    assert all(TIMES.window_ms * 0.99 < ttl <= TIMES.window_ms * 1.13 for ttl in ttls)


async def test_deleted_or_overwritten_record_is_left_out_and_stops_nothing(queue):
    for n in range(3):
        await queue.submit(f"t{n}", thread_id=f"th{n}")
    await queue.redis.set("agent:thread_runs:th0", "x")
    await queue.redis.hset("agent:runs:default:0", "2", '["t1","th1"]')  # as an earlier version wrote it
    await queue.redis.lset("agent:thread_runs:th2", 1, "[1]")
    for claimed in (await queue.claim()).tasks:
        assert await queue.finish(claimed) is Finished.WRITTEN
    await queue.redis.delete("agent:task:t0")
    assert await queue.listed() == ["t2"]
    await queue.redis.delete("agent:runs:default:0")
    await queue.redis.set("agent:runs:default:0", "x")
    await queue.redis.set("agent:run_count:default", "many")
    assert (await queue.submit("t4")).outcome is Submitted.CREATED
    assert (await queue.submit("t5")).outcome is Submitted.CREATED
    assert await queue.listed() == ["t5", "t4"]


def test_what_a_client_says_is_kept_short_or_not_at_all():
    assert write_about({"metadata": {}}) == b""
    assert write_about({"metadata": {"a": 1}}) == b'{"metadata":{"a":1}}'
    assert len(write_about({"metadata": {"a": "b" * 10_000}})) < 200
    assert write_about({"metadata": {f"{n * 7919 % 100_003:05}": n * n for n in range(9_000)}}) == b""
