"""Tasks submitted per second, against stock RQ's own calls in the same run."""

import time
from collections.abc import Callable
from statistics import median

import psutil
from redis import Redis
from rq import Queue
from rq.queue import EnqueueData

from benchmarks.measured import Cell, Measured, Measurement, middle_ratio
from benchmarks.rig import Rig
from benchmarks.systems.contenders import work
from benchmarks.usage import cpu_s
from langgraph_rq.producer.client.client import Client

_ROUNDS = 5
_JOB = "benchmarks.systems.graphs.rq_job.run"


def measure(rig: Rig) -> Measured:
    """Measure the four calls in alternation."""
    many, single = rig.count(2_000, 500), rig.count(500, 200)
    with rig.redis() as server, Client(server.url) as ours, Redis.from_url(server.url) as redis:
        stock = Queue("stock", connection=redis)
        calls: dict[str, tuple[int, Callable[[int], object]]] = {
            "Queue.enqueue (RQ)": (single, lambda n: [stock.enqueue(_JOB, "w0", work(i)) for i in range(n)]),
            "Client.submit": (single, lambda n: [ours.submit(work(i), graph="w0") for i in range(n)]),
            "Queue.enqueue_many (RQ)": (many, lambda n: stock.enqueue_many([_job(i) for i in range(n)])),
            "Client.submit_many": (
                many,
                lambda n: ours.submit_many({"graph": "w0", "input": work(i)} for i in range(n)),
            ),
        }
        per_s: dict[str, list[float]] = {name: [] for name in calls}
        redis_s = dict.fromkeys(calls, 0.0)
        process = psutil.Process(server.pid)
        turns = [turn for _ in range(_ROUNDS) for turn in calls.items()]
        for name, (n, call) in rig.track("calls in turns", turns, len(turns)):
            before_s, started = cpu_s([process]), time.perf_counter()
            call(n)
            per_s[name].append(n / (time.perf_counter() - started))
            redis_s[name] += cpu_s([process]) - before_s
    floors = dict(zip(calls, ["Queue.enqueue (RQ)"] * 2 + ["Queue.enqueue_many (RQ)"] * 2, strict=True))
    rows: list[dict[str, Cell]] = [
        {
            "call": name,
            "tasks_per_s": median(per_s[name]),
            "redis_us_per_task": redis_s[name] / calls[name][0] / _ROUNDS * 1e6,
            "speed_x_rq": middle_ratio(per_s[name], per_s[floors[name]]),
        }
        for name in calls
    ]
    return Measured(
        "Submitting from one process", rows, note="A submit checks the task and is idempotent; RQ's are neither."
    )


def _job(number: int) -> EnqueueData:
    return Queue.prepare_data(_JOB, args=("w0", work(number)))


MEASUREMENT = Measurement("submitting", "tasks per second that one producer puts on the queue", measure)
