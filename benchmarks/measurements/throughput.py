"""Tasks per second, CPU and memory, against the bare graph and other task queues in the same run."""

import time
from collections.abc import Mapping
from contextlib import ExitStack

import psutil

from benchmarks.measured import Cell, Goal, Measured, Measurement
from benchmarks.measurements.cpu_split import cpu_split
from benchmarks.measurements.rounds import Entry, Rounds, Sample
from benchmarks.rig import Rig
from benchmarks.systems.contenders import Contender, floor, worker
from benchmarks.systems.peers import KEPT_LOOP, PRELOADED, PeerMissingError, arq, stock_rq
from benchmarks.usage import PeakRss, cpu_s
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

_BARE, _OURS, _RQ = "bare graph", "worker", "rq worker-pool -n 8"
_ROUNDS = 3
_SETTLE_S = 0.2
"""Work just after the last result, such as expiring checkpoints, counts as a cost of the tasks."""
_WARM_UP = 100

_NOTE = """\
w: three nodes, two calls of a model that takes 0.5 s; w0: the same without calls; noop: one empty node. 100 in flight
per process. CPU is that of the system's own processes; Redis, the model server and the producer are not in it. Each
system has a Redis of its own, so that it pays neither for what others keep there nor for workers that wait.
x: the median of the ratios within each round; same: to the bare graph with as many processes and the same checkpoints;
bare: to the bare graph in one process without checkpoints. Memory of forked processes counts what they share anew.
rq: as it comes, a fork imports the graph for each job; preloaded: imported before the fork; SimpleWorker: without fork,
preloaded, one event loop kept."""


def measure(rig: Rig) -> Measured:
    """Run all systems in alternation, each on a Redis of its own, with one model server."""
    with ExitStack() as stack:
        entries, missing = _line_up(rig, stack)
        for entry in entries.values():
            if entry.is_warm:
                entry.contender.prepare(entry.workload, min(_WARM_UP, entry.tasks))()
        rounds_to_do = rig.count(_ROUNDS, 1)
        turns = [turn for n in range(rounds_to_do) for turn in entries.items() if n == 0 or turn[1].is_warm]
        samples: dict[str, list[Sample]] = {name: [] for name in entries}
        for name, entry in rig.track("systems in turns", turns, len(turns)):
            samples[name].append(sample(entry))
    rounds = {name: Rounds(own) for name, own in samples.items()}
    rows = [_row(entries[name], rounds[name], rounds) for name in entries]
    note = "\n".join([_NOTE, *missing])
    return Measured("Throughput", rows, _goals(rounds), note, [cpu_split(rounds)])


def _line_up(rig: Rig, stack: ExitStack) -> tuple[dict[str, Entry], list[str]]:
    """Start all systems; return the entries in the order in which they run, and the missing peers."""
    enter, n = stack.enter_context, rig.count

    def server() -> EmbeddedRedis:
        return enter(rig.redis())

    bare, bare_saved, bare_two = enter(floor(rig)), enter(floor(rig, checkpoints=server())), enter(floor(rig, 2))
    ours, ours_saved = enter(worker(rig, server(), "plain", checkpoints=False)), enter(worker(rig, server(), "saved"))
    ours_two = enter(worker(rig, server(), "two", checkpoints=False, processes=2))
    forks = enter(stock_rq(rig, server(), "forks"))
    preloaded = enter(stock_rq(rig, server(), "preloaded", *PRELOADED))
    kept_loop = enter(stock_rq(rig, server(), "kept-loop", *KEPT_LOOP))
    no_calls, no_calls_saved, calls, few = n(2_000, 500), n(1_000, 200), n(400, 200), 8
    entries = {
        "bare noop": Entry(_BARE, "noop", bare, no_calls, "bare noop"),
        "ours noop": Entry(_OURS, "noop", ours, no_calls, "bare noop"),
        "bare w0": Entry(_BARE, "w0", bare, no_calls, "bare w0"),
        "ours w0": Entry(_OURS, "w0", ours, no_calls, "bare w0"),
        "bare w0 saved": Entry(_BARE, "w0", bare_saved, no_calls_saved, "bare w0 saved", checkpoints=True),
        "ours w0 saved": Entry(_OURS, "w0", ours_saved, no_calls_saved, "bare w0 saved", checkpoints=True),
        "bare w0 two": Entry(f"{_BARE} x 2", "w0", bare_two, no_calls, "bare w0 two"),
        "ours w0 two": Entry(f"{_OURS} --processes 2", "w0", ours_two, no_calls, "bare w0 two"),
        "kept-loop w0": Entry(f"{_RQ}, SimpleWorker", "w0", kept_loop, no_calls_saved, "bare w0"),
        "preloaded w0": Entry(f"{_RQ}, preloaded", "w0", preloaded, 5 * few, "bare w0", is_warm=False),
        "forks w0": Entry(_RQ, "w0", forks, few, "bare w0", is_warm=False),
        "bare w": Entry(_BARE, "w", bare, calls, "bare w"),
        "ours w": Entry(_OURS, "w", ours, calls, "bare w"),
        "bare w saved": Entry(_BARE, "w", bare_saved, calls, "bare w saved", checkpoints=True),
        "ours w saved": Entry(_OURS, "w", ours_saved, calls, "bare w saved", checkpoints=True),
        "bare w two": Entry(f"{_BARE} x 2", "w", bare_two, calls, "bare w two"),
        "ours w two": Entry(f"{_OURS} --processes 2", "w", ours_two, calls, "bare w two"),
        "kept-loop w": Entry(f"{_RQ}, SimpleWorker", "w", kept_loop, 3 * few, "bare w"),
        "preloaded w": Entry(f"{_RQ}, preloaded", "w", preloaded, 3 * few, "bare w", is_warm=False),
        "forks w": Entry(_RQ, "w", forks, few, "bare w", is_warm=False),
    }
    try:
        peer: Contender = enter(arq(rig, server(), 2))
    except PeerMissingError as missing:
        return entries, [f"{missing}."]
    entries["arq w0"] = Entry("arq, 2 processes", "w0", peer, no_calls_saved, "bare w0 two")
    entries["arq w"] = Entry("arq, 2 processes", "w", peer, calls, "bare w two")
    return entries, []


def sample(entry: Entry) -> Sample:
    """Run one round of an entry."""
    own, server = entry.contender.processes, entry.contender.server
    redis = [psutil.Process(server.pid)] if server else []
    run = entry.contender.prepare(entry.workload, entry.tasks)
    own_before_s, redis_before_s = cpu_s(own), cpu_s(redis)
    with PeakRss(own) as peak:
        started = time.perf_counter()
        run()
        elapsed_s = time.perf_counter() - started
    time.sleep(_SETTLE_S)
    return Sample(
        tasks_per_s=entry.tasks / elapsed_s,
        cpu_ms=(cpu_s(own) - own_before_s) * 1000 / entry.tasks,
        redis_ms=(cpu_s(redis) - redis_before_s) * 1000 / entry.tasks,
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
    def cpu(name: str, other: str) -> float:
        return rounds[name].times(rounds[other], "cpu_ms")

    def speed(name: str, other: str) -> float:
        return rounds[name].times(rounds[other], "tasks_per_s")

    def beyond(name: str, other: str) -> float:
        return rounds[name].middle("cpu_ms") - rounds[other].middle("cpu_ms")

    goals = [
        Goal("CPU of w, guards on, no checkpoints, to the bare graph", cpu("ours w", "bare w"), 1.5, "x"),
        Goal(
            "CPU of w, guards and checkpoints on, to the bare graph with the same checkpoints",
            cpu("ours w saved", "bare w saved"),
            1.5,
            "x",
            beside=f"{cpu('ours w saved', 'bare w'):.2f} x the bare graph without checkpoints",
        ),
        *(
            Goal(
                f"Queue bookkeeping: CPU of a task of {work} beyond the bare graph's",
                beyond(f"ours {work}", f"bare {work}"),
                1.0,
                "ms",
                beside=f"{cpu(f'ours {work}', f'bare {work}'):.2f} x the bare graph's CPU",
            )
            for work in ("noop", "w0")
        ),
        Goal(
            "CPU that checkpoints add to a task of w0",
            beyond("ours w0 saved", "ours w0"),
            0.6,
            "ms",
            beside=f"{beyond('bare w0 saved', 'bare w0'):.2f} ms in the bare graph",
        ),
        Goal(
            "Redis CPU of a task of w, guards and checkpoints on",
            rounds["ours w saved"].middle("redis_ms"),
            0.9,
            "ms",
            beside=f"{rounds['ours w saved'].middle('redis_ms') / rounds['bare w'].middle('cpu_ms'):.2f} x the bare "
            "graph's CPU",
        ),
        Goal(
            "No-op tasks of one process",
            rounds["ours noop"].middle("tasks_per_s"),
            700,
            "per s",
            is_upper=False,
            beside=f"{speed('ours noop', 'bare noop'):.2f} x the bare graph's",
        ),
        *(
            Goal(
                f"Tasks/s of {work} to stock RQ's forking pool of eight",
                speed(f"ours {work}", f"forks {work}"),
                50,
                "x",
                is_upper=False,
                beside=f"{speed(f'ours {work}', f'preloaded {work}'):.1f} x the same pool with the graphs preloaded",
            )
            for work in ("w", "w0")
        ),
        Goal(
            "Memory with 100 in flight, guards and checkpoints on",
            max(rounds["ours w saved"].all("rss_mb")),
            300,
            "MB",
            beside=f"{rounds['ours w saved'].times(rounds['bare w saved'], 'rss_mb'):.2f} x the bare graph's",
        ),
    ]
    if "arq w" in rounds:
        faster = speed("ours w two", "arq w")
        goals.append(
            Goal(
                "Tasks/s of w on two processes to arq's",
                faster,
                1.0,
                "x",
                is_upper=False,
                beside=f"{cpu('ours w two', 'arq w'):.2f} x arq's CPU",
            )
        )
    return goals


MEASUREMENT = Measurement("throughput", "tasks per second, CPU and memory against the bare graph, RQ and arq", measure)
