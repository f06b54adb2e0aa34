"""The queue: who owns which task, decided in one Lua script per verb, on RQ's keys so that RQ's tools keep working.

Every state change of a task carries (id, epoch, worker) and is refused when stale; the epoch grows at each claim. Time
is always the server's. No task lives in a process only: the set of a worker's own ids in Redis is the truth.

Pattern: reliable queue with leases and fencing tokens; see Kleppmann, "How to do distributed locking" (2016).
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import (
    Claim,
    Claimed,
    Finished,
    Lease,
    Ownership,
    Reaped,
    Submission,
    Swept,
    Use,
    read_claim,
    read_lease,
    read_missing,
    read_reaped,
    read_submission,
    read_swept,
)
from langgraph_rq.shared.queue.events import LONGEST_STREAM
from langgraph_rq.shared.queue.keys import (
    DELAYED,
    GRAPH_INPUTS,
    GRAPHS,
    OPEN,
    RQ_QUEUES,
    RQ_SUSPENDED,
    RQ_WORKERS,
    SWEEPER,
    WAITS,
    WORKERS,
    JobStatus,
    Question,
    events_key,
    graph_list,
    graph_part,
    job_hash,
    own_key,
    question_key,
    queue_key,
    result_key,
    rq_results_key,
    rq_worker_key,
    scheduled_key,
    serving_key,
    task_hash,
    wip_key,
)
from langgraph_rq.shared.queue.shares import NO_LIMITS, Share
from langgraph_rq.shared.queue.waits import AT_ONCE, Wait
from langgraph_rq.shared.tasks import DEFAULT_LIMITS, EMPTIED_JOB, State, Task

ADOPT_NO_GRAPH = -2

SWEPT = 100
"""Open tasks that one sweep looks at."""

_NOW = ""
"""The script takes the server's time."""


@dataclass(frozen=True, slots=True)
class QueueTimes:
    """How long things are kept, in milliseconds, and how much of something there may be."""

    lease_ms: int = 8_000
    result_ms: int = 3_600_000
    events_ms: int = 300_000
    window_ms: int = 7 * 86_400_000
    adopt_ms: int = 300_000
    job_bytes: int = DEFAULT_LIMITS.job_bytes
    memory_percent: int = 85
    question_ms: int = 86_400_000
    """Deadlines of tasks that wait for the answer to a question stand still for so long."""
    user_tasks: int = 0
    """Tasks of one user in flight at most, in the whole fleet; 0 for any number."""

    def __post_init__(self) -> None:
        """Refuse what would forget a task before it ends."""
        for name in self.__slots__:
            if getattr(self, name) < (name != "user_tasks"):
                raise ValueError(f"expected {name} to be above 0, got: {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Kept:
    """How long the result of one task is kept, in milliseconds."""

    result_ms: int
    failure_ms: int


def submit_call(
    task: Task,
    queue: str,
    times: QueueTimes,
    now_ms: int | str = _NOW,
    *,
    share: Share = NO_LIMITS,
    data: bytes | None = None,
) -> Call[Submission]:
    """Put `task` on `queue` unless its id is known already, or its tenant has its share; `data` is its signed form."""
    key = task.key
    return Call(
        load_script("shared/queue/scripts/submit"),
        [task_hash(key), job_hash(key), RQ_QUEUES, OPEN, GRAPHS, WORKERS],
        [
            key,
            queue,
            data or task.job_data(),
            task.digest,
            graph_part(task.graph),
            int(task.deadline_s * 1000),
            _description(task),
            task.user_key,
            _thread(task),
            _rq_now(),
            times.memory_percent,
            task.graph,
            share.tasks,
            share.held_bytes,
            share.memory_percent,
            EMPTIED_JOB,
            int(task.resume is not None),
            now_ms,
        ],
        read_submission,
    )


def missing_worker_call(task_id: str, now_ms: int | str = _NOW) -> Call[str | None]:
    """Ask why no live worker could run a pending task; None: one could."""
    return Call(load_script("shared/queue/scripts/missing_worker"), [task_hash(task_id)], [now_ms], read_missing)


def renew_call(
    worker: str,
    lease_ms: int,
    queues: Sequence[str],
    graphs: Mapping[str, str],
    *,
    join: bool,
    now_ms: int | str = _NOW,
) -> Call[Lease | None]:
    """Extend the worker's lease (or take one, with `join`); None: the lease is lost, another worker has reaped.

    It also announces that the worker serves these graphs (-> what they take as input) from these queues.
    """
    return Call(
        load_script("shared/queue/scripts/renew"),
        [
            WORKERS,
            own_key(worker),
            GRAPHS,
            GRAPH_INPUTS,
            rq_worker_key(worker),
            RQ_SUSPENDED,
            *map(serving_key, queues),
        ],
        [worker, lease_ms, int(join), json.dumps(dict(graphs)), _rq_now(), graph_list(graphs), now_ms],
        read_lease,
    )


def claim_call(
    worker: str, n: int, queues: Sequence[str], graphs: str, times: QueueTimes, now_ms: int | str = _NOW
) -> Call[Claim]:
    """Take up to `n` tasks, the queues in strict order. A task whose graph is not in the `graph_list` is put aside."""
    return Call(
        load_script("shared/queue/scripts/claim"),
        [WORKERS, own_key(worker), OPEN, RQ_SUSPENDED, rq_worker_key(worker), *map(queue_key, queues)],
        [
            worker,
            n,
            times.job_bytes,
            times.events_ms,
            times.adopt_ms,
            times.user_tasks,
            _rq_now(),
            LONGEST_STREAM,
            graphs,
            now_ms,
        ],
        read_claim,
    )


def adopt_call(
    claimed: Claimed,
    worker: str,
    task: Task,
    times: QueueTimes,
    *,
    is_served: bool = True,
    now_ms: int | str = _NOW,
    data: bytes | None = None,
    kept: Kept | None = None,
) -> Call[int]:
    """Take over a job of stock RQ that holds `task`. Unless its graph `is_served`, put it, or a task of ours, aside.

    `data` is the signed form of the task, which replaces the job's; `kept` is how long its result is, if not as usual.

    Returns its deadline (ms); `ADOPT_NO_GRAPH` if no worker had the graph in the last day; another number below 1 when
    it is not this worker's to run: fenced off, parked for its thread, put aside, or waiting for its user's turn.
    """
    return Call(
        load_script("shared/queue/scripts/adopt"),
        [task_hash(claimed.id), job_hash(claimed.id), OPEN, own_key(worker), GRAPHS],
        [
            claimed.id,
            claimed.epoch,
            worker,
            task.digest,
            int(task.deadline_s * 1000),
            _description(task),
            data or task.job_data(),
            task.user_key,
            _thread(task),
            graph_part(task.graph),
            int(is_served),
            task.graph,
            kept.result_ms if kept else times.result_ms,
            kept.failure_ms if kept else times.result_ms,
            times.user_tasks,
            int(task.resume is not None),
            now_ms,
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
    question: Question = Question.NONE,
    now_ms: int | str = _NOW,
) -> Call[Finished]:
    """Write the terminal result; `failure` is what RQ's tools show as the reason.

    `question` is what the thread shows now: while it shows one, the tasks behind this one wait for its answer.
    """
    task_id, queue = claimed.id, claimed.queue
    job_status = _job_status(state)
    return Call(
        load_script("shared/queue/scripts/finish"),
        [
            task_hash(task_id),
            result_key(task_id),
            events_key(task_id),
            own_key(worker),
            OPEN,
            job_hash(task_id),
            wip_key(queue),
            rq_results_key(task_id),
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
            job_status,
            b64encode(zlib.compress(failure.encode())) if failure else b"",
            _rq_now(),
            f"{run_s:.6f}",
            EMPTIED_JOB if state is State.SUCCESS else b"",
            b64encode(result) if claimed.is_from_rq else b"",
            question,
            times.question_ms,
            now_ms,
        ],
        Finished,
    )


def release_call(
    task_id: str,
    epoch: int,
    queue: str,
    worker: str,
    wait: Wait = AT_ONCE,
    *,
    failed: bool = False,
    group_size: int = 0,
    now_ms: int | str = _NOW,
) -> Call[bool]:
    """Give a task back, to the front of its queue or to wait for something; False: it was not ours any more.

    No crash is charged; `failed` counts against the task's max_attempts. With a `group_size`, that many tasks at most
    may share the task's child process from now on, itself included.
    """
    doubles, is_attempt = int(wait.doubles), int(wait.is_attempt)
    return Call(
        load_script("shared/queue/scripts/release"),
        [task_hash(task_id), own_key(worker), wip_key(queue), job_hash(task_id)],
        [
            task_id,
            epoch,
            worker,
            wait.thing,
            wait.delay_ms,
            doubles,
            int(failed),
            is_attempt,
            LONGEST_STREAM,
            group_size,
            now_ms,
        ],
        bool,
    )


def cancel_call(
    task_id: str, state: State, result: bytes, times: QueueTimes, now_ms: int | str = _NOW
) -> Call[State | None]:
    """End a task that no worker runs as `state` (cancelled or timeout), with `result`.

    A running one is asked to stop when `state` is cancelled: no model call of it starts from then on. Returns the state
    in which it is now; None: there is no such task.
    """
    return Call(
        load_script("shared/queue/scripts/cancel"),
        [task_hash(task_id), result_key(task_id), events_key(task_id), OPEN, job_hash(task_id)],
        [
            task_id,
            state.value,
            result,
            times.result_ms,
            times.events_ms,
            times.window_ms,
            _job_status(state),
            _rq_now(),
            b64encode(result),
            now_ms,
        ],
        lambda reply: State(reply.decode()) if reply else None,
    )


def sweep_call(n: int = SWEPT, now_ms: int | str = _NOW, *, worker: str = "", lease_ms: int = 8_000) -> Call[Swept]:
    """Queue again what is not where its hash says, among the next `n` open tasks; find what is past its deadline.

    One `worker` at a time sweeps: nothing is done for another until `lease_ms` after the last call of that one.

    Drops ended tasks from the head of a queue too, which no worker may read any more.
    """
    return Call(
        load_script("shared/queue/scripts/sweep"),
        [OPEN, SWEEPER, DELAYED, GRAPHS, RQ_QUEUES, WORKERS],
        [n, worker, lease_ms, now_ms],
        read_swept,
    )


def owns_call(task_id: str, epoch: int, worker: str, now_ms: int | str = _NOW) -> Call[Ownership]:
    """Check that the worker still owns the task and may go on with it."""
    return Call(load_script("shared/queue/scripts/owns"), [task_hash(task_id)], [epoch, worker, now_ms], Ownership)


def use_call(task_id: str, used: Use) -> Call[bool]:
    """Add what a model call used to its task; False: the task is not kept any more."""
    args = [used.input_tokens, used.output_tokens, used.cost_nano_usd, used.estimated_calls]
    return Call(load_script("shared/queue/scripts/use"), [task_hash(task_id)], args, bool)


def block_call(task_id: str, epoch: int, worker: str, line: str) -> Call[bool]:
    """Record that a task blocks its worker's event loop in `line` (file:line); False: the worker owns it no more."""
    return Call(load_script("shared/queue/scripts/block"), [task_hash(task_id)], [epoch, worker, line], bool)


def drop_question_call(task_id: str, epoch: int, worker: str, thread: str, *, drops: bool) -> Call[str]:
    """Record that a task `drops` the question that its thread shows, or read what was recorded.

    Returns the id in Redis of the task that asked; empty: none, or the worker does not own the task.
    """
    return Call(
        load_script("shared/queue/scripts/drop_question"),
        [task_hash(task_id), question_key(thread)],
        [epoch, worker, int(drops)],
        lambda reply: reply.decode(errors="replace"),
    )


def leave_call(worker: str) -> Call[int]:
    """Leave the fleet; returns how many tasks the worker still owns, in which case it has not left."""
    return Call(load_script("shared/queue/scripts/leave"), [WORKERS, own_key(worker), SWEEPER], [worker], int)


def reap_call(n: int = 40, now_ms: int | str = _NOW, *, worker: str = "", queues: Sequence[str] = ()) -> Call[Reaped]:
    """Bring back the tasks of dead workers, let tasks go on that are due or free; `n` in all at most.

    Jobs that stock RQ enqueued for later on `queues` are queued when they are due.

    With `worker`, the caller, none is reaped once the caller's own lease is over: what delayed its renewal may have
    delayed those of the others too.
    """
    return Call(
        load_script("shared/queue/scripts/reap"),
        [WORKERS, DELAYED, RQ_WORKERS, WAITS, *map(scheduled_key, queues)],
        [n, worker, LONGEST_STREAM, _rq_now(), now_ms],
        read_reaped,
    )


def _job_status(state: State) -> JobStatus:
    """Return the status with which RQ's tools show a task that ended in `state`."""
    if state is State.CANCELLED:
        return JobStatus.CANCELED
    return JobStatus.FINISHED if state in {State.SUCCESS, State.INTERRUPTED} else JobStatus.FAILED


def _rq_now() -> str:
    """Write the time as RQ does. Its tools show it; nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _description(task: Task) -> str:
    """Describe a task to RQ's tools by its graph and id: nothing that a user wrote stands there."""
    return f"{task.graph} {task.task_id}"


def _thread(task: Task) -> str:
    return "" if task.thread_id is None else task.thread_key
