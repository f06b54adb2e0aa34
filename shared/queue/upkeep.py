"""The queue's verbs of upkeep: leases of workers, and bringing back tasks that have lost their owner."""

import json
from collections.abc import Mapping, Sequence

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import (
    Lease,
    Reaped,
    Swept,
    read_lease,
    read_reaped,
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
    SPENT,
    SWEEPER,
    WAITS,
    WORKERS,
    graph_list,
    own_key,
    rq_worker_key,
    scheduled_key,
    serving_key,
)
from langgraph_rq.shared.queue.verbs import NOW, rq_now

SWEPT = 100
"""Open tasks that one sweep looks at."""


def renew_call(
    worker: str,
    lease_ms: int,
    queues: Sequence[str],
    graphs: Mapping[str, str],
    *,
    join: bool,
    models: str = "",
    now_ms: int | str = NOW,
) -> Call[Lease | None]:
    """Extend the worker's lease (or take one, with `join`); None: the lease is lost, another worker has reaped.

    It also announces that the worker serves these graphs (-> what they take as input) from these queues, and whose
    calls it guards: `models`, as in shared/announcements/guarded_models.py.
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
        [worker, lease_ms, int(join), json.dumps(dict(graphs)), rq_now(), graph_list(graphs), models, now_ms],
        read_lease,
    )


def sweep_call(n: int = SWEPT, now_ms: int | str = NOW, *, worker: str = "", lease_ms: int = 8_000) -> Call[Swept]:
    """Queue again what is not where its hash says, among the next `n` open tasks; find what is past its deadline.

    One `worker` at a time sweeps: nothing is done for another until `lease_ms` after the last call of that one.

    Drops ended tasks from the head of a queue too, which no worker may read any more.
    """
    return Call(
        load_script("shared/queue/scripts/sweep"),
        [OPEN, SWEEPER, DELAYED, GRAPHS, RQ_QUEUES, WORKERS, SPENT],
        [n, worker, lease_ms, now_ms],
        read_swept,
    )


def leave_call(worker: str) -> Call[int]:
    """Leave the fleet; returns how many tasks the worker still owns, in which case it has not left."""
    return Call(load_script("shared/queue/scripts/leave"), [WORKERS, own_key(worker), SWEEPER], [worker], int)


def reap_call(n: int = 40, now_ms: int | str = NOW, *, worker: str = "", queues: Sequence[str] = ()) -> Call[Reaped]:
    """Bring back the tasks of dead workers, let tasks go on that are due or free; `n` in all at most.

    Jobs that stock RQ enqueued for later on `queues` are queued when they are due.

    With `worker`, the caller, none is reaped once the caller's own lease is over: what delayed its renewal may have
    delayed those of the others too.
    """
    return Call(
        load_script("shared/queue/scripts/reap"),
        [WORKERS, DELAYED, RQ_WORKERS, WAITS, *map(scheduled_key, queues)],
        [n, worker, LONGEST_STREAM, rq_now(), now_ms],
        read_reaped,
    )
