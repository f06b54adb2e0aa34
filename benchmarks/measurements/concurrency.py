"""Tasks per second and memory of one process against the limit of tasks in flight."""

from dataclasses import replace

from benchmarks.measured import Cell, Measured, Measurement
from benchmarks.measurements.rounds import Entry
from benchmarks.measurements.throughput import sample
from benchmarks.rig import Rig
from benchmarks.systems.contenders import Contender, floor, worker

_CONCURRENCIES = (1, 10, 30, 100, 300)
_QUICK = (1, 30)
_MOST_TASKS = 400
_WAVES = 4
"""Tasks of one round to those in flight, as long as there are not too many."""

_NOTE = """\
Workload w, one process each, one round. The worker: guards and checkpoints on. The bare graph: neither of them."""


def measure(rig: Rig) -> Measured:
    """Run w with rising concurrency, alternating with the bare graph."""
    rows: list[dict[str, Cell]] = []
    concurrencies = rig.count(_CONCURRENCIES, _QUICK)
    with rig.redis() as server, floor(rig) as bare:
        bare.prepare("w", _MOST_TASKS // 4)()
        for concurrency in rig.track("concurrencies", concurrencies, len(concurrencies)):
            name = f"at-{concurrency}"
            with worker(rig, server, name, LGRQ_WORKER_CONCURRENCY=str(concurrency)) as ours:
                ours.prepare("w", min(concurrency, _MOST_TASKS // 4))()
                systems: dict[str, Contender] = {
                    "bare graph": replace(bare, concurrency=concurrency),
                    "worker": ours,
                }
                rows += [_row(system, contender, concurrency) for system, contender in systems.items()]
    return Measured("Concurrency", rows, note=_NOTE)


def _row(system: str, contender: Contender, concurrency: int) -> dict[str, Cell]:
    tasks = min(_WAVES * concurrency, _MOST_TASKS)
    one = sample(Entry(system, "w", contender, tasks, "bare w"))
    return {
        "in_flight": concurrency,
        "system": system,
        "tasks_per_s": one.tasks_per_s,
        "cpu_ms_per_task": one.cpu_ms,
        "rss_mb": one.rss_mb,
    }


MEASUREMENT = Measurement("concurrency", "tasks per second and memory against tasks in flight; makes the plot", measure)
