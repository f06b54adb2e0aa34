"""How long a worker takes to answer a request about a thread, idle and with all of its slots busy."""

import time
from statistics import median

from benchmarks.measured import Cell, Goal, Measured, Measurement, percentile
from benchmarks.rig import BenchmarkError, Rig
from benchmarks.systems.contenders import CONCURRENCY, Worker, work, worker
from langgraph_rq.producer.client.client import Client
from langgraph_rq.shared.tasks import State

_PAUSE_S = 0.01
_THREAD = "read"
_IDLE_MS, _BUSY_MS = 10, 50
"""The goals, p50."""

_NOTE = """\
Client.threads.state of a thread with five checkpoints, one call at a time, over loopback TCP; a store item likewise.
Busy: 100 tasks of w in flight, which is what one process can do, and more wait."""


def measure(rig: Rig) -> Measured:
    """Ask one after another."""
    rows: list[dict[str, Cell]] = []
    goals: list[Goal] = []
    samples = rig.count(300, 100)
    with rig.redis() as server, worker(rig, server, "threads") as asked, asked.client() as client:
        client.wait(client.submit(work(0), graph="w0", thread_id=_THREAD).task_id, timeout_s=30)
        client.store.put(["bench"], "item", {"text": "x" * 200})
        for slots, limit_ms in ((0, _IDLE_MS), (CONCURRENCY, _BUSY_MS)):
            tasks = _fill(asked, client, samples) if slots else []
            state_ms, item_ms = _sample(rig, client, samples)
            if tasks and client.status(tasks[-1]).state is not State.PENDING:
                raise BenchmarkError("the worker was not busy all the time")
            rows += [
                {"request": name, "slots_busy": slots, "p50_ms": median(ms), "p99_ms": percentile(ms, 99)}
                for name, ms in (("threads.state", state_ms), ("store.get", item_ms))
            ]
            goals.append(Goal(f"A thread's state, p50, {slots} slots busy", median(state_ms), limit_ms, "ms"))
    return Measured("Requests about threads", rows, goals, _NOTE)


def _fill(asked: Worker, client: Client, samples: int) -> list[str]:
    """Submit more tasks than the worker can do while it is asked; return when all of its slots are taken."""
    documents = ({"graph": "w", "input": work(number)} for number in range(CONCURRENCY * (2 + samples // 5)))
    tasks = [receipt.task_id for receipt in client.submit_many(documents)]
    asked.rig.wait_until(
        asked.name, asked.processes[0], lambda: client.status(tasks[CONCURRENCY - 1]).state is State.RUNNING
    )
    return tasks


def _sample(rig: Rig, client: Client, samples: int) -> tuple[list[float], list[float]]:
    state_ms, item_ms = [], []
    for _ in rig.track("requests, one at a time", range(samples), samples):
        time.sleep(_PAUSE_S)
        started = time.perf_counter()
        client.threads.state(_THREAD, graph="w0")
        between = time.perf_counter()
        client.store.get(["bench"], "item")
        state_ms.append((between - started) * 1000)
        item_ms.append((time.perf_counter() - between) * 1000)
    return state_ms, item_ms


MEASUREMENT = Measurement("threads", "requests about threads, of an idle worker and of a busy one", measure)
