"""The live workers and the queues. Reading changes nothing, unlike RQ's own `rq info`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from langgraph_rq.shared.announcements.guarded_models import GuardedModels
from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import DELAYED, OPEN, QUEUE_PREFIX, RQ_QUEUES, WORKERS, graph_name


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process whose lease is live. Counts are since it started."""

    name: str
    state: str
    """RQ's word: idle, busy or suspended."""
    queues: tuple[str, ...]
    in_flight: int
    succeeded: int
    failed: int
    lease_left_s: float
    graphs: tuple[str, ...] = ()
    """By name."""
    guarded: GuardedModels = field(default_factory=GuardedModels)
    """The models whose calls it guards."""
    state_kept: StateKept = field(default_factory=StateKept)
    """Where it keeps threads, and with which secrets."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue of RQ that has ever had a task."""

    name: str
    runnable: int
    """Users with a runnable task, and tasks that were given back; the users' other tasks wait behind these."""
    first_age_s: float
    """Since the first task of the list was submitted; 0 for none."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet at one instant."""

    workers: tuple[WorkerStatus, ...]
    """By name; live is a worker whose lease ends after now, as for `claim`."""
    queues: tuple[QueueStatus, ...]
    open: int
    """Tasks that have not ended; each counts once in `pending`, `delayed` or `in_flight`."""
    delayed: int
    owned: int
    """Tasks that workers own, also dead ones that have not been reaped yet."""

    @property
    def in_flight(self) -> int:
        """Tasks that live workers own."""
        return sum(worker.in_flight for worker in self.workers)

    @property
    def pending(self) -> int:
        """Tasks that wait for a worker, or for the reaping of a dead one."""
        return max(0, self.open - self.in_flight - self.delayed)


def fleet_call(*, now_ms: int | None = None) -> Call[Fleet]:
    """Read the fleet; `now_ms` is a test's clock, None the server's."""
    keys = [WORKERS, RQ_QUEUES, OPEN, DELAYED]
    return Call(load_script("shared/queue/scripts/fleet"), keys, ["" if now_ms is None else now_ms], _read_fleet)


def _read_fleet(reply: Sequence[Any]) -> Fleet:
    now_ms, open_tasks, delayed, workers, queues = reply
    return Fleet(
        workers=tuple(_worker(worker, now_ms) for worker in workers if float(worker[1]) > now_ms),
        queues=tuple(sorted((_queue(queue, now_ms) for queue in queues), key=attrgetter("name"))),
        open=open_tasks,
        delayed=delayed,
        owned=sum(worker[2] for worker in workers),
    )


def _worker(reply: Sequence[Any], now_ms: int) -> WorkerStatus:
    name, lease_end, in_flight, *fields, models, state_kept = reply
    state, queues, succeeded, failed, graphs = (field.decode() if field else "" for field in fields)
    return WorkerStatus(
        name.decode(),
        state or "unknown",
        tuple(queues.split(",")) if queues else (),
        in_flight,
        int(succeeded or 0),
        int(failed or 0),
        round((float(lease_end) - now_ms) / 1000, 3),
        tuple(sorted(map(graph_name, filter(None, graphs.split(","))))),
        GuardedModels.read(models),
        StateKept.read(state_kept),
    )


def _queue(reply: Sequence[Any], now_ms: int) -> QueueStatus:
    key, runnable, created = reply
    first_age_ms = max(0, now_ms - whole_number(created, now_ms)) if created else 0
    return QueueStatus(key.decode().removeprefix(QUEUE_PREFIX), runnable, first_age_ms / 1000)
