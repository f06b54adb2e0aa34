"""What the queue's verbs return, and how the replies of their scripts are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, NamedTuple, Self

from langgraph_rq.shared.queue.keys import graph_name
from langgraph_rq.shared.tasks import State

_DIGITS = 14
"""The longest number read from a hash: milliseconds until the year 5138."""


class Submitted(StrEnum):
    """What `submit` decided."""

    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"
    BUSY = "busy"
    FULL = "full"
    TENANT_TASKS = "tenant_tasks"
    TENANT_BYTES = "tenant_bytes"
    TENANT_SHARE = "tenant_share"
    UNKNOWN_GRAPH = "unknown_graph"


class Missing(StrEnum):
    """Why no live worker could run a task, or may not yet."""

    WORKER = "worker"
    QUEUE = "queue"
    GRAPH = "graph"
    QUESTION = "question"
    """It could; the task waits for the answer to a question that its thread shows."""

    def explain(self, queue: str, graph: str) -> str:
        """Say it of a task of `graph` on `queue`."""
        match self:
            case Missing.WORKER:
                return "no worker is alive"
            case Missing.QUEUE:
                return f"no live worker reads the queue {queue}"
            case Missing.GRAPH:
                return f"no live worker of the queue {queue} serves the graph {graph!r}"
            case Missing.QUESTION:
                return "waits for the answer to a question of its thread"


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer of `submit`: `detail` is the task's state, the known graphs, or how much there is of what is full."""

    outcome: Submitted
    detail: str
    missing: Missing | None = None
    stopped: tuple[str, ...] = ()
    """The ids of open tasks of its thread that it has stopped."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer of `renew`: the ids that this worker owns by Redis, and those of them that are to be cancelled."""

    own: frozenset[str]
    cancelled: frozenset[str]
    side_queues: tuple[str, ...] = ()
    """Of its graphs, those that hold tasks."""
    ends_before_ms: int = 0
    """When the lease ended before this renewal, by the server's clock."""
    ends_ms: int = 0
    """When it ends now."""


class Origin(StrEnum):
    """Where a claimed task came from, and whether its data could be read."""

    OURS = "ours"
    ENQUEUED = "enqueued"
    ADOPTED = "adopted"
    """Stock RQ enqueued it, and an earlier attempt has read it."""
    TOO_LONG = "too_long"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Use:
    """What the model calls of a task used, over all its attempts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    estimated_calls: int = 0
    """Calls whose provider did not report what they used."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the client of a job of stock RQ asked for, in seconds, as RQ writes it; empty: nothing."""

    timeout: str = ""
    result_ttl: str = ""
    failure_ttl: str = ""


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
    waits: int
    """How many earlier claims ended with the task waiting before its graph could start."""
    is_cancelled: bool
    used: Use
    """By its earlier attempts."""
    data: bytes
    origin: Origin
    acting_fields: tuple[str, ...]
    """Fields of a job of stock RQ that ask for what we do not do, such as callbacks."""
    claimed_at_ms: int
    blocked_in: str = ""
    """The line (file:line) in which it blocked the event loop of an earlier owner; empty: it did not."""
    group_size: int = 0
    """How many tasks may share its child process, itself included; 0: no child process has died under it."""
    options: JobOptions = JobOptions()
    token: int = 0
    """The fencing token of this claim: microseconds, higher than those of all earlier claims of any task."""

    @property
    def is_from_rq(self) -> bool:
        """Whether stock RQ enqueued it, so that its client reads RQ's result."""
        return self.origin in {Origin.ENQUEUED, Origin.ADOPTED}

    @property
    def attempts(self) -> int:
        """The number of attempts, this one included: claims after which it only waited do not count."""
        return self.epoch - self.waits


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer of `claim`: the tasks, ids that were dropped because they have no pending task, and why if none."""

    tasks: tuple[Claimed, ...]
    dropped: tuple[str, ...]
    odd: tuple[str, ...]
    """Those of them that are not of tasks which ended where they waited."""
    put_aside: int
    """Tasks of graphs that the worker does not serve, moved to the side queues of those that do."""
    has_lease: bool
    is_suspended: bool


class Finished(Enum):
    """What `finish` decided."""

    FENCED = 0
    WRITTEN = 1
    ALREADY_MINE = 2
    TO_ROLL_BACK = 3
    FORGOTTEN = 4


class Stopped(NamedTuple):
    """The answer of `cancel`."""

    state: State | None
    """The one in which the task is now; None: there is no such task."""
    has_ended: bool
    """Whether this very call ended it: of several callers one records the end."""

    @classmethod
    def read(cls, reply: Sequence[Any]) -> Self:
        """Read the script's reply."""
        state, has_ended = reply
        return cls(State(state.decode()) if state else None, bool(has_ended))


class Ownership(Enum):
    """What `owns` decided."""

    GONE = 0
    MINE = 1
    CANCELLED = 2
    OVERDUE = 3


@dataclass(frozen=True, slots=True)
class Swept:
    """The answer of `sweep`: ids queued again; ids of tasks to be ended, which no worker runs.

    These are past their deadline, were removed by RQ's tools, or have a hash that cannot be read.
    """

    again: tuple[str, ...]
    overdue: tuple[str, ...]
    removed: tuple[str, ...]
    has_more: bool
    """Whether more may be past their deadline, or ended ones may lie in a queue."""
    graphs: tuple[str, ...]
    """Served by live workers, if any id is overdue."""
    unreadable: tuple[str, ...]
    open: int
    """Open tasks; 0 while another worker sweeps."""
    spent: tuple[str, ...]
    """Ended tasks without thread whose checkpoints are to go."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """The answer of `reap`: ids taken from dead workers, ids that were due, ids whose thing is free."""

    reaped: tuple[str, ...]
    promoted: tuple[str, ...]
    woken: tuple[str, ...]
    next_due_ms: int
    """Until there may be more that are due or free; an hour at most."""


def read_submission(reply: Sequence[bytes]) -> Submission:
    """Read the reply of submit.lua."""
    outcome, detail, *more = (value.decode(errors="replace") for value in reply)
    return Submission(Submitted(outcome), detail, Missing(more[0]) if more and more[0] else None, tuple(more[1:]))


def read_missing(reply: Sequence[bytes]) -> str | None:
    """Read the reply of missing_worker.lua: why no live worker could run a task, or may not yet; None: one could."""
    missing, queue, graph = (value.decode() for value in reply)
    return Missing(missing).explain(queue, graph_name(graph)) if missing else None


def read_lease(reply: Sequence[Any]) -> Lease | None:
    """Read the reply of renew.lua; None: the lease is lost."""
    if not reply[0]:
        return None
    own, cancelled, sides, before, end = reply[1:6]
    return Lease(frozenset(_ids(own)), frozenset(_ids(cancelled)), _ids(sides), whole_number(before), whole_number(end))


def read_swept(reply: Sequence[Any]) -> Swept:
    """Read the reply of sweep.lua."""
    again, overdue, removed, has_more, graphs, unreadable, open_tasks, spent = reply
    ids = (_ids(again), _ids(overdue), _ids(removed))
    return Swept(*ids, bool(has_more), _ids(graphs), _ids(unreadable), open_tasks, _ids(spent))


def read_reaped(reply: Sequence[Any]) -> Reaped:
    """Read the reply of reap.lua."""
    reaped, promoted, woken, next_due_ms = reply
    return Reaped(_ids(reaped), _ids(promoted), _ids(woken), int(next_due_ms))


def read_claim(reply: Sequence[Any]) -> Claim:
    """Read the reply of claim.lua."""
    outcome, now, tasks, dropped, put_aside, odd = reply
    now_ms = int(now)
    return Claim(
        tuple(_claimed(task, now_ms) for task in tasks),
        tuple(id_.decode(errors="replace") for id_ in dropped),
        tuple(id_.decode(errors="replace") for id_ in odd),
        put_aside=put_aside,
        has_lease=outcome != b"no_lease",
        is_suspended=outcome == b"suspended",
    )


def whole_number(value: bytes, otherwise: int = 0) -> int:
    """Read a number of a task's hash, or return `otherwise`: other programs may have written anything there."""
    return int(value) if value.isdigit() and len(value) <= _DIGITS else otherwise


def _claimed(task: Sequence[Any], now_ms: int) -> Claimed:
    id_, epoch, queue, created, started, deadline, crashes, failures, waits, cancelled, used, data, origin = task[:13]
    acting, blocked_in, options, group_size, token = task[13:]
    return Claimed(
        id=id_.decode(),
        epoch=int(epoch),
        queue=queue.decode(),
        created_at_ms=created,
        started_at_ms=started,
        deadline_at_ms=deadline,
        crashes=crashes,
        failures=failures,
        waits=waits,
        is_cancelled=bool(cancelled),
        used=Use(*(whole_number(amount or b"0") for amount in used)),
        data=data,
        origin=Origin(origin.decode()),
        acting_fields=tuple(field.decode() for field in acting),
        claimed_at_ms=now_ms,
        blocked_in=blocked_in.decode(errors="replace"),
        options=JobOptions(*(option.decode(errors="replace") for option in options)),
        group_size=group_size,
        token=token,
    )


def _ids(reply: Sequence[bytes]) -> tuple[str, ...]:
    """Decode ids; those that a program wrote which knows no ids of ours must not hide the others."""
    return tuple(id_.decode(errors="replace") for id_ in reply)
