"""The history of a run, as append-only files: one JSON line per event, written through to the kernel at once.

Every process has a file of its own in the run's folder, so that what it wrote before a kill -9 is all there. Instants
are the machine's monotonic clock in seconds, which all processes share.

Kinds of events, and who writes them:
    invoked, ok, unknown, refused   a producer: submitting began, was answered, got no answer, was refused
    cancelled                       a producer: a cancel was accepted; `detail` is the task's state then
    claimed, wrote, released        a worker: it owns the task, ended it, gave it back
    fenced                          a worker: a change of state was refused; `detail` says which
    reaped, swept                   a worker: it took the task from a dead worker, found it out of its place
    admitted                        a worker: a model call may start, as `detail` says; `at` is when it began to ask
    opened, closed                  a worker: its report opened the breaker; it began to close it
    start, end                      a node; `detail` is its name
    struck                          the runner: the fault `detail` hit the process `pid`
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = "CHAOS_HISTORY"
"""The environment variable that names the run's folder; without it nothing is written."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history."""

    kind: str
    task: str = ""
    epoch: int = 0
    pid: int = 0
    at: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A call in the model server's log; its prompt names the task, node, attempt and worker."""

    task: str
    node: str
    epoch: int
    pid: int
    at: float
    fault: str | None = None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "PaidCall":
        task, node, epoch, worker = record["prompt"].split()[:4]
        return cls(task, node, int(epoch), pid_of(worker), record["started_monotonic_s"], record["fault"])


@dataclass(frozen=True, slots=True)
class FinalTask:
    """A task in Redis at the end. `ends` counts its terminal results, `steps` are the nodes that its graph lists."""

    state: str
    epoch: int = 1
    crashes: int = 0
    ends: int = 1
    steps: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """The input of the checker."""

    events: tuple[Event, ...]
    calls: tuple[PaidCall, ...] = ()
    final: Mapping[str, FinalTask] | None = None
    left: Mapping[str, int] | None = None
    """What must be empty at the end and is not: key -> how many."""


def pid_of(worker: str) -> int:
    """Read the process out of a worker's name, `<host>-<pid>-<random>`."""
    return int(worker.rsplit("-", 2)[1])


_files: dict[tuple[str, int], int] = {}


def record(
    kind: str, task: str = "", epoch: int = 0, *, pid: int = 0, at: float | None = None, detail: str = ""
) -> None:
    """Append one event."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    own = os.getpid()
    file = _files.get((folder, own))
    if file is None:
        path = Path(folder) / f"{own}.jsonl"
        file = _files[folder, own] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    event = Event(kind, task, epoch, pid or own, time.monotonic() if at is None else at, detail)
    os.write(file, json.dumps(asdict(event)).encode() + b"\n")


def read_events(folder: Path) -> Iterator[Event]:
    """Read all files of a run; a last line that a kill cut short is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Event(**json.loads(line))
