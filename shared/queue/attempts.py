"""The queue's verbs of an attempt: what a worker asks and says about a task that it claims or owns."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import (
    Claim,
    Claimed,
    Finished,
    Ownership,
    Use,
    read_claim,
)
from langgraph_rq.shared.queue.events import LONGEST_STREAM
from langgraph_rq.shared.queue.keys import (
    GRAPHS,
    OPEN,
    RQ_SUSPENDED,
    WORKERS,
    Question,
    events_key,
    graph_part,
    job_hash,
    own_key,
    question_key,
    queue_key,
    result_key,
    rq_results_key,
    rq_worker_key,
    task_hash,
    wip_key,
)
from langgraph_rq.shared.queue.records import write_about
from langgraph_rq.shared.queue.verbs import (
    NOW,
    QueueTimes,
    describe_task,
    job_status,
    rq_failure,
    rq_now,
    start_of,
    thread_of,
)
from langgraph_rq.shared.queue.waits import AT_ONCE, Wait
from langgraph_rq.shared.tasks import EMPTIED_JOB, State, Task

ADOPT_NO_GRAPH = -2


@dataclass(frozen=True, slots=True)
class Kept:
    """How long the result of one task is kept, in milliseconds."""

    result_ms: int
    failure_ms: int


def claim_call(
    worker: str, n: int, queues: Sequence[str], graphs: str, times: QueueTimes, now_ms: int | str = NOW
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
            rq_now(),
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
    now_ms: int | str = NOW,
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
            describe_task(task),
            data or task.job_data(),
            task.user_key,
            thread_of(task),
            graph_part(task.graph),
            int(is_served),
            task.graph,
            kept.result_ms if kept else times.result_ms,
            kept.failure_ms if kept else times.kept_ms(State.ERROR),
            times.user_tasks,
            int(task.goes_on),
            *start_of(task),
            write_about({"metadata": task.metadata}),
            times.records,
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
    error_type: str | None = None,
    run_s: float = 0.0,
    question: Question = Question.NONE,
    is_rolled_back: bool = False,
    spent_thread: str = "",
    kept_ms: int = 0,
    last_checkpoint: bytes = b"",
    now_ms: int | str = NOW,
) -> Call[Finished]:
    """Write the terminal result; `failure` is what RQ's tools show as the reason, `error_type` what lists of runs do.

    `question` is what the thread shows now: while it shows one, the tasks behind this one wait for its answer. A task
    that is to be rolled back ends once it `is_rolled_back`. The checkpoints of its own `spent_thread`, if they are in
    the same Redis, are kept for `kept_ms` from now on; those of a thread that it names at most so long. A task does not
    end whose `last_checkpoint` on the thread that it names is not there, unless the thread was deleted; empty: it is
    not looked for.
    """
    task_id, queue = claimed.id, claimed.queue
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
            times.kept_ms(state),
            times.events_ms,
            times.window_ms,
            job_status(state),
            rq_failure(failure),
            rq_now(),
            f"{run_s:.6f}",
            EMPTIED_JOB if state is State.SUCCESS else b"",
            b64encode(result) if claimed.is_from_rq else b"",
            question,
            times.question_ms,
            error_type or "",
            int(is_rolled_back),
            spent_thread,
            kept_ms,
            last_checkpoint,
            claimed.token,
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
    now_ms: int | str = NOW,
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


def owns_call(task_id: str, epoch: int, worker: str, now_ms: int | str = NOW) -> Call[Ownership]:
    """Check that the worker still owns the task and may go on with it."""
    return Call(
        load_script("shared/queue/scripts/running/owns"), [task_hash(task_id)], [epoch, worker, now_ms], Ownership
    )


def use_call(task_id: str, used: Use) -> Call[bool]:
    """Add what a model call used to its task; False: the task is not kept any more."""
    args = [used.input_tokens, used.output_tokens, used.cost_nano_usd, used.estimated_calls]
    return Call(load_script("shared/queue/scripts/running/use"), [task_hash(task_id)], args, bool)


def block_call(task_id: str, epoch: int, worker: str, line: str) -> Call[bool]:
    """Record that a task blocks its worker's event loop in `line` (file:line); False: the worker owns it no more."""
    return Call(load_script("shared/queue/scripts/running/block"), [task_hash(task_id)], [epoch, worker, line], bool)


def drop_question_call(task_id: str, epoch: int, worker: str, thread: str, *, drops: bool) -> Call[str]:
    """Record that a task `drops` the question that its thread shows, or read what was recorded.

    Returns the id in Redis of the task that asked; empty: none, or the worker does not own the task.
    """
    return Call(
        load_script("shared/queue/scripts/running/drop_question"),
        [task_hash(task_id), question_key(thread)],
        [epoch, worker, int(drops)],
        lambda reply: reply.decode(errors="replace"),
    )
