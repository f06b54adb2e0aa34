"""How many tasks a second, at what cost in CPU and memory, against the bare graph in the same run."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import psutil

from benchmarks.contenders import Contender, floor, stock_rq, worker
from benchmarks.measured import Cell, Goal, Measured, Measurement, middle_ratio
from benchmarks.rig import Rig
from benchmarks.usage import PeakRss, cpu_s
from shared.embedded_redis import EmbeddedRedis

_BARE, _OURS, _RQ = "bare graph", "worker", "rq worker-pool -n 8"
_ROUNDS = 3
_SETTLE_S = 0.2
"""What a system does just after the last result, such as forgetting checkpoints, is a cost of the tasks."""

_NOTE = """\
w: three nodes, two calls of a model that takes 0.5 s; w0: the same without calls. 100 in flight per process.
CPU is that of the system's own processes; Redis, the model server and the producer are not in it.
x: the median of the ratios within each round; same: to the bare graph with as many processes and the same checkpoints;
bare: to the bare graph in one process without checkpoints."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One system on one workload. `same` names the entry of the bare graph that it is compared with first."""

    system: str
    workload: str
    contender: Contender
    tasks: int
    same: str
    checkpoints: bool = False
    rounds: int = _ROUNDS

    @property
    def bare(self) -> str:
        """The entry of the bare graph in one process without checkpoints."""
        return f"bare {self.workload}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one entry; CPU in milliseconds per task."""

    tasks_per_s: float
    cpu_ms: float
    redis_ms: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """All rounds of one entry."""

    samples: Sequence[Sample]

    def all(self, figure: str) -> list[float]:
        """List a figure, round by round."""
        return [getattr(sample, figure) for sample in self.samples]

    def middle(self, figure: str) -> float:
        """Answer a figure's median."""
        return median(self.all(figure))

    def times(self, other: "Rounds", figure: str) -> float:
        """Divide by another entry's figure."""
        return middle_ratio(self.all(figure), other.all(figure))


def measure(rig: Rig) -> Measured:
    """Let all systems take turns on one Redis and one model server."""
    with ExitStack() as stack:
        server = stack.enter_context(rig.redis())
        entries = _line_up(rig, stack, server)
        for entry in entries.values():
            if entry.system != _RQ:  # its forks keep nothing warm
                entry.contender.prepare(entry.workload, 200)()
        turns = [
            (name, entry) for n in range(rig.count(_ROUNDS, 1)) for name, entry in entries.items() if n < entry.rounds
        ]
        samples: dict[str, list[Sample]] = {name: [] for name in entries}
        for name, entry in rig.track("systems in turns", turns, len(turns)):
            samples[name].append(_sample(entry, psutil.Process(server.pid)))
    rounds = {name: Rounds(own) for name, own in samples.items()}
    return Measured(
        "Throughput", [_row(entries[name], rounds[name], rounds) for name in entries], _goals(rounds), _NOTE
    )


def _line_up(rig: Rig, stack: ExitStack, server: EmbeddedRedis) -> dict[str, Entry]:
    enter, n = stack.enter_context, rig.count
    bare, bare_saved, bare_two = enter(floor(rig)), enter(floor(rig, checkpoints=server)), enter(floor(rig, 2))
    ours, ours_saved = enter(worker(rig, server, "plain", checkpoints=False)), enter(worker(rig, server, "saved"))
    ours_two = enter(worker(rig, server, "two", checkpoints=False, processes=2))
    rq = enter(stock_rq(rig, server))
    no_calls, no_calls_saved, calls, few = n(3_000, 1_000), n(600, 300), n(500, 200), n(40, 16)
    return {
        "bare w0": Entry(_BARE, "w0", bare, no_calls, "bare w0"),
        "ours w0": Entry(_OURS, "w0", ours, no_calls, "bare w0"),
        "bare w0 saved": Entry(_BARE, "w0", bare_saved, no_calls_saved, "bare w0 saved", checkpoints=True),
        "ours w0 saved": Entry(_OURS, "w0", ours_saved, no_calls_saved, "bare w0 saved", checkpoints=True),
        "rq w0": Entry(_RQ, "w0", rq, few, "bare w0", rounds=1),
        "bare w": Entry(_BARE, "w", bare, calls, "bare w"),
        "ours w": Entry(_OURS, "w", ours, calls, "bare w"),
        "bare w saved": Entry(_BARE, "w", bare_saved, calls, "bare w saved", checkpoints=True),
        "ours w saved": Entry(_OURS, "w", ours_saved, calls, "bare w saved", checkpoints=True),
        "bare w two": Entry(f"{_BARE} x 2", "w", bare_two, 2 * calls, "bare w two"),
        "ours w two": Entry(f"{_OURS} --processes 2", "w", ours_two, 2 * calls, "bare w two"),
        "rq w": Entry(_RQ, "w", rq, few, "bare w", rounds=1),
    }


def _sample(entry: Entry, redis: psutil.Process) -> Sample:
    own = entry.contender.processes
    run = entry.contender.prepare(entry.workload, entry.tasks)
    own_before_s, redis_before_s = cpu_s(own), cpu_s([redis])
    with PeakRss(own) as peak:
        started = time.perf_counter()
        run()
        elapsed_s = time.perf_counter() - started
    time.sleep(_SETTLE_S)
    return Sample(
        tasks_per_s=entry.tasks / elapsed_s,
        cpu_ms=(cpu_s(own) - own_before_s) * 1000 / entry.tasks,
        redis_ms=(cpu_s([redis]) - redis_before_s) * 1000 / entry.tasks,
        rss_mb=peak.bytes / 1e6,
    )


def _row(entry: Entry, own: Rounds, rounds: Mapping[str, Rounds]) -> dict[str, Cell]:
    return {
        "workload": entry.workload,
        "system": entry.system,
        "checkpoints": "on" if entry.checkpoints else "off",
        "tasks_per_s": own.middle("tasks_per_s"),
        "cpu_ms_per_task": own.middle("cpu_ms"),
        "redis_ms_per_task": own.middle("redis_ms"),
        "rss_mb": max(own.all("rss_mb")),
        "speed_x_same": own.times(rounds[entry.same], "tasks_per_s"),
        "cpu_x_same": own.times(rounds[entry.same], "cpu_ms"),
        "cpu_x_bare": own.times(rounds[entry.bare], "cpu_ms"),
    }


def _goals(rounds: Mapping[str, Rounds]) -> list[Goal]:
    ours, bare = rounds["ours w0"], rounds["bare w0"]
    faster = {work: rounds[f"ours {work}"].times(rounds[f"rq {work}"], "tasks_per_s") for work in ("w0", "w")}
    return [
        Goal(
            "CPU of w, no checkpoints, to the bare graph", rounds["ours w"].times(rounds["bare w"], "cpu_ms"), 1.5, "x"
        ),
        Goal(
            "CPU of w, checkpoints, to the bare graph with the same",
            rounds["ours w saved"].times(rounds["bare w saved"], "cpu_ms"),
            1.5,
            "x",
        ),
        Goal("Bookkeeping: CPU of w0 beyond the bare graph", ours.middle("cpu_ms") - bare.middle("cpu_ms"), 1.0, "ms"),
        Goal("No-op tasks of one process", ours.middle("tasks_per_s"), 700, "per s", is_upper=False),
        Goal("Tasks/s of w to stock RQ", faster["w"], 50, "x", is_upper=False),
        Goal("Tasks/s of w0 to stock RQ", faster["w0"], 50, "x", is_upper=False),
        Goal("Memory with 100 in flight", rounds["ours w saved"].middle("rss_mb"), 300, "MB"),
    ]


MEASUREMENT = Measurement("throughput", "tasks per second, CPU and memory against the bare graph and stock RQ", measure)
