"""How long a run takes over LangGraph's API, from the request to the answer, and what it costs the two processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import httpx

from benchmarks.measured import Goal, Measured, Measurement, percentile
from benchmarks.measurements.gateway import gateway
from benchmarks.measurements.latency import ping_ms
from benchmarks.rig import BenchmarkError, Rig, client
from benchmarks.systems.contenders import work, worker
from benchmarks.usage import cpu_s

_PAUSE_S = 0.01
"""Between two runs, one at a time, so that the worker blocks again before the next one."""
_MOST_IN_FLIGHT = 100

_NOTE = """\
POST /threads/{thread}/runs/wait (w0: three nodes without model calls, checkpoints on): from the request to the last
byte of the answer. On this workload LangGraph's dev server took 570 ms and Aegra 45 ms at the median, one at a time,
and 6.3 and 25 ms of CPU with 100 in flight, on a quiet machine."""


def measure(rig: Rig) -> Measured:
    """Wait for runs: each on a thread of its own, all on one thread, and many at a time."""
    runs = rig.count(300, 100)
    rows = []
    with (
        rig.redis() as server,
        client(server) as redis,
        worker(rig, server, "api") as serving,
        gateway(rig, server, "api") as (port, process),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        _wait(http, _thread(http), pause_s=0)
        for threads, in_flight in (("new", 1), ("one", 1), ("new", 20), ("new", _MOST_IN_FLIGHT)):
            created = [_thread(http) for _ in range(runs if threads == "new" else 1)]
            before_s = cpu_s(serving.processes), cpu_s([process])
            wait = partial(_wait, http, pause_s=_PAUSE_S if in_flight == 1 else 0)
            with ThreadPoolExecutor(in_flight) as pool:
                waits_ms = list(pool.map(wait, [created[n % len(created)] for n in range(runs)]))
            rows.append(
                {
                    "threads": threads,
                    "in_flight": in_flight,
                    "wait_p50_ms": median(waits_ms),
                    "wait_p99_ms": percentile(waits_ms, 99),
                    "worker_cpu_ms_per_run": (cpu_s(serving.processes) - before_s[0]) / runs * 1000,
                    "gateway_cpu_ms_per_run": (cpu_s([process]) - before_s[1]) / runs * 1000,
                }
            )
        round_trip_ms = ping_ms(redis)
    wait_ms = float(rows[0]["wait_p50_ms"])
    goal = Goal(
        "Run over LangGraph's API, request to answer, p50",
        wait_ms,
        15,
        "ms",
        beside=f"{wait_ms / round_trip_ms:.0f} x a PING",
    )
    return Measured("Runs over LangGraph's API", rows, [goal], _NOTE)


def _thread(http: httpx.Client) -> str:
    return str(http.post("/threads", json={}).raise_for_status().json()["thread_id"])


def _wait(http: httpx.Client, thread: str, *, pause_s: float) -> float:
    time.sleep(pause_s)
    body = {"assistant_id": "w0", "input": work(0)}
    started = time.perf_counter()
    answer = http.post(f"/threads/{thread}/runs/wait", json=body)
    waited_ms = (time.perf_counter() - started) * 1000
    if "__error__" in answer.raise_for_status().json():
        raise BenchmarkError(f"the run failed: {answer.text}")
    return waited_ms


MEASUREMENT = Measurement("langgraph-api", "a run over LangGraph's API, from the request to the answer", measure)
