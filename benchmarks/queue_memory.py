"""What a queued task takes in Redis."""

from redis import Redis

from benchmarks.contenders import work
from benchmarks.measured import Cell, Goal, Measured, Measurement
from benchmarks.rig import Rig, client
from producer.client import Client
from shared.task_queue import job_hash, task_hash

_BATCH = 1_000
_MILLION = 1_000_000


def measure(rig: Rig) -> Measured:
    """Fill an empty Redis with tasks that nobody takes."""
    tasks = rig.count(100_000, 20_000)
    with rig.redis() as server, client(server) as redis, Client(server.url) as producer:
        before_bytes = _used(redis)
        batches = range(0, tasks, _BATCH)
        for start in rig.track("thousand tasks", batches, len(batches)):
            receipts = producer.submit_many(
                {"input": work(number), "user_id": "ann"} for number in range(start, start + _BATCH)
            )
        per_task = (_used(redis) - before_bytes) / tasks
        task_id = receipts[-1].task_id
        task, job = (int(redis.memory_usage(key(task_id)) or 0) for key in (task_hash, job_hash))
    rows: list[dict[str, Cell]] = [
        {"part": "hash of the task", "bytes_per_task": task},
        {"part": "hash of RQ's job, with the input", "bytes_per_task": job},
        {"part": "all, lists and Redis' own tables included", "bytes_per_task": per_task},
    ]
    goal = Goal("1,000,000 queued tasks", per_task * _MILLION / 1e9, 2.0, "GB")
    note = f"Measured with {tasks:,} tasks with an input of {len(str(work(tasks)))} bytes, scaled to 1,000,000."
    return Measured("Memory of the queue", rows, [goal], note)


def _used(redis: Redis) -> int:
    memory = redis.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_aof_buffer"])


MEASUREMENT = Measurement("queue-memory", "bytes of Redis for each queued task", measure)
