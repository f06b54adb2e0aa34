"""The cost of telemetry: logs, metrics, traces and the audit log, against a worker without them."""

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.measured import Cell, Goal, Measured, Measurement, middle_ratio
from benchmarks.rig import Rig
from benchmarks.systems.contenders import worker
from benchmarks.usage import cpu_s
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

_PAIRS = 5
_GOAL = 1.10
_OFF = {"LGRQ_LOG_LEVEL": "error"}

_SAME_HASHES = {"PYTHONHASHSEED": "0"}
"""Two processes whose sets and dictionaries collide differently differ by some percent, for as long as they live."""

_NOTE = """\
w: three nodes, two calls of a model that takes 0.5 s; 100 in flight. CPU of the worker's process, per task. On: log
lines at info, metrics on a port, every task traced to a collector, every end in the audit log. Off: none of them.
x: the median of the ratios of pairs of new workers that ran side by side: the machine's own speed changes within
seconds, and of two equal workers that ran one after the other one used up to 15 % more; side by side, up to 2 %."""


def measure(rig: Rig) -> Measured:
    """Run workers with and without telemetry side by side, with checkpoints and without."""
    rows: list[dict[str, Cell]] = []
    goals: list[Goal] = []
    with rig.redis() as server, _collector(rig) as on:
        environments = {"off": _OFF, "on": on}
        for checkpoints in (True, False):
            pairs = rig.count(_PAIRS, 2)
            turns = rig.track(f"checkpoints {'on' if checkpoints else 'off'}", range(pairs), pairs)
            measured = [_measure_pair(rig, server, environments, checkpoints=checkpoints) for _ in turns]
            cpu_ms = {name: [pair[name] for pair in measured] for name in environments}
            ratio = middle_ratio(cpu_ms["on"], cpu_ms["off"])
            rows.append(
                {
                    "checkpoints": "on" if checkpoints else "off",
                    "cpu_off_ms": median(cpu_ms["off"]),
                    "cpu_on_ms": median(cpu_ms["on"]),
                    "x": ratio,
                }
            )
            if checkpoints:
                goals.append(Goal("CPU per task with everything told, against nothing told", ratio, _GOAL, "x"))
    return Measured("Telemetry", rows, goals, _NOTE)


def _measure_pair(
    rig: Rig, server: EmbeddedRedis, environments: Mapping[str, Mapping[str, str]], *, checkpoints: bool
) -> dict[str, float]:
    """Start a worker for each and return the CPU time per task (ms) that each used while all ran."""
    # Of two equal workers one used up to 6 % more over 1,000 tasks, up to 2 % over 3,000.
    tasks, warm_up = rig.count(3_000, 150), rig.count(200, 100)

    def run(name: str) -> tuple[str, float]:
        one = workers[name]
        one.prepare("w", warm_up)()
        start = one.prepare("w", tasks)
        before_s = cpu_s(one.processes)
        start()
        return name, (cpu_s(one.processes) - before_s) * 1000 / tasks

    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker(rig, server, name, checkpoints=checkpoints, **_SAME_HASHES, **environment))
            for name, environment in environments.items()
        }
        with ThreadPoolExecutor(len(workers)) as side_by_side:
            return dict(side_by_side.map(run, workers))


@contextmanager
def _collector(rig: Rig) -> Iterator[dict[str, str]]:
    """Start a collector; yield the settings of a worker with all telemetry."""
    with rig.process("collector", "-m", "benchmarks.measurements.collector", talks=True) as process:
        port = process.stdout.readline().strip()
        with socket.create_server(("127.0.0.1", 0)) as server:
            metrics_port = server.getsockname()[1]
        yield {
            "LGRQ_METRICS_PORT": str(metrics_port),
            "LGRQ_METRICS_HOST": "127.0.0.1",
            "LGRQ_AUDIT_KEY": "a key of the benchmark, as long as it must be",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        }


MEASUREMENT = Measurement("telemetry", "CPU per task with logs, metrics, traces and audit log on, against off", measure)
