"""The CPU of a task by part, from the differences between systems that alternate in one run."""

from collections.abc import Mapping

from benchmarks.measured import Cell, Measured
from benchmarks.measurements.rounds import Rounds

_NOTE = """\
Differences of medians: graph: bare w0; model client: bare w - bare w0, two calls; queue: worker w0 - bare w0; guards:
(worker w - bare w) - queue; checkpoints: worker w with - worker w without. w ends tasks more evenly than w0, so that
fewer of them share a round trip: what this costs the queue is counted with the guards."""


def cpu_split(rounds: Mapping[str, Rounds]) -> Measured:
    """Split the CPU of a task of w with guards and checkpoints."""
    middle = {name: own.middle("cpu_ms") for name, own in rounds.items()}
    queue = middle["ours w0"] - middle["bare w0"]
    parts = {
        "graph": middle["bare w0"],
        "model client": middle["bare w"] - middle["bare w0"],
        "guards": middle["ours w"] - middle["bare w"] - queue,
        "checkpoints": middle["ours w saved"] - middle["ours w"],
        "queue": queue,
    }
    total = sum(parts.values())
    rows: list[dict[str, Cell]] = [
        {"part": part, "cpu_ms_per_task": cpu_ms, "percent": 100 * cpu_ms / total} for part, cpu_ms in parts.items()
    ]
    rows.append({"part": "all", "cpu_ms_per_task": total, "percent": 100})
    return Measured("CPU of a task of w, guards and checkpoints on", rows, note=_NOTE)
