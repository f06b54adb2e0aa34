"""The keys of the queue in Redis, and the words that stand in them. The Lua scripts write the same ones.

Keys (type; lifetime):
    agent:task:<id>        hash    the fields of `TaskField`; as long as its result, an hour at least
    agent:result:<id>      string  the result document; result TTL
    agent:events:<id>      stream  events, see events.py; until a while after the end
    agent:awaited:<id>     set     readers that wait for the task's end; until then, 90 seconds at most
    agent:ended:<reader>   list    ids of tasks that have ended, for a reader that waited for them; a minute
    agent:open             zset    id -> deadline (ms), or when the sweeper looks again at one past it; tasks that are
                                   not terminal; stays
    agent:wait:<thing>     zset    id -> when it may go on at the earliest (ms), of tasks that wait for the thing; an
                                   hour after the last of them came, or while there are any
    agent:delayed          zset    id -> when it goes on at the latest (ms), of all tasks that wait for a thing or for
                                   their time; stays
    agent:waits            zset    thing -> from when on some of its tasks may go on (ms); stays while any may wait
    agent:wait_limits      hash    thing -> how many of its tasks, if not all; stays while any may wait
    agent:runnable:<queue> hash    user -> ids of theirs in rq:queue:<queue>; stays while there are any
    agent:emptied:<queue>  string  when RQ's `Queue.empty` was noticed (ms): what waited then is cancelled; a day
    agent:tenant_turns:<queue>  hash  tenant -> ids of its in rq:queue:<queue>; stays while there are any
    agent:tenant_line:<queue>:<tenant>  zset  user -> position; users with a waiting task and none on the queue's list;
                                   stays while there are any
    agent:waiting:<queue>:<user>  list  ids that wait for their user's turn; stays while there are any
    agent:tenants          zset    tenant -> about how many bytes its tasks and results take; stays while there are any
    agent:tenant_open:<tenant>  zset  id -> bytes charged for the open task; stays while there are any
    agent:tenant_kept:<tenant>  hash  instant (ms) -> bytes of ended tasks that are forgotten by then; twice the
                                   result TTL
    agent:in_flight        hash    user -> tasks that run; stays while there are any
    agent:capped:<user>    set     queues in which only the cap holds a user back; stays while it does
    agent:thread:<thread>  list    open tasks of a thread, in order; stays while there are any
    agent:question:<thread>  hash  how long deadlines in the thread stand still for the question that it shows; until
                                   the thread goes on, at most the idempotency window and `LGRQ_QUESTION_WAIT_S`
    agent:bell:<queue>     list    one entry while a worker is about to be woken for the queue; an hour
    agent:watcher:<queue>  string  the worker that watches the queue for what other programs push; seconds
    agent:sweeper          hash    worker, until (ms): who sweeps for the fleet; from: how far it got; drops:
                                   the queue of which it drops ended tasks; a day
    agent:spent            list    ids of tasks without thread that ended while they waited, until the sweeper lets
                                   their checkpoints go; the idempotency window at most
    agent:memory           hash    hour since the epoch -> bytes that Redis used when it began; two days
    agent:workers          zset    worker -> lease end (ms); stays, a dead worker is removed by `reap`
    agent:own:<worker>     set     ids that the worker owns; emptied by `finish`, `release` and `reap`
    agent:graphs           zset    graph -> until when a live worker serves it (ms); a day
    agent:serving:<queue>  zset    graphs that a live worker of the queue serves, `,a,b,` -> until when (ms); a day
    agent:graph_inputs     hash    graph -> what it takes as input, JSON as in shared/graphs/input.py; a day
    agent:token            string  fencing token of the last claim: microseconds, higher than all before it; a day
    rq:queue:<queue>       list    runnable ids, one per tenant; the others wait for the turns of their user and tenant.
                                   A queue may be a side queue, `<queue>:<graph>`: tasks that not all workers of the
                                   queue can run
    rq:job:<id>            hash    RQ's job, its `task` holds the task, or its `data` if stock RQ enqueued it and no
                                   worker has read it; until the result TTL after its end
    rq:deferred:<queue>    zset    tasks that wait, and while there are any those on the list, see emptied.lua; stays
                                   while there are any
    rq:wip:<queue>         zset    `<id>:<epoch>` of running tasks
    rq:executions:<id>     zset    the epoch of the attempt that runs; until it ends, a day at most
    rq:execution:<id>:<epoch>  hash  its worker, when it began, and the last renewal; likewise
    rq:finished:<queue>    zset    id -> when to forget it (s); result TTL; rq:failed: and rq:canceled: likewise
    rq:scheduled:<queue>   zset    id -> when it is to be queued (s), of jobs that RQ's clients enqueued for later; as
                                   RQ keeps it
    rq:job::<id>:dependencies, rq:job:<id>:dependents
                           set     jobs of stock RQ that wait for others; as RQ keeps them, until such a job is refused
    rq:results:<id>        stream  failures, and the result documents of jobs that stock RQ enqueued, for RQ's clients;
                                   result TTL
    rq:queues, rq:workers, rq:workers:<queue>, rq:worker:<worker>: RQ's registers, as RQ keeps them
    rq:suspended           string  while `rq suspend` holds, as RQ keeps it
"""

from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import quote, unquote

OPEN = "agent:open"
DELAYED = "agent:delayed"
WAITS = "agent:waits"
SWEEPER = "agent:sweeper"
LAST_CLAIM = "agent:token"
SPENT = "agent:spent"
MEMORY = "agent:memory"
WORKERS = "agent:workers"
GRAPHS = "agent:graphs"
GRAPH_INPUTS = "agent:graph_inputs"
RQ_QUEUES = "rq:queues"
RQ_WORKERS = "rq:workers"
RQ_SUSPENDED = "rq:suspended"

QUEUE_PREFIX = "rq:queue:"

SIDE_QUEUES = "agent:side_queues"
"""The channel that names each side queue to which a task was added."""


class TaskField(StrEnum):
    """The fields of a task's hash. Instants are milliseconds of the server's clock."""

    STATE = "state"
    EPOCH = "epoch"
    """The number of claims, and the fencing token of the attempt."""
    OWNER = "owner"
    """The worker that runs it."""
    QUEUE = "queue"
    GRAPH = "graph"
    """As `graph_part` writes it. A job of stock RQ has none until it was read."""
    WAITS = "waits"
    """How many claims ended with the task waiting before its graph could start; they are no attempts."""
    WAITS_FOR = "waits_for"
    """What it waits for, or waited for last; see waits.py."""
    WAITS_SINCE = "waits_since"
    """When the first of its waits in a row for that began."""
    WAITS_IN_ROW = "waits_in_row"
    """How often in a row it has waited for that."""
    WAITS_UNTIL = "waits_until"
    """When it goes on at the earliest."""
    KEPT_FOR = "kept_for"
    """`<epoch>:<thing>` while that attempt waits for a thing in its worker's memory; empty once it goes on."""
    PLACE = "place"
    """One of `Place`."""
    USER = "user"
    THREAD = "thread"
    DIGEST = "digest"
    """Of the task's body: tells a repeated submission from another task. Empty for a job of stock RQ."""
    RUN = "run"
    """Its number among the runs of its tenant; see records.py."""
    CREATED = "created"
    STARTED = "started"
    """The first claim."""
    DEADLINE = "deadline"
    CRASHES = "crashes"
    """How many of its owners died."""
    FAILURES = "failures"
    """How many attempts its graph failed."""
    CANCEL = "cancel"
    """Set when the task is to be stopped; `rollback`: and what it has written to its thread removed."""
    CANCEL_REASON = "cancel_reason"
    """Who wanted that."""
    ROLLBACK_UNTIL = "rollback_until"
    """Until when a task that is to be rolled back is kept for a worker that can do it."""
    BLOCKED_IN = "blocked_in"
    """The line (file:line) in which it kept an owner's event loop from running for long."""
    GROUP_SIZE = "group_size"
    """How many tasks may share its child process, itself included: half of those under which the last one died."""
    EVENTS = "events"
    """`<epoch>:<number>` of the events that the attempt has written."""
    RESULT_MS = "result_ms"
    """How long the result of a job that stock RQ enqueued is kept; other tasks have none."""
    FAILURE_MS = "failure_ms"
    """Likewise, when it ends as a failure."""
    ANSWERS = "answers"
    """Set when it answers a question of its thread."""
    ENTERS = "enters"
    """The thread that it enters when its time to start has come."""
    DROPPED = "dropped"
    """The task whose question this one has dropped: it was sent to the thread instead of an answer."""
    STILL_BEFORE = "still_before"
    """For how long (ms) deadlines of its thread had stood still when it was parked, or last looked at."""
    STOOD_STILL = "stood_still"
    """How much (ms) its deadline was put off since."""
    DELETED = "deleted"
    """Set when its run was deleted, by LangGraph's API: it is listed no more."""
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST_NANO_USD = "cost_nano_usd"
    ESTIMATED_CALLS = "estimated_calls"
    """Model calls whose usage the provider did not report."""


class Place(StrEnum):
    """Where a task is."""

    QUEUE = "queue"
    """In its queue's list."""
    WAITING = "waiting"
    """Behind other tasks of its user, or other users of its tenant."""
    PARKED = "parked"
    """Behind another task of its thread."""
    DELAYED = "delayed"
    """In the set of a thing that it waits for, or waiting for its time."""
    OWNED = "owned"
    """With a worker."""
    DONE = "done"


class Question(StrEnum):
    """What the end of a task means for the question that its thread shows."""

    ASKED = "asks"
    """It asks one itself."""
    KEPT = "keeps"
    """It leaves that of an earlier task open."""
    NONE = ""
    """There is none, or no longer one."""


class JobStatus(StrEnum):
    """RQ's words for the states of a job, as its tools show them."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"


def task_hash(task_id: str) -> str:
    """Name the hash that holds a task's state."""
    return f"agent:task:{task_id}"


def result_key(task_id: str) -> str:
    """Name the string that holds a task's result document."""
    return f"agent:result:{task_id}"


def events_key(task_id: str) -> str:
    """Name the stream that holds a task's events."""
    return f"agent:events:{task_id}"


def awaited_key(task_id: str) -> str:
    """Return the set of readers that wait for a task's end."""
    return f"agent:awaited:{task_id}"


def ended_key(reader: str) -> str:
    """Return the list of ended tasks that a reader waited for."""
    return f"agent:ended:{reader}"


def commands_channel(worker: str) -> str:
    """Name the channel on which a worker is asked to stop a task. RQ's own is open to more users."""
    return f"agent:commands:{worker}"


def queue_key(queue: str) -> str:
    """Name the list that holds a queue's runnable ids."""
    return f"{QUEUE_PREFIX}{queue}"


def bell_key(queue: str) -> str:
    """Name the list on which idle workers wait for work of a queue; each entry wakes one."""
    return f"agent:bell:{queue}"


def watcher_key(queue: str) -> str:
    """Name the string that holds the worker which watches a queue."""
    return f"agent:watcher:{queue}"


def side_queue(queue: str, graph: str) -> str:
    """Name the queue for tasks of `graph` that not all workers of `queue` can run."""
    return f"{queue}:{graph_part(graph)}"


def serving_key(queue: str) -> str:
    """Name the set of what the live workers of a queue serve."""
    return f"agent:serving:{queue}"


def graph_part(graph: str) -> str:
    """Write a graph's name, which may hold any characters, as a part of a key."""
    # No two dashes in a row: they separate the tenant from the user in the key that follows it.
    return quote(graph, safe="").replace("--", "-%2D")


def graph_name(part: str) -> str:
    """Read a graph's name from what `graph_part` wrote."""
    return unquote(part)


def graph_list(graphs: Iterable[str]) -> str:
    """Write the names of a worker's graphs as scripts compare them."""
    return f",{','.join(sorted(map(graph_part, graphs)))},"


JOB_TASK = ("task", "data")
"""The fields of RQ's job that hold the task: the first that is there."""


def job_hash(task_id: str) -> str:
    """Name RQ's hash of a job."""
    return f"rq:job:{task_id}"


def tenant_open_key(tenant: str) -> str:
    """Name the set of a tenant's open tasks."""
    return f"agent:tenant_open:{tenant}"


def question_key(thread: str) -> str:
    """Name the hash of the question that a thread shows."""
    return f"agent:question:{thread}"


def wip_key(queue: str) -> str:
    """Name RQ's registry of a queue's running jobs."""
    return f"rq:wip:{queue}"


def scheduled_key(queue: str) -> str:
    """Name RQ's registry of a queue's jobs that were enqueued for later."""
    return f"rq:scheduled:{queue}"


def own_key(worker: str) -> str:
    """Name the set of ids that a worker owns."""
    return f"agent:own:{worker}"


def rq_results_key(task_id: str) -> str:
    """Name RQ's stream of a job's results."""
    return f"rq:results:{task_id}"


def rq_worker_key(worker: str) -> str:
    """Name RQ's hash of a worker."""
    return f"rq:worker:{worker}"
