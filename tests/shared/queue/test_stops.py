"""How open tasks are stopped: plainly, by rollback, or in favour of a new task of their thread."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Finished
from langgraph_rq.shared.queue.attempts import finish_call
from langgraph_rq.shared.queue.records import RunFilter, list_runs_call, read_runs_call
from langgraph_rq.shared.queue.verbs import Multitask, cancel_call, submit_call
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis


class Stopping(QueueOnRedis):
    async def cancel(self, task_id="t1", state=State.CANCELLED, **options):
        call = cancel_call(task_id, state, b"{}", TIMES, self.now_ms, **options)
        return (await scripts.run(self.redis, call)).state

    async def end(self, claimed, *, is_rolled_back=False):
        call = finish_call(
            claimed, "w1", State.SUCCESS, b"{}", TIMES, is_rolled_back=is_rolled_back, now_ms=self.now_ms
        )
        return await scripts.run(self.redis, call)

    async def supersede(self, task_id, multitask, thread_id="t"):
        task = Task.parse({"input": {}, "task_id": task_id, "thread_id": thread_id}, TaskLimits())
        return await scripts.run(self.redis, submit_call(task, QUEUE, TIMES, self.now_ms, multitask=multitask))

    async def records(self, *task_ids, **only):
        """Return the ids of the tenant's runs that are listed, and of those of `task_ids` that can be read."""
        listed = list_runs_call("default", RunFilter(**only), most_records=TIMES.records)
        page = await scripts.run(self.redis, listed)
        found = await scripts.run(self.redis, read_runs_call(task_ids, "", self.now_ms))
        return [run.key for run in page.runs], [run.key for run in found if run]

    async def listed(self):
        row = await self.redis.hmget("agent:thread_row:t", "run", "graph", "ended")
        return (await self.redis.lrange("agent:thread_runs:t", 0, -1))[::3], row


@pytest.fixture
async def queue(aredis):
    queue = Stopping(aredis)
    await queue.join(graphs={"assistant": "{}", "a graph": "{}"})
    return queue


async def test_task_that_is_rolled_back_ends_only_once_its_worker_has_removed_what_it_wrote(queue):
    await queue.submit("t0", thread_id="t", graph="a graph")
    await queue.end(await queue.claim_one())
    before = await queue.listed()
    assert before == ([b"t0"], [b"t0", b"a graph", b"success"])
    await queue.submit("t1", thread_id="t")
    claimed = await queue.claim_one()
    assert await queue.cancel(rollback=True) is State.RUNNING
    assert await queue.cancel() is State.RUNNING
    assert await queue.end(claimed) is Finished.TO_ROLL_BACK
    assert (await queue.field("state"), await queue.field("cancel")) == (b"running", b"rollback")
    assert await queue.end(claimed, is_rolled_back=True) is Finished.WRITTEN
    assert await queue.listed() == before


async def test_task_that_has_not_begun_is_rolled_back_at_once(queue):
    await queue.submit("t1", thread_id="t")
    assert await queue.cancel(rollback=True) is State.CANCELLED
    assert await queue.listed() == ([], [None, b"assistant", None])


async def test_run_that_is_rolled_back_has_no_record_whether_it_has_begun_or_not(queue):
    for n, thread in enumerate(["t", "t", None, None]):
        await queue.submit(f"t{n}", **({"thread_id": thread} if thread else {}))
        if n % 2 == 0:
            claimed = await queue.claim_one()
            await queue.cancel(claimed.id, rollback=True)
            await queue.end(claimed, is_rolled_back=True)
        else:
            await queue.cancel(f"t{n}", rollback=True)
    await queue.submit("t4", thread_id="t")
    await queue.cancel("t4")
    assert await queue.records(*(f"t{n}" for n in range(5))) == (["t4"], ["t4"])
    assert await queue.records("t4", state=State.CANCELLED) == (["t4"], ["t4"])
    assert (await queue.redis.lrange("agent:thread_runs:t", 0, -1))[::3] == [b"t4"]


async def test_thread_shows_the_graph_of_the_run_before_also_when_only_its_record_is_left(queue):
    await queue.submit("t0", thread_id="t", graph="a graph")
    await queue.end(await queue.claim_one())
    await queue.redis.delete("agent:task:t0")
    await queue.submit("t1", thread_id="t")
    await queue.cancel(rollback=True)
    assert await queue.listed() == ([b"t0"], [b"t0", b"a graph", b"success"])
    terms = {graph: await queue.redis.smembers(f"agent:threads_by:default:graph:{graph}") for graph in
             ("a graph", "assistant")}  # fmt: skip
    assert terms == {"a graph": {b"t"}, "assistant": set()}


async def test_task_that_waits_is_claimed_to_be_rolled_back_also_after_its_deadline(queue):
    await queue.submit("t1", thread_id="t", deadline_s=60)
    await queue.release(await queue.claim_one(), delay_ms=30_000)
    assert await queue.cancel(rollback=True) is State.PENDING
    queue.now_ms += 100_000
    await queue.join(graphs={"assistant": "{}"})
    assert await queue.cancel(state=State.TIMEOUT) is State.PENDING
    claimed = await queue.claim_one()
    assert claimed.is_cancelled
    assert claimed.deadline_at_ms > queue.now_ms


async def test_task_whose_graph_no_worker_serves_for_a_day_ends_without_a_rollback(queue):
    await queue.submit("t1", thread_id="t", deadline_s=60)
    await queue.release(await queue.claim_one(), delay_ms=30_000)
    await queue.cancel(rollback=True)
    queue.now_ms += 100_000
    assert await queue.cancel(state=State.TIMEOUT) is State.PENDING
    queue.now_ms += 86_400_000
    assert await queue.cancel(state=State.TIMEOUT) is State.TIMEOUT


async def test_task_whose_rollback_an_outage_delays_waits_before_it_is_claimed_again(queue):
    await queue.submit("t1", thread_id="t")
    claimed = await queue.claim_one()
    await queue.cancel(rollback=True)
    assert await queue.end(claimed) is Finished.TO_ROLL_BACK
    await queue.release(claimed, wait=AFTER_OUTAGE)
    assert (await queue.claim()).tasks == ()
    queue.now_ms += 5_000
    await queue.reap()
    assert (await queue.claim_one()).is_cancelled


@pytest.mark.parametrize("is_rolled_back", [False, True])
async def test_checkpoints_go_with_the_row_of_a_thread_that_has_a_ttl(queue, is_rolled_back):
    await queue.submit("t1", thread_id="t")
    await queue.redis.hset("agent:thread_row:t", "ttl", 60_000)
    claimed = await queue.claim_one()
    await queue.redis.hset("agent:thread_state:t", "a", "b")
    if is_rolled_back:
        await queue.cancel(rollback=True)
    await queue.end(claimed, is_rolled_back=is_rolled_back)
    assert 0 < await queue.redis.pttl("agent:thread_state:t") <= 60_000


@pytest.mark.parametrize("ends", [False, True])
async def test_thread_with_a_short_ttl_of_which_a_run_is_accepted_is_kept_by_the_next_renewal(queue, ends):
    await queue.submit("t0", thread_id="t")
    claimed = await queue.claim_one()
    await queue.redis.hset("agent:thread_row:t", "ttl", 60_000)
    await queue.redis.hset("agent:thread_state:t", "a", "b")
    await queue.end(claimed)
    await queue.redis.pexpire("agent:thread_state:t", 20_000)
    await queue.submit("t1", thread_id="t")
    if ends:
        await queue.end(await queue.claim_one())
    await queue.renew("w1")
    left_ms = await queue.redis.pttl("agent:thread_state:t")
    assert left_ms <= 60_000 if ends else left_ms > 3_000_000
    assert not await queue.redis.exists("agent:threads_to_keep")


async def test_superseded_task_that_waits_goes_on_to_its_end_also_if_the_reply_is_lost(queue):
    await queue.submit("t1", thread_id="t")
    await queue.release(await queue.claim_one(), delay_ms=3_000_000)
    await queue.supersede("t2", Multitask.INTERRUPT)
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.is_cancelled) == ("t1", True)


async def test_id_that_is_used_again_does_not_supersede_itself(queue):
    await queue.submit("t1", thread_id="t")
    await queue.end(await queue.claim_one())
    await queue.redis.delete("agent:task:t1", *await queue.redis.keys("agent:ids:*"))
    assert (await queue.supersede("t1", Multitask.INTERRUPT)).stopped == ()


async def test_task_is_rolled_back_by_a_worker_that_serves_its_graph(queue):
    await queue.submit("t1", thread_id="t", graph="a graph")
    await queue.release(await queue.claim_one())
    await queue.cancel(rollback=True)
    await queue.join("w2", {"assistant": "{}"})
    assert (await queue.claim("w2")).tasks == ()


@pytest.mark.parametrize(("multitask", "flag"), [(Multitask.INTERRUPT, b"1"), (Multitask.ROLLBACK, b"rollback")])
async def test_new_task_stops_all_open_ones_of_its_thread_once(queue, multitask, flag):
    await queue.submit("t1", thread_id="t")
    await queue.claim_one()
    await queue.submit("t2", thread_id="t")
    await queue.submit("t3", thread_id="t", delay_s=60)
    await queue.submit("t4", thread_id="another")
    assert set((await queue.supersede("t5", multitask)).stopped) == {"t1", "t2", "t3"}
    assert (await queue.supersede("t6", multitask)).stopped == ("t5",)
    flags = [await queue.field("cancel", f"t{number}") for number in range(1, 7)]
    assert flags == [flag, flag, flag, None, flag, None]
    assert await queue.field("cancel_reason") == b"superseded by t5"
