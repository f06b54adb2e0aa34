"""C16: half an hour of load with kills, Redis restarts and provider failures; memory and keys must not grow."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from itertools import count

import psutil
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from langgraph_rq import Client
from tests.chaos.run import Run, Size, submit_batch
from tests.chaos.testbed.stage import Stage, WorkerProcess, open_stage

_PER_S = 50
_BATCH = 10
_SAMPLES = 40
_FAULT_EVERY_S = 40.0
_GROWTH = 1.2
"""The last quarter may be so much above the second one; the first is for warming up."""
_SLACK = {"rss_mb": 30.0, "keys": 200.0, "memory_mb": 10.0, "connections": 20.0}
_FORGET = {
    "LGRQ_RESULT_TTL_S": "10",
    "LGRQ_EVENTS_TTL_S": "10",
    "LGRQ_IDEMPOTENCY_WINDOW_S": "10",
    "LGRQ_CHECKPOINT_TTL_S": "5",
    "LGRQ_BREAKER_OPEN_S": "2",
    "LGRQ_BREAKER_MAX_OPEN_S": "2",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Quantities that must not grow: memory of the workers that are never killed, and the contents of Redis."""

    minute: float
    rss_mb: float
    keys: float
    memory_mb: float
    connections: float
    open: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; return 1 if something grew or was left at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)g)")
    options = parser.parse_args(argv)
    console = Console()
    with open_stage() as stage:
        samples, left = _soak(stage, options.minutes * 60, console)
    problems = [*grown(samples), *(f"{number} left in {key}" for key, number in left.items())]
    for problem in problems:
        console.print(problem, style="red")
    return int(bool(problems))


def grown(samples: Sequence[Sample]) -> list[str]:
    """Name what grew, by its median in the last quarter against that in the second one."""
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name, slack in _SLACK.items():
        was, now = (statistics.median(getattr(one, name) for one in part) for part in (before, after))
        if now > was * _GROWTH + slack:
            found.append(f"{name} grew from {was:,.0f} to {now:,.0f}")
    return found


def _soak(stage: Stage, seconds: float, console: Console) -> tuple[list[Sample], dict[str, int]]:
    stage.reset(0.2)
    run = Run(stage, Size(node_s=0.2))
    lasting = run.start(2, 50, **_FORGET)
    mortal = run.start(2, 50, **_FORGET)
    faults = _faults(run, mortal)
    samples: list[Sample] = []
    began, tick = time.monotonic(), _BATCH / _PER_S
    table = Table(*(field.name.replace("_", " ") for field in fields(Sample)), box=None)
    with Client(stage.redis.url) as client:
        for number in count():
            elapsed = time.monotonic() - began
            if elapsed > seconds:
                break
            submit_batch(client, [f"soak-{number}-{i}" for i in range(_BATCH)], graph="single", max_attempts=10)
            if elapsed > (len(samples) + 1) * seconds / _SAMPLES:
                with suppress(RedisError):
                    samples.append(_sample(run, lasting, elapsed))
                    table.add_row(*(f"{value:,.1f}" for value in astuple(samples[-1])))
                    console.print(f"{samples[-1]}", style="dim")
            if elapsed > (faults.done + 1) * _FAULT_EVERY_S:
                faults()
            if number % 1_000 == 0:
                stage.model.admin.clear()
            time.sleep(max(0.0, began + (number + 1) * tick - time.monotonic()))
    stage.model.admin.set_faults([])
    run.wait_until_ended()
    console.print(table)
    console.print(f"faults: {dict(run.proofs)}; {len(run.events('wrote')):,} tasks ended")
    return samples, dict(stage.read_history([]).left or {})


class _Faults:
    """Inject the next fault at each call."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.done = 0
        self._steps = steps

    def __call__(self) -> None:
        self._steps[self.done % len(self._steps)]()
        self.done += 1


def _faults(run: Run, mortal: list[WorkerProcess]) -> _Faults:
    def kill() -> None:
        run.kill(mortal.pop(0))
        mortal.append(run.start_soon(50, **_FORGET))

    def restart() -> None:
        run.stage.redis.kill()
        time.sleep(1.0)
        run.stage.redis.start()
        run.count_proof("restarts")

    def fail() -> None:
        run.stage.model.admin.set_faults([{"fault": "500", "times": 100}])
        run.count_proof("provider failures")

    return _Faults(kill, restart, fail)


def _sample(run: Run, lasting: Sequence[WorkerProcess], elapsed_s: float) -> Sample:
    with run.stage.client() as client:
        rss = sum(psutil.Process(worker.pid).memory_info().rss for worker in lasting)
        return Sample(
            round(elapsed_s / 60, 2),
            round(rss / 1e6, 1),
            client.dbsize(),
            round(client.info("memory")["used_memory"] / 1e6, 1),
            client.info("clients")["connected_clients"],
            client.zcard("agent:open"),
        )


if __name__ == "__main__":
    sys.exit(main())
