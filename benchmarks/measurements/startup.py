"""The time until a worker is ready, and its CPU while idle."""

import time
from statistics import median

from benchmarks.measured import Goal, Measured, Measurement, middle_ratio
from benchmarks.rig import Rig, client
from benchmarks.systems.contenders import worker
from benchmarks.usage import cpu_s
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

_IMPORTS = "import langgraph.graph, langchain_openai, redis"
_NOTE = f"""\
Imports alone: python -c "{_IMPORTS}". Ready: from the start of the process until it has joined the fleet.
Idle: CPU and commands of one worker that waits for tasks."""


def measure(rig: Rig) -> Measured:
    """Start workers, alternating with a Python that only imports the libraries; then measure an idle one."""
    rounds = rig.count(3, 1)
    imports_s, ready_s = [], []
    with rig.redis() as server:
        for _ in rig.track("starts", range(rounds), rounds):
            started = time.perf_counter()
            with rig.process("imports", "-c", _IMPORTS) as process:
                process.wait()
            imports_s.append(time.perf_counter() - started)
            started = time.perf_counter()
            with worker(rig, server, "idle"):
                ready_s.append(time.perf_counter() - started)
        idle_cpu_percent, idle_commands_per_s = _idle(rig, server, rig.count(10, 3))
    ready_x_imports = middle_ratio(ready_s, imports_s)
    row = {
        "imports_alone_s": median(imports_s),
        "ready_s": median(ready_s),
        "ready_x_imports": ready_x_imports,
        "idle_cpu_percent": idle_cpu_percent,
        "idle_commands_per_s": idle_commands_per_s,
    }
    goals = [
        Goal("Worker ready", median(ready_s), 4.0, "s", beside=f"{ready_x_imports:.2f} x importing the libraries"),
        Goal("CPU of an idle worker", idle_cpu_percent, 1.0, "%"),
    ]
    return Measured("Start and idleness of a worker", [row], goals, _NOTE)


def _idle(rig: Rig, server: EmbeddedRedis, seconds: int) -> tuple[float, float]:
    with worker(rig, server, "idle") as idle, client(server) as redis:
        cpu_before_s, commands_before = cpu_s(idle.processes), redis.info("stats")["total_commands_processed"]
        for _ in rig.track("idle seconds", range(seconds), seconds):
            time.sleep(1)
        commands = redis.info("stats")["total_commands_processed"] - commands_before - 1  # that one is ours
        return (cpu_s(idle.processes) - cpu_before_s) * 100 / seconds, commands / seconds


MEASUREMENT = Measurement("startup", "time until a worker is ready, CPU and commands while it is idle", measure)
