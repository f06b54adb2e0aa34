"""One gateway process with thousands of open event streams: the delay until a client sees a result."""

import asyncio
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import psutil

from benchmarks.measured import Goal, Measured, Measurement, percentile
from benchmarks.rig import BenchmarkError, Rig
from benchmarks.systems.contenders import work, worker
from benchmarks.usage import PeakRss, cpu_s
from langgraph_rq.producer.client.client import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.settings import QueueSettings

TASKS_PER_S = 100
_OPENED_AT_ONCE = 50
_SPARE_FILES = 500

_NOTE = """\
Streams: open event streams of tasks that wait. Beside them 100 tasks/s (noop, no model calls) are posted to the same
process, each with a stream of its own, followed to its end. Seen: from the instant in Redis at which the result was
written to the line `event: end` at the client; up to 1 ms too long, since that instant is in whole milliseconds. The
client that keeps all streams open, the worker and Redis share the machine."""


def measure(rig: Rig) -> Measured:
    """Open the streams, post tasks at a steady rate, and record when each end is seen."""
    streams, tasks = rig.count(2_000, 500), rig.count(2_000, 500)
    _allow_files(streams + _SPARE_FILES)
    with rig.redis() as server, worker(rig, server, "busy", checkpoints=False):
        with Client(server.url, queue=QueueSettings(queue="idle")) as producer:
            waiting = [one.task_id for one in producer.submit_many([{"input": {}, "graph": "noop"}] * streams)]
        with gateway(rig, server, "busy") as (port, process), PeakRss([process]) as peak:
            load = _load(port, waiting, tasks, lambda: cpu_s([process]))
            seen_ms, cpu_per_task_ms = asyncio.run(load)
    row = {
        "streams": streams,
        "tasks_per_s": TASKS_PER_S,
        "seen_p50_ms": median(seen_ms),
        "seen_p99_ms": percentile(seen_ms, 99),
        "seen_max_ms": max(seen_ms),
        "gateway_cpu_ms_per_task": cpu_per_task_ms,
        "gateway_rss_mb": peak.bytes / 1e6,
    }
    goals = [
        Goal(f"Result written to seen over HTTP, p99, {streams:,} streams", row["seen_p99_ms"], 100, "ms"),
        Goal(f"Memory of a gateway with {streams:,} streams", row["gateway_rss_mb"], 400, "MB"),
    ]
    return Measured("A gateway with many event streams", [row], goals, _NOTE)


@contextmanager
def gateway(rig: Rig, server: EmbeddedRedis, queue: str) -> Iterator[tuple[int, psutil.Popen]]:
    """Start a gateway without keys; gives its port and its process."""
    port = _free_port()
    environment = {
        "REDIS_URL": server.url,
        "LGRQ_QUEUE": queue,
        "LGRQ_GATEWAY_WITHOUT_KEYS": "true",
        "LGRQ_GATEWAY_RATE": "none",
    }
    arguments = ["-m", "langgraph_rq.producer", "serve", "--port", str(port)]
    with rig.process("gateway", *arguments, environment=environment) as process:
        rig.wait_until("gateway", process, partial(_listens, port))
        yield port, process


async def _load(
    port: int, waiting: list[str], tasks: int, gateway_cpu_s: Callable[[], float]
) -> tuple[list[float], float]:
    """Keep a stream open per waiting task; post and follow `tasks` more; return ms each, and CPU ms per task."""
    opening = asyncio.Semaphore(_OPENED_AT_ONCE)
    kept = await asyncio.gather(*(_open(port, task_id, opening) for task_id in waiting))
    before_s, started = gateway_cpu_s(), time.monotonic()
    running = []
    for number in range(tasks):
        await asyncio.sleep(max(0.0, started + number / TASKS_PER_S - time.monotonic()))
        running.append(asyncio.create_task(_post_and_follow(port, number)))
    seen_ms = await asyncio.gather(*running)
    used_s = gateway_cpu_s() - before_s
    for _, writer in kept:
        writer.close()
    return seen_ms, used_s / tasks * 1000


async def _open(
    port: int, task_id: str, opening: asyncio.Semaphore
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with opening:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status = await reader.readline()
        if b" 200 " not in status:
            raise BenchmarkError(f"the gateway answered {status!r} to an event stream")
        return reader, writer


async def _post_and_follow(port: int, number: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"input": work(number), "graph": "noop"})
    head = "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = (await reader.read()).decode()
    writer.close()
    task_id = json.loads(answer.partition("\r\n\r\n")[2])["task_id"]
    reader, writer = await _open(port, task_id, asyncio.Semaphore())
    place = b""
    async for line in reader:
        if line.startswith(b"id: "):
            place = line[4:]
        if line.startswith(b"event: end"):
            break
    seen_ms = time.time() * 1000 - int(place.split(b"-")[0])
    writer.close()
    return seen_ms


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _allow_files(count: int) -> None:
    """Raise the limit of open files, which the gateway inherits; each stream is one on both sides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
        )


MEASUREMENT = Measurement("gateway", "result to HTTP client, with 2,000 open event streams on one process", measure)
