"""The queue: who owns which task, decided in one Lua script per verb, on RQ's keys so that RQ's tools keep working.

Every state change of a task carries (id, epoch, worker) and is refused when stale; the epoch grows at each claim. Time
is always the server's. No task lives in a process only: the set of a worker's own ids in Redis is the truth.

Keys (type; lifetime):
    agent:task:<id>        hash    state, epoch, owner, queue, place, user, thread, crashes, failures, created, started,
                                   deadline (ms), cancel, digest, input_tokens, output_tokens,
                                   cost_nano_usd; until deadline + idempotency window, then the window
                                   after its end
    agent:result:<id>      string  the result document; result TTL
    agent:events:<id>      stream  state changes; until a while after the end
    agent:open             zset    id -> deadline (ms), tasks that are not terminal; stays
    agent:delayed          zset    id -> when it is due (ms); stays
    agent:runnable:<queue> hash    user -> ids of theirs in rq:queue:<queue>; stays
    agent:waiting:<queue>:<user>  list  ids that wait for their user's turn; stays while there are any
    agent:in_flight        hash    user -> tasks that run; stays while there are any
    agent:capped:<user>    set     queues in which only the cap holds a user back; stays while it does
    agent:thread:<thread>  list    open tasks of a thread, in order; stays while there are any
    agent:sweep            string  how far the sweeper got; a day
    agent:workers          zset    worker -> lease end (ms); stays, a dead worker is removed by `reap`
    agent:own:<worker>     set     ids that the worker owns; emptied by `finish`, `release` and `reap`
    agent:graphs           zset    graph -> until when a live worker serves it (ms); a day
    agent:graph_schemas    hash    graph -> JSON schema of its input; a day
    rq:queue:<queue>       list    runnable ids, one per user; the others wait for their user's turn
    rq:job:<id>            hash    RQ's job, its `data` holds the task; as agent:task
    rq:wip:<queue>         zset    `<id>:<epoch>` of running tasks
    rq:finished:<queue>    zset    id -> when to forget it (s); result TTL; rq:failed: and rq:canceled: likewise
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
from functools import cache
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, Script, load_script, make_script
from langgraph_rq.shared.tasks import State, Task

OPEN = "agent:open"
DELAYED = "agent:delayed"
SWEEP = "agent:sweep"
WORKERS = "agent:workers"
GRAPHS = "agent:graphs"
GRAPH_SCHEMAS = "agent:graph_schemas"
RQ_QUEUES = "rq:queues"
RQ_WORKERS = "rq:workers"
RQ_SUSPENDED = "rq:suspended"

_NOW = ""
"""Let the script ask the server for the time."""
_DIGITS = 14
"""The longest number read from a hash: milliseconds until the year 5138."""


@dataclass(frozen=True, slots=True)
class QueueTimes:
    """How long things are kept, in milliseconds, and how much of something there may be."""

    lease_ms: int = 8_000
    result_ms: int = 3_600_000
    events_ms: int = 300_000
    window_ms: int = 7 * 86_400_000
    adopt_ms: int = 300_000
    job_bytes: int = 300_000
    memory_percent: int = 85
    user_tasks: int = 0
    """Tasks of one user in flight at most, in the whole fleet; 0 for any number."""

    def __post_init__(self) -> None:
        """Refuse what would forget a task before it ends."""
        for name in self.__slots__:
            if getattr(self, name) < (name != "user_tasks"):
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
class Use:
    """What the model calls of a task used, over all its attempts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0


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
    failures: int
    """How often its graph has failed and was tried again."""
    is_cancelled: bool
    used: Use
    """By its earlier attempts."""
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
class Swept:
    """The answer of `sweep`: ids queued again, ids past their deadline that nobody runs, ids RQ's tools removed."""

    again: tuple[str, ...]
    overdue: tuple[str, ...]
    removed: tuple[str, ...]


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


def commands_channel(worker: str) -> str:
    """Name the channel on which a worker is told to stop a task; RQ's own is for those who may publish there."""
    return f"agent:commands:{worker}"


def queue_key(queue: str) -> str:
    """Name the list that holds a queue's runnable ids."""
    return f"rq:queue:{queue}"


def job_hash(task_id: str) -> str:
    """Name RQ's hash of a job."""
    return f"rq:job:{task_id}"


def own_key(worker: str) -> str:
    """Name the set of ids that a worker owns."""
    return f"agent:own:{worker}"


def rq_worker_key(worker: str) -> str:
    """Name RQ's hash of a worker."""
    return f"rq:worker:{worker}"


def rq_now() -> str:
    """Write the time as RQ does; its tools show it, nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def describe(task: Task) -> str:
    """Describe a task to RQ's tools without showing its input."""
    return f"{task.graph} for {task.user_id or 'anonymous'}"


@cache
def composed_script(verb: str) -> Script:
    """Put the functions that all verbs share before the body of one; its flags stay the first line."""
    name = f"shared/queue/{verb}"
    source, places = load_script(name).source, load_script("shared/queue/prelude").source
    flags = source[: source.index("\n") + 1] if source.startswith("#!") else ""
    return make_script(name, flags + places + source.removeprefix(flags))


def submit_call(task: Task, queue: str, times: QueueTimes, now_ms: int | str = _NOW) -> Call[Submission]:
    """Put `task` on `queue` unless its id is known already."""
    key = task.key
    return Call(
        composed_script("submit"),
        [task_hash(key), job_hash(key), RQ_QUEUES, OPEN, GRAPHS, WORKERS],
        [
            key,
            queue,
            task.job_data(),
            task.digest,
            task.graph,
            int(task.deadline_s * 1000),
            times.window_ms,
            describe(task),
            task.user_key,
            _thread(task),
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
        composed_script("renew"),
        [WORKERS, own_key(worker), GRAPHS, GRAPH_SCHEMAS, rq_worker_key(worker)],
        [worker, lease_ms, int(join), json.dumps(dict(graphs)), rq_now(), now_ms],
        lambda reply: Lease(_ids(reply[1]), _ids(reply[2])) if reply[0] else None,
    )


def claim_call(worker: str, n: int, queues: Sequence[str], times: QueueTimes, now_ms: int | str = _NOW) -> Call[Claim]:
    """Take up to `n` tasks, the queues in strict order."""
    return Call(
        composed_script("claim"),
        [WORKERS, own_key(worker), OPEN, RQ_SUSPENDED, rq_worker_key(worker), *map(queue_key, queues)],
        [worker, n, times.job_bytes, times.events_ms, times.adopt_ms, times.user_tasks, rq_now(), now_ms],
        _decode_claim,
    )


def adopt_call(claimed: Claimed, worker: str, task: Task, times: QueueTimes) -> Call[int]:
    """Take over a job of stock RQ that holds `task`.

    Answers its deadline (ms), or no positive number when it is not ours to run: fenced off, or parked for its thread.
    """
    return Call(
        composed_script("adopt"),
        [task_hash(claimed.id), job_hash(claimed.id), OPEN, own_key(worker)],
        [
            claimed.id,
            claimed.epoch,
            worker,
            task.digest,
            int(task.deadline_s * 1000),
            times.window_ms,
            describe(task),
            task.job_data(),
            task.user_key,
            _thread(task),
        ],
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
    rq_status = _rq_status(state)
    return Call(
        composed_script("finish"),
        [
            task_hash(task_id),
            result_key(task_id),
            events_key(task_id),
            own_key(worker),
            OPEN,
            job_hash(task_id),
            f"rq:wip:{queue}",
            f"rq:{rq_status}:{queue}",
            f"rq:results:{task_id}",
            rq_worker_key(worker),
        ],
        [
            task_id,
            claimed.epoch,
            worker,
            state.value,
            result,
            # A question is kept as long as it can be answered.
            times.window_ms if state is State.INTERRUPTED else times.result_ms,
            times.events_ms,
            times.window_ms,
            rq_status,
            b64encode(zlib.compress(failure.encode())) if failure else b"",
            rq_now(),
            f"{run_s:.6f}",
            now_ms,
        ],
        Finished,
    )


def release_call(
    task_id: str,
    epoch: int,
    queue: str,
    worker: str,
    delay_ms: int = 0,
    *,
    failed: bool = False,
    now_ms: int | str = _NOW,
) -> Call[bool]:
    """Give a task back, to the front of its queue or for later; False: it was not ours any more.

    No crash is charged; `failed` counts against the task's max_attempts.
    """
    return Call(
        composed_script("release"),
        [task_hash(task_id), own_key(worker), DELAYED, f"rq:wip:{queue}", job_hash(task_id)],
        [task_id, epoch, worker, delay_ms, int(failed), now_ms],
        bool,
    )


def cancel_call(
    task_id: str, state: State, result: bytes, times: QueueTimes, now_ms: int | str = _NOW
) -> Call[State | None]:
    """End a task that nobody runs as `state` (cancelled or timeout), with `result`.

    A running one is told to stop when `state` is cancelled: no model call of it starts from then on. Answers the state
    in which it is now; None: there is no such task.
    """
    return Call(
        composed_script("cancel"),
        [task_hash(task_id), result_key(task_id), events_key(task_id), OPEN, DELAYED, job_hash(task_id)],
        [
            task_id,
            state.value,
            result,
            times.result_ms,
            times.events_ms,
            times.window_ms,
            _rq_status(state),
            rq_now(),
            now_ms,
        ],
        lambda reply: State(reply.decode()) if reply else None,
    )


def sweep_call(n: int = 100, now_ms: int | str = _NOW) -> Call[Swept]:
    """Queue again what is not where its hash says, among the next `n` open tasks; find what is past its deadline."""
    return Call(
        composed_script("sweep"),
        [OPEN, SWEEP, DELAYED],
        [n, now_ms],
        lambda reply: Swept(*(tuple(id_.decode() for id_ in ids) for ids in reply)),
    )


class Ownership(Enum):
    """What `owns` decided."""

    GONE = 0
    MINE = 1
    CANCELLED = 2


def owns_call(task_id: str, epoch: int, worker: str) -> Call[Ownership]:
    """Say whether the worker still owns the task and may go on with it."""
    return Call(load_script("shared/queue/owns"), [task_hash(task_id)], [epoch, worker], Ownership)


def use_call(task_id: str, used: Use) -> Call[bool]:
    """Add what a model call used to its task; False: the task is not kept any more."""
    args = [used.input_tokens, used.output_tokens, used.cost_nano_usd]
    return Call(load_script("shared/queue/use"), [task_hash(task_id)], args, bool)


def leave_call(worker: str) -> Call[int]:
    """Leave the fleet; answers how many tasks the worker still owns, in which case it has not left."""
    return Call(load_script("shared/queue/leave"), [WORKERS, own_key(worker)], [worker], int)


def reap_call(n: int = 100, now_ms: int | str = _NOW, *, worker: str = "") -> Call[Reaped]:
    """Bring back the tasks of dead workers and promote delayed tasks that are due, `n` of each at most.

    With `worker`, the worker that asks, none is reaped once its own lease is over: whatever held it up, or the answer
    of Redis, may have held up the others too.
    """
    return Call(
        composed_script("reap"),
        [WORKERS, DELAYED, RQ_WORKERS],
        [n, now_ms, worker],
        lambda reply: Reaped(
            tuple(id_.decode() for id_ in reply[0]),
            tuple(id_.decode() for id_ in reply[1]),
            None if int(reply[2]) < 0 else int(reply[2]),
        ),
    )


def _rq_status(state: State) -> str:
    """Name the registry in which RQ's tools show a task that ended in `state`."""
    if state is State.CANCELLED:
        return "canceled"
    return "finished" if state in {State.SUCCESS, State.INTERRUPTED} else "failed"


def _thread(task: Task) -> str:
    return "" if task.thread_id is None else task.thread_key


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
    id_, epoch, queue, created, started, deadline, crashes, failures, cancelled, used, data, origin, acting = task
    return Claimed(
        id=id_.decode(),
        epoch=int(epoch),
        queue=queue.decode(),
        created_at_ms=whole_number(created, now_ms),
        started_at_ms=whole_number(started, now_ms),
        deadline_at_ms=whole_number(deadline, now_ms),
        crashes=whole_number(crashes),
        failures=whole_number(failures),
        is_cancelled=bool(cancelled),
        used=Use(*(whole_number(amount or b"0") for amount in used)),
        data=data,
        origin=Origin(origin.decode()),
        acting_fields=tuple(field.decode() for field in acting),
        claimed_at_ms=now_ms,
    )


def whole_number(value: bytes, otherwise: int = 0) -> int:
    """Read a number of a task's hash; what somebody else wrote there must not end the worker that claims it."""
    return int(value) if value.isdigit() and len(value) <= _DIGITS else otherwise
