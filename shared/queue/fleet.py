"""What the fleet is doing: its live workers and its queues. Reading changes nothing, unlike RQ's own `rq info`."""

from dataclasses import dataclass
from typing import Any

from redis import Redis

from langgraph_rq.shared.queue.keys import DELAYED, OPEN, RQ_QUEUES, WORKERS, own_key, rq_worker_key

_QUEUE = "rq:queue:"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process whose lease is live. Counts are since it started."""

    name: str
    state: str
    """RQ's word: idle, busy or suspended."""
    queues: tuple[str, ...]
    in_flight: int
    succeeded: int
    failed: int
    lease_left_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet at one instant.

    `runnable` is the length of each RQ queue: it holds one id per user, whose other tasks wait behind it. Every task
    that has not ended is counted once in `pending`, `delayed` or `in_flight`.
    """

    workers: tuple[WorkerStatus, ...]
    runnable: dict[str, int]
    pending: int
    delayed: int
    in_flight: int


def read_fleet(redis: Redis) -> Fleet:
    """Read the live workers and the queues in two round trips."""
    first = redis.pipeline(transaction=False)
    first.time()
    first.zrange(WORKERS, 0, -1, withscores=True)
    first.smembers(RQ_QUEUES)
    first.zcard(OPEN)
    first.zcard(DELAYED)
    (seconds, microseconds), leases, queue_keys, is_open, delayed = first.execute()
    now_ms = seconds * 1000 + microseconds / 1000
    live = [(name.decode(), ends_ms - now_ms) for name, ends_ms in leases if ends_ms > now_ms]
    queues = sorted(key.decode().removeprefix(_QUEUE) for key in queue_keys)
    second = redis.pipeline(transaction=False)
    for name, _ in live:
        second.scard(own_key(name))
        second.hmget(rq_worker_key(name), "state", "queues", "successful_job_count", "failed_job_count")
    for queue in queues:
        second.llen(_QUEUE + queue)
    replies = second.execute()
    workers = tuple(_worker(*live[i], *replies[2 * i : 2 * i + 2]) for i in range(len(live)))
    in_flight = sum(worker.in_flight for worker in workers)
    return Fleet(
        workers,
        dict(zip(queues, replies[2 * len(live) :], strict=True)),
        max(0, is_open - in_flight - delayed),
        delayed,
        in_flight,
    )


def _worker(name: str, lease_left_ms: float, in_flight: int, fields: list[Any]) -> WorkerStatus:
    state, queues, succeeded, failed = (field.decode() if field else "" for field in fields)
    return WorkerStatus(
        name,
        state or "unknown",
        tuple(queues.split(",")) if queues else (),
        in_flight,
        int(succeeded or 0),
        int(failed or 0),
        round(lease_left_ms / 1000, 3),
    )
