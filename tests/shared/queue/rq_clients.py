"""What RQ's own clients do beside our tasks, for the tests of jobs and of emptied queues."""

from datetime import UTC, datetime

from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.attempts import adopt_call, finish_call
from langgraph_rq.shared.queue.upkeep import reap_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.results import ResultMetadata, TaskResult
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from tests.shared.queue.test_task_queue import QUEUE
from tests.shared.queue.test_task_queue_turns import Turns

REGISTRIES = {State.ERROR: FailedJobRegistry, State.SUCCESS: FinishedJobRegistry, State.CANCELLED: CanceledJobRegistry}
STATUS = {State.ERROR: "failed", State.SUCCESS: "finished", State.CANCELLED: "canceled"}
TIMES = QueueTimes()


class Tasks(Turns):
    async def end(self, task_id="t1", state=State.ERROR):
        """Submit a task and let it end in `state`."""
        await self.submit(task_id)
        if state is State.CANCELLED:
            await self.cancel(task_id)
            return
        result = TaskResult.encode(
            task_id=task_id,
            status=state,
            metadata=ResultMetadata(graph="assistant", attempts=1, queued_ms=1, run_ms=1, worker="w1"),
            submitted_at="2026-11-22T13:15:02.114Z",
            started_at="2026-11-22T13:15:03Z",
            ended_at="2026-11-22T13:15:04.5Z",
        )
        call = finish_call(await self.claim_one(), "w1", state, result, TIMES, failure="it broke", now_ms=self.now_ms)
        await scripts.run(self.redis, call)

    async def reap_scheduled(self):
        return await scripts.run(self.redis, reap_call(now_ms=self.now_ms, queues=[QUEUE]))

    async def adopt(self, claimed, **options):
        task = Task.parse({"input": {}, "task_id": claimed.id}, TaskLimits())
        return await scripts.run(self.redis, adopt_call(claimed, "w1", task, self.times, now_ms=self.now_ms, **options))


def fetch(rq, job_id="t1"):
    return Job.fetch(job_id, connection=rq.connection, serializer=JSONSerializer)


def listed(rq, registry, *, cleanup=False):
    return registry(queue=rq).get_job_ids(cleanup=cleanup)


def enqueue(rq, job_id="t1", **options):
    task = {"input": {"secret": 1}}
    return rq.enqueue("langgraph_rq.run_task", task, job_id=job_id, **options)


def enqueue_at(rq, at_s, job_id, **options):
    at = datetime.fromtimestamp(at_s, UTC)
    rq.enqueue_at(at, "langgraph_rq.run_task", {"input": {}}, job_id=job_id, **options)


async def waiting(queue, *, users=("ann", "bob"), tasks=5):
    """Submit tasks of some users, of which the queue's list holds one."""
    for user in users:
        for number in range(tasks):
            await queue.submit(f"{user}{number}", user_id=user)
    return {f"{user}{number}" for user in users for number in range(tasks)}


async def sweep_all(queue, n=7):
    """Sweep until nothing is left to do; return what was removed, and so cancelled, and what was queued again."""
    removed, again = set(), set()
    for _ in range(20):
        swept = await queue.sweep(n)
        for task_id in swept.removed:
            assert await queue.cancel(task_id) is State.CANCELLED
        removed |= set(swept.removed)
        again |= set(swept.again)
    return removed, again
