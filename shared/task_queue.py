"""The queue: who owns which task, decided in one Lua script per verb, on RQ's keys so that RQ's tools keep working.

Every state change of a task carries (id, epoch, worker) and is refused when stale; the epoch grows at each claim. Time
is always the server's. No task lives in a process only: the set of a worker's own ids in Redis is the truth.

Keys (type; lifetime):
    agent:task:<id>        hash    state, epoch, owner, queue, place, crashes, created, started, deadline (ms), cancel,
                                   digest; until deadline + idempotency window, then the window after its end
    agent:result:<id>      string  the result document; result TTL
    agent:events:<id>      stream  state changes; until a while after the end
    agent:open             zset    id -> created (ms), tasks that are not terminal; stays
    agent:delayed          zset    id -> when it is due (ms); stays
    agent:workers          zset    worker -> lease end (ms); stays, a dead worker is removed by `reap`
    agent:own:<worker>     set     ids that the worker owns; emptied by `finish`, `release` and `reap`
    agent:graphs           zset    graph -> until when a live worker serves it (ms); a day
    agent:graph_schemas    hash    graph -> JSON schema of its input; a day
    rq:queue:<queue>       list    runnable ids
    rq:job:<id>            hash    RQ's job, its `data` holds the task; as agent:task
    rq:wip:<queue>         zset    `<id>:<epoch>` of running tasks
    rq:finished:<queue>    zset    id -> when to forget it (s); result TTL; rq:failed:<queue> likewise
    rq:results:<id>        stream  failures, for RQ's tools; result TTL
    rq:queues, rq:workers, rq:workers:<queue>, rq:worker:<worker>: RQ's registers, as RQ keeps them

Pattern: reliable queue with leases and fencing tokens; see Kleppmann, "How to do distributed locking" (2016).
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from shared.lua import Call, load_script
from shared.tasks import State, Task

OPEN = "agent:open"
DELAYED = "agent:delayed"
WORKERS = "agent:workers"
GRAPHS = "agent:graphs"
GRAPH_SCHEMAS = "agent:graph_schemas"
RQ_QUEUES = "rq:queues"
RQ_WORKERS = "rq:workers"
RQ_SUSPENDED = "rq:suspended"

_NOW = ""
"""Let the script ask the server for the time."""


@dataclass(frozen=True, slots=True)
class QueueTimes:
    """How long things are kept, in milliseconds, and how long job data may be, in bytes."""

    lease_ms: int = 8_000
    result_ms: int = 3_600_000
    events_ms: int = 300_000
    window_ms: int = 7 * 86_400_000
    adopt_ms: int = 300_000
    job_bytes: int = 300_000
    memory_percent: int = 85

    def __post_init__(self) -> None:
        """Refuse what would forget a task before it ends."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"expected {name} to be above 0, got: {getattr(self, name)}")


class Submitted(StrEnum):
    """What `submit` decided."""

    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"
    FULL = "full"
    UNKNOWN_GRAPH = "unknown_graph"


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer of `submit`: `detail` is the task's state, percent of memory used, or the known graphs."""

    outcome: Submitted
    detail: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer of `join` and `renew`: what Redis says this worker owns, and what of it is to be cancelled."""

    own: frozenset[str]
    cancelled: frozenset[str]


class Origin(StrEnum):
    """Where a claimed task came from, and whether its data could be read."""

    OURS = "ours"
    ENQUEUED = "enqueued"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A task that this worker owns now. Instants are milliseconds of the server's clock."""

    id: str
    epoch: int
    queue: str
    created_at_ms: int
    started_at_ms: int
    deadline_at_ms: int
    crashes: int
    data: bytes
    origin: Origin
    acting_fields: tuple[str, ...]
    claimed_at_ms: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer of `claim`: the tasks, ids that were dropped since no task stands behind them, and why if none."""

    tasks: tuple[Claimed, ...]
    dropped: tuple[str, ...]
    has_lease: bool
    is_suspended: bool


class Finished(Enum):
    """What `finish` decided."""

    FENCED = 0
    WRITTEN = 1
    ALREADY_MINE = 2


@dataclass(frozen=True, slots=True)
class Reaped:
    """The answer of `reap`: ids taken from dead workers, ids that became due, ms until the next one is due."""

    reaped: tuple[str, ...]
    promoted: tuple[str, ...]
    next_due_ms: int | None


def task_hash(task_id: str) -> str:
    """Name the hash that holds a task's state."""
    return f"agent:task:{task_id}"


def result_key(task_id: str) -> str:
    """Name the string that holds a task's result document."""
    return f"agent:result:{task_id}"


def events_key(task_id: str) -> str:
    """Name the stream that holds a task's events."""
    return f"agent:events:{task_id}"


def queue_key(queue: str) -> str:
    """Name the list that holds a queue's runnable ids."""
    return f"rq:queue:{queue}"


def job_hash(task_id: str) -> str:
    """Name RQ's hash of a job."""
    return f"rq:job:{task_id}"


def _own(worker: str) -> str:
    return f"agent:own:{worker}"


def _rq_worker(worker: str) -> str:
    return f"rq:worker:{worker}"


def rq_now() -> str:
    """Write the time as RQ does; its tools show it, nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def describe(task: Task) -> str:
    """Describe a task to RQ's tools without showing its input."""
    return f"{task.graph} for {task.user_id or 'anonymous'}"


def submit_call(task: Task, queue: str, times: QueueTimes, now_ms: int | str = _NOW) -> Call[Submission]:
    """Put `task` on `queue` unless its id is known already."""
    key = task.key
    return Call(
        load_script("task_queue_submit"),
        [task_hash(key), job_hash(key), queue_key(queue), RQ_QUEUES, OPEN, GRAPHS, WORKERS],
        [
            key,
            queue,
            task.job_data(),
            task.digest,
            task.graph,
            int(task.deadline_s * 1000),
            times.window_ms,
            describe(task),
            rq_now(),
            times.memory_percent,
            now_ms,
        ],
        lambda reply: Submission(Submitted(reply[0].decode()), reply[1].decode()),
    )


def renew_call(
    worker: str, lease_ms: int, graphs: Mapping[str, str], *, join: bool, now_ms: int | str = _NOW
) -> Call[Lease | None]:
    """Extend the worker's lease (or take one, with `join`); None: the lease is lost, another worker has reaped."""
    return Call(
        load_script("task_queue_renew"),
        [WORKERS, _own(worker), GRAPHS, GRAPH_SCHEMAS, _rq_worker(worker)],
        [worker, lease_ms, int(join), json.dumps(dict(graphs)), rq_now(), now_ms],
        lambda reply: Lease(_ids(reply[1]), _ids(reply[2])) if reply[0] else None,
    )


def claim_call(worker: str, n: int, queues: Sequence[str], times: QueueTimes, now_ms: int | str = _NOW) -> Call[Claim]:
    """Take up to `n` tasks, the queues in strict order."""
    return Call(
        load_script("task_queue_claim"),
        [WORKERS, _own(worker), OPEN, RQ_SUSPENDED, _rq_worker(worker), *map(queue_key, queues)],
        [worker, n, times.job_bytes, times.events_ms, times.adopt_ms, rq_now(), now_ms],
        _decode_claim,
    )


def adopt_call(claimed: Claimed, worker: str, task: Task, times: QueueTimes) -> Call[int]:
    """Take over a job of stock RQ that holds `task`; answers its deadline (ms), 0 when fenced off."""
    return Call(
        load_script("task_queue_adopt"),
        [task_hash(claimed.id), job_hash(claimed.id)],
        [claimed.epoch, worker, task.digest, int(task.deadline_s * 1000), times.window_ms, describe(task)],
        int,
    )


def finish_call(
    claimed: Claimed,
    worker: str,
    state: State,
    result: bytes,
    times: QueueTimes,
    *,
    failure: str = "",
    run_s: float = 0.0,
    now_ms: int | str = _NOW,
) -> Call[Finished]:
    """Write the terminal result; `failure` is what RQ's tools show as the reason."""
    task_id, queue = claimed.id, claimed.queue
    succeeded = state in {State.SUCCESS, State.INTERRUPTED}
    return Call(
        load_script("task_queue_finish"),
        [
            task_hash(task_id),
            result_key(task_id),
            events_key(task_id),
            _own(worker),
            OPEN,
            job_hash(task_id),
            f"rq:wip:{queue}",
            f"rq:{'finished' if succeeded else 'failed'}:{queue}",
            f"rq:results:{task_id}",
            _rq_worker(worker),
        ],
        [
            task_id,
            claimed.epoch,
            worker,
            state.value,
            result,
            times.result_ms,
            times.events_ms,
            times.window_ms,
            "finished" if succeeded else "failed",
            b64encode(zlib.compress(failure.encode())) if failure else b"",
            rq_now(),
            f"{run_s:.6f}",
            now_ms,
        ],
        Finished,
    )


def release_call(
    task_id: str, epoch: int, queue: str, worker: str, delay_ms: int = 0, now_ms: int | str = _NOW
) -> Call[bool]:
    """Give a task back uncharged, to the front of its queue or for later; False: it was not ours any more."""
    return Call(
        load_script("task_queue_release"),
        [task_hash(task_id), _own(worker), DELAYED, queue_key(queue), f"rq:wip:{queue}", job_hash(task_id)],
        [task_id, epoch, worker, delay_ms, now_ms],
        bool,
    )


class Ownership(Enum):
    """What `owns` decided."""

    GONE = 0
    MINE = 1
    CANCELLED = 2


def owns_call(task_id: str, epoch: int, worker: str) -> Call[Ownership]:
    """Say whether the worker still owns the task and may go on with it."""
    return Call(load_script("task_queue_owns"), [task_hash(task_id)], [epoch, worker], Ownership)


def leave_call(worker: str) -> Call[int]:
    """Leave the fleet; answers how many tasks the worker still owns, in which case it has not left."""
    return Call(load_script("task_queue_leave"), [WORKERS, _own(worker)], [worker], int)


def reap_call(n: int = 100, now_ms: int | str = _NOW) -> Call[Reaped]:
    """Bring back the tasks of dead workers and promote delayed tasks that are due, `n` of each at most."""
    return Call(
        load_script("task_queue_reap"),
        [WORKERS, DELAYED, RQ_WORKERS],
        [n, now_ms],
        lambda reply: Reaped(
            tuple(id_.decode() for id_ in reply[0]),
            tuple(id_.decode() for id_ in reply[1]),
            None if int(reply[2]) < 0 else int(reply[2]),
        ),
    )


def _ids(reply: Sequence[bytes]) -> frozenset[str]:
    return frozenset(id_.decode() for id_ in reply)


def _decode_claim(reply: Sequence[Any]) -> Claim:
    outcome, now, tasks, dropped = reply
    now_ms = int(now)
    return Claim(
        tuple(_decode_claimed(task, now_ms) for task in tasks),
        tuple(id_.decode(errors="replace") for id_ in dropped),
        has_lease=outcome != b"no_lease",
        is_suspended=outcome == b"suspended",
    )


def _decode_claimed(task: Sequence[Any], now_ms: int) -> Claimed:
    id_, epoch, queue, created, started, deadline, crashes, data, origin, acting = task
    return Claimed(
        id=id_.decode(),
        epoch=int(epoch),
        queue=queue.decode(),
        created_at_ms=int(created),
        started_at_ms=int(started),
        deadline_at_ms=int(deadline),
        crashes=int(crashes),
        data=data,
        origin=Origin(origin.decode()),
        acting_fields=tuple(field.decode() for field in acting),
        claimed_at_ms=now_ms,
    )
