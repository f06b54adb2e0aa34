"""How long an idle worker takes to start a task, and a waiter to see its result."""

import time
from statistics import median
from typing import Any

from redis import Redis

from benchmarks.measured import Cell, Goal, Measured, Measurement, percentile
from benchmarks.rig import Rig, client
from benchmarks.systems.contenders import Worker, work, worker
from langgraph_rq.shared.queue.keys import events_key

_PAUSE_S = 0.01
"""Between two tasks, so that the worker blocks again before the next one."""
_PINGS = 1_000

_NOTE = """\
One task at a time (w0, no model calls) over loopback TCP. Start: from the call of submit to the first line of the first
node. Seen: from the instant in Redis at which the result was written to the return of wait; up to 1 ms too long, since
that instant is in whole milliseconds."""


def measure(rig: Rig) -> Measured:
    """Submit and wait, one after another."""
    rows: list[dict[str, Cell]] = []
    goals: list[Goal] = []
    with rig.redis() as server, client(server) as redis:
        for checkpoints in ("off", "on"):
            with worker(rig, server, "idle", checkpoints=checkpoints == "on") as idle:
                start_ms, seen_ms = _sample(rig, idle, redis, rig.count(300, 100))
            round_trip_ms, start_p50_ms = ping_ms(redis), median(start_ms)
            rows.append(
                {
                    "checkpoints": checkpoints,
                    "start_p50_ms": start_p50_ms,
                    "start_p99_ms": percentile(start_ms, 99),
                    "seen_p50_ms": median(seen_ms),
                    "seen_p99_ms": percentile(seen_ms, 99),
                    "ping_p50_ms": round_trip_ms,
                }
            )
            goals += [
                Goal(
                    f"Submit to node start, p50, checkpoints {checkpoints}",
                    start_p50_ms,
                    10,
                    "ms",
                    beside=f"{start_p50_ms / round_trip_ms:.0f} x a PING",
                ),
                *(
                    Goal(
                        f"Result written to seen by a waiter, p{percent}, checkpoints {checkpoints}",
                        percentile(seen_ms, percent),
                        10,
                        "ms",
                        beside=f"{percentile(seen_ms, percent) / round_trip_ms:.0f} x a PING",
                    )
                    for percent in (50, 99)
                ),
            ]
    return Measured("Latency of an idle worker", rows, goals, _NOTE)


def _sample(rig: Rig, idle: Worker, redis: Redis, tasks: int) -> tuple[list[float], list[float]]:
    start_ms, seen_ms = [], []
    with idle.client() as producer:
        for number in rig.track("tasks, one at a time", range(tasks), tasks):
            time.sleep(_PAUSE_S)
            submitted_ns = time.monotonic_ns()
            task = producer.submit(work(number), graph="w0")
            result = producer.wait(task.task_id, timeout_s=30)
            seen_at_ms = time.time() * 1000
            events: Any = redis.xrevrange(events_key(task.task_id), count=1)
            start_ms.append((result.result["started_ns"] - submitted_ns) / 1e6)
            seen_ms.append(seen_at_ms - int(events[0][0].split("-")[0]))
    return start_ms, seen_ms


def ping_ms(redis: Redis) -> float:
    """Measure the median of PINGs."""
    waits_ms = []
    for _ in range(_PINGS):
        started = time.perf_counter()
        redis.ping()
        waits_ms.append((time.perf_counter() - started) * 1000)
    return median(waits_ms)


MEASUREMENT = Measurement("latency", "submit to node start and result to waiter, with an idle worker", measure)
