"""How soon a worker is ready, and what it costs while there is nothing to do."""

import time
from statistics import median

from benchmarks.contenders import worker
from benchmarks.measured import Goal, Measured, Measurement, middle_ratio
from benchmarks.rig import Rig, client
from benchmarks.usage import cpu_s
from shared.embedded_redis import EmbeddedRedis

_IMPORTS = "import langgraph.graph, langchain_openai, redis"
_NOTE = f"""\
Imports alone: python -c "{_IMPORTS}". Ready: from the start of the process until it has joined the fleet.
Idle: CPU and commands of one worker that waits for tasks."""


def measure(rig: Rig) -> Measured:
    """Start workers, in turns with a Python that only imports the libraries; then let one be idle."""
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
        idle = _idle(rig, server, rig.count(10, 4))
    row = {
        "imports_alone_s": median(imports_s),
        "ready_s": median(ready_s),
        "ready_x_imports": middle_ratio(ready_s, imports_s),
        **idle,
    }
    return Measured("Start and idleness of a worker", [row], [Goal("Worker ready", median(ready_s), 4.0, "s")], _NOTE)


def _idle(rig: Rig, server: EmbeddedRedis, seconds: int) -> dict[str, float]:
    with worker(rig, server, "idle") as idle, client(server) as redis:
        cpu_before_s, commands_before = cpu_s(idle.processes), redis.info("stats")["total_commands_processed"]
        for _ in rig.track("idle seconds", range(seconds), seconds):
            time.sleep(1)
        commands = redis.info("stats")["total_commands_processed"] - commands_before - 1  # that one is ours
        return {
            "idle_cpu_ms_per_s": (cpu_s(idle.processes) - cpu_before_s) * 1000 / seconds,
            "idle_commands_per_s": commands / seconds,
        }


MEASUREMENT = Measurement("startup", "time until a worker is ready, CPU and commands while it is idle", measure)
