"""The memory of a queued task in Redis."""

from redis import Redis

from benchmarks.measured import Cell, Goal, Measured, Measurement
from benchmarks.rig import Rig, client
from benchmarks.systems.contenders import work
from langgraph_rq.producer.client.client import Client
from langgraph_rq.shared.queue.keys import job_hash, task_hash

_BATCH = 1_000
_MILLION = 1_000_000
_USERS = 1_000


def measure(rig: Rig) -> Measured:
    """Fill an empty Redis with tasks, without a worker."""
    tasks = _MILLION if rig.full else rig.count(100_000, 4_000)
    with rig.redis() as server, client(server) as redis, Client(server.url) as producer:
        used = {0: _used_bytes(redis)}
        for start in rig.track("thousand tasks", range(0, tasks, _BATCH), tasks // _BATCH):
            receipts = producer.submit_many(
                {"input": work(number), "user_id": f"user-{number % _USERS}"} for number in range(start, start + _BATCH)
            )
            used[start + _BATCH] = _used_bytes(redis)
        task_id = receipts[-1].task_id
        task, job = (int(redis.memory_usage(key(task_id)) or 0) for key in (task_hash, job_hash))
    slope = (used[tasks] - used[tasks // 2]) / (tasks - tasks // 2)
    rows: list[dict[str, Cell]] = [
        {"part": "hash of the task", "bytes_per_task": task},
        {"part": "hash of RQ's job, with the input", "bytes_per_task": job},
        {"part": f"all, of {tasks:,} tasks", "bytes_per_task": (used[tasks] - used[0]) / tasks},
        {"part": f"all, of each task after the first {tasks // 2:,}", "bytes_per_task": slope},
    ]
    million_bytes = used[tasks] + slope * (_MILLION - tasks)
    how = "measured" if tasks == _MILLION else f"measured with {tasks:,}, the rest by the slope of the second half"
    note = f"Tasks of {_USERS:,} users, with an input of {len(str(work(tasks)))} bytes. --full queues 1,000,000."
    return Measured(
        "Memory of the queue", rows, [Goal("1,000,000 queued tasks", million_bytes / 1e9, 2.0, "GB", beside=how)], note
    )


def _used_bytes(redis: Redis) -> int:
    memory = redis.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_aof_buffer"])


MEASUREMENT = Measurement("queue-memory", "bytes of Redis for each queued task", measure)
