"""A thread knows its tasks whose time to start has not come, however many others have come and gone since."""

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Submitted
from langgraph_rq.shared.queue.verbs import Multitask, cancel_call, submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.shared.threads.rows import read_call
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis

SINCE = 150
"""More than are looked at of the newest runs of a thread."""
HOUR_MS = 3_600_000


class Late(QueueOnRedis):
    async def is_busy(self):
        return (await scripts.run(self.redis, read_call("t"))).is_busy

    async def cancel(self, task_id):
        call = cancel_call(task_id, State.CANCELLED, b"{}", TIMES, self.now_ms)
        assert (await scripts.run(self.redis, call)).state is State.CANCELLED

    async def send(self, task_id, multitask):
        task = Task.parse({"input": {}, "task_id": task_id, "thread_id": "t"}, TaskLimits())
        return await scripts.run(self.redis, submit_call(task, QUEUE, TIMES, self.now_ms, multitask=multitask))


@pytest.fixture
async def queue(aredis):
    """A queue with a task that is to start in an hour, and others of its thread that came later and have ended."""
    queue = Late(aredis)
    await queue.join()
    await queue.submit("late", thread_id="t", delay_s=3_600)
    for n in range(SINCE):
        await queue.submit(f"n{n}", thread_id="t", delay_s=7_200)
        await queue.cancel(f"n{n}")
    return queue


async def test_thread_is_busy_until_its_late_task_has_ended(queue):
    assert await queue.is_busy()
    assert (await queue.send("other", Multitask.REJECT)).outcome is Submitted.BUSY
    assert await queue.redis.pttl("agent:thread_late:t") > HOUR_MS
    await queue.cancel("late")
    assert not await queue.is_busy()
    assert not await queue.redis.exists("agent:thread_late:t")


async def test_late_task_enters_its_thread_at_its_time(queue):
    queue.now_ms += HOUR_MS
    await queue.renew(join=True)
    await queue.reap()
    assert not await queue.redis.exists("agent:thread_late:t")
    assert await queue.is_busy()
    await queue.finish(await queue.claim_one())
    assert not await queue.is_busy()


async def test_late_task_is_stopped_in_favour_of_a_new_one(queue):
    assert (await queue.send("other", Multitask.INTERRUPT)).stopped == ("late",)


async def test_late_task_whose_hash_another_program_deleted_does_not_keep_its_thread_busy(queue):
    await queue.redis.delete("agent:task:late")
    assert not await queue.is_busy()


async def test_key_of_another_type_keeps_no_task_from_starting_later(queue):
    await queue.redis.set("agent:thread_late:t", "x")
    assert (await queue.submit("another", thread_id="t", delay_s=60)).outcome is Submitted.CREATED
    assert await queue.is_busy()
