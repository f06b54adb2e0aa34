"""The queue: who owns which task, decided in one Lua script per verb, on RQ's keys so that RQ's tools keep working.

Every state change of a task carries (id, epoch, worker) and is refused when stale; the epoch grows at each claim. Time
is always the server's. No task lives in a process only: the set of a worker's own ids in Redis is the truth.

Pattern: reliable queue with leases and fencing tokens; see Kleppmann, "How to do distributed locking" (2016).
"""

import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import (
    Stopped,
    Submission,
    read_missing,
    read_submission,
)
from langgraph_rq.shared.queue.keys import (
    GRAPHS,
    OPEN,
    RQ_QUEUES,
    WORKERS,
    JobStatus,
    events_key,
    graph_part,
    job_hash,
    result_key,
    task_hash,
)
from langgraph_rq.shared.queue.records import write_about
from langgraph_rq.shared.queue.shares import NO_LIMITS, Share
from langgraph_rq.shared.tasks import DEFAULT_LIMITS, EMPTIED_JOB, State, Task

NOW = ""
"""The script takes the server's time."""

AWAITED_MS = 90_000
MOST_AWAITED = 200


@dataclass(frozen=True, slots=True)
class QueueTimes:
    """How long things are kept, in milliseconds, and how much of something there may be."""

    lease_ms: int = 8_000
    result_ms: int = 3_600_000
    failed_ms: int = 86_400_000
    """Of a task that failed, timed out or was cancelled: its result, and what is needed to continue it."""
    events_ms: int = 300_000
    window_ms: int = 7 * 86_400_000
    adopt_ms: int = 300_000
    job_bytes: int = DEFAULT_LIMITS.job_bytes
    memory_percent: int = 85
    question_ms: int = 86_400_000
    """Deadlines of tasks that wait for the answer to a question stand still for so long."""
    user_tasks: int = 0
    """Tasks of one user in flight at most, in the whole fleet; 0 for any number."""
    records: int = 100_000
    """Newest runs of a tenant whose records are kept, for a day."""

    def __post_init__(self) -> None:
        """Refuse what would forget a task before it ends."""
        for name in self.__slots__:
            if getattr(self, name) < (name != "user_tasks"):
                raise ValueError(f"expected {name} to be above 0, got: {getattr(self, name)}")

    def kept_ms(self, state: State) -> int:
        """How long the result of a task that ended in `state` is kept: a question as long as it can be answered."""
        if state is State.INTERRUPTED:
            return self.window_ms
        return self.result_ms if state is State.SUCCESS else max(self.failed_ms, self.result_ms)


class Multitask(StrEnum):
    """What becomes of the open tasks of a thread when a new one comes."""

    ENQUEUE = "enqueue"
    """It waits for them."""
    REJECT = "reject"
    """It is refused."""
    INTERRUPT = "interrupt"
    """They are cancelled."""
    ROLLBACK = "rollback"
    """They are cancelled, and what they have written to the thread is removed."""


def submit_call(
    task: Task,
    queue: str,
    times: QueueTimes,
    now_ms: int | str = NOW,
    *,
    share: Share = NO_LIMITS,
    data: bytes | None = None,
    multitask: Multitask = Multitask.ENQUEUE,
    about: bytes | None = None,
) -> Call[Submission]:
    """Put `task` on `queue` unless its id is known already, or its tenant has its share.

    `data` is its signed form; `multitask` says what becomes of the open tasks of its thread. `about` is what its record
    says of it, as `write_about` writes it; None: its metadata.
    """
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
            describe_task(task),
            task.user_key,
            thread_of(task),
            rq_now(),
            times.memory_percent,
            task.graph,
            share.tasks,
            share.held_bytes,
            share.memory_percent,
            EMPTIED_JOB,
            int(task.goes_on),
            *start_of(task),
            multitask,
            write_about({"metadata": task.metadata}) if about is None else about,
            times.records,
            now_ms,
        ],
        read_submission,
    )


def missing_worker_call(task_id: str, now_ms: int | str = NOW) -> Call[str | None]:
    """Ask why no live worker could run a pending task; None: one could."""
    return Call(load_script("shared/queue/scripts/missing_worker"), [task_hash(task_id)], [now_ms], read_missing)


def await_ends_call(task_ids: Sequence[str], reader: str) -> Call[dict[str, bytes | None]]:
    """Ask that the ends of up to `MOST_AWAITED` tasks are pushed to the list of `reader` in the next `AWAITED_MS`.

    Answers the tasks that have a result already; of one that is asked for alone, with the result.
    """
    script = load_script("shared/queue/scripts/await_ends")
    return Call(script, [], [reader, AWAITED_MS, *task_ids], _read_ended)


def _read_ended(reply: Sequence[bytes]) -> dict[str, bytes | None]:
    return {task_id.decode(): document or None for task_id, document in zip(reply[::2], reply[1::2], strict=True)}


def cancel_call(
    task_id: str,
    state: State,
    result: bytes,
    times: QueueTimes,
    now_ms: int | str = NOW,
    *,
    error_type: str = "",
    failure: str = "",
    rollback: bool = False,
    reason: str = "",
) -> Call[Stopped]:
    """End a task that no worker runs as `state` (cancelled or timeout), with `result` and the type of its error.

    `failure` is what RQ's tools show as the reason.

    A running one is asked to stop when `state` is cancelled: no model call of it starts from then on. With `rollback`
    its worker also removes what it has written to its thread; a waiting one that has written something is claimed once
    more for that.
    """
    return Call(
        load_script("shared/queue/scripts/cancel"),
        [task_hash(task_id), result_key(task_id), events_key(task_id), OPEN, job_hash(task_id)],
        [
            task_id,
            state.value,
            result,
            times.kept_ms(state),
            times.events_ms,
            times.window_ms,
            job_status(state),
            rq_now(),
            b64encode(result),
            error_type,
            int(rollback),
            reason,
            rq_failure(failure),
            now_ms,
        ],
        Stopped.read,
    )


def job_status(state: State) -> JobStatus:
    """Return the status with which RQ's tools show a task that ended in `state`."""
    if state is State.CANCELLED:
        return JobStatus.CANCELED
    return JobStatus.FINISHED if state in {State.SUCCESS, State.INTERRUPTED} else JobStatus.FAILED


def rq_failure(text: str) -> bytes:
    """Write the reason of a failure as RQ does; nothing for an empty one."""
    return b64encode(zlib.compress(text.encode())) if text else b""


def rq_now() -> str:
    """Write the time as RQ does. Its tools show it; nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def describe_task(task: Task) -> str:
    """Describe a task to RQ's tools by its graph and id: nothing that a user wrote stands there."""
    return f"{task.graph} {task.task_id}"


def start_of(task: Task) -> tuple[int, int]:
    """Return when a task is to start: after so many ms, and at that instant (ms since the epoch); 0: at once."""
    return round((task.delay_s or 0) * 1000), round(task.run_at.timestamp() * 1000) if task.run_at else 0


def thread_of(task: Task) -> str:
    """Return the thread whose tasks run one at a time with this one; empty: it has none of its own."""
    return "" if task.thread_id is None else task.thread_key
