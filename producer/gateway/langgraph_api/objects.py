"""Threads and runs as LangGraph's API shows them, made of what Redis has of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.assistants import assistant_id
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import job_hash, task_hash
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State, task_key
from langgraph_rq.shared.threads.requests import MOST_THREADS
from langgraph_rq.shared.threads.rows import ThreadRow, row_key, runs_key

RUN_STATUS = {
    State.PENDING: "pending",
    State.RUNNING: "running",
    State.SUCCESS: "success",
    State.INTERRUPTED: "success",
    State.ERROR: "error",
    State.TIMEOUT: "timeout",
    State.CANCELLED: "interrupted",
}
"""A run that asks has succeeded; one that was cancelled is interrupted."""

_TASK_FIELDS = ("state", "created", "graph", "thread", "enters")
_SHOWN = (
    "input", "command", "config", "context", "interrupt_before", "interrupt_after", "checkpoint_id", "durability",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread, and whether a run of it has not ended."""

    thread_id: str
    row: ThreadRow
    is_busy: bool
    is_asking: bool

    @property
    def status(self) -> str:
        """Whether it is idle, busy, interrupted or error."""
        if self.is_busy:
            return "busy"
        if self.is_asking or self.row.ended in {State.INTERRUPTED, State.CANCELLED}:
            return "interrupted"
        return "error" if self.row.ended in {State.ERROR, State.TIMEOUT} else "idle"

    @property
    def metadata(self) -> dict[str, Any]:
        """Its own metadata, and the graph of its newest run."""
        graph = self.row.graph
        return {**self.row.metadata, **({"graph_id": graph, "assistant_id": assistant_id(graph)} if graph else {})}

    def answer(self, state: Mapping[str, Any] | None) -> dict[str, Any]:
        """Write it with its state, if it has one."""
        shown: dict[str, Any] = {
            "thread_id": self.thread_id,
            "created_at": instant(self.row.created),
            "updated_at": instant(self.row.updated),
            "state_updated_at": instant(self.row.changed),
            "metadata": self.metadata,
            "status": self.status,
            "config": {"configurable": {}} if self.row.run else {},
            "values": state["values"] if state else None,
        }
        if self.row.run:
            tasks = state["tasks"] if state else ()
            shown["interrupts"] = {task["id"]: task["interrupts"] for task in tasks if task["interrupts"]}
            errors = [task["error"] for task in tasks if task["error"]]
            is_failed = self.status == "error"
            shown["error"] = {"error": "Error", "message": errors[0] if errors else ""} if is_failed else None
        return shown


async def read_threads(caller: Caller, thread_ids: Sequence[str]) -> list[Thread | None]:
    """Read threads, in two round trips; None for each that does not exist."""
    redis = caller.client.redis
    keys = [task_key(thread_id, caller.tenant) for thread_id in thread_ids]
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.hgetall(row_key(key))
        pipeline.exists(f"agent:thread:{key}")
        pipeline.hexists(f"agent:question:{key}", "since")
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    rows = [ThreadRow.read(reply) if isinstance(reply, dict) else None for reply in replies[::3]]
    pipeline = redis.pipeline(transaction=False)
    for row in rows:
        pipeline.hget(task_hash(row.run if row and row.run else ""), "state")
    states: list[Any] = await pipeline.execute(raise_on_error=False) if rows else []
    return [
        Thread(
            thread_id,
            row,
            is_busy=replies[3 * i + 1] == 1 or states[i] in {b"pending", b"running"},
            is_asking=replies[3 * i + 2] == 1,
        )
        if row
        else None
        for i, (thread_id, row) in enumerate(zip(thread_ids, rows, strict=True))
    ]


async def read_thread(caller: Caller, thread_id: str) -> Thread:
    """Read a thread. Raises ProblemError 404."""
    (thread,) = await read_threads(caller, [thread_id])
    if thread is None:
        raise ProblemError(404, "unknown_thread", f"Thread with ID {thread_id[:60]} not found")
    return thread


async def answer_threads(caller: Caller, threads: Sequence[Thread]) -> list[dict[str, Any]]:
    """Write threads with their states, which workers read; without them where no worker answers."""
    states: dict[str, Any] = {}
    by_graph: dict[str, list[str]] = {}
    for thread in threads:
        if thread.row.run and thread.row.graph:
            by_graph.setdefault(thread.row.graph, []).append(thread.thread_id)
    for graph, ids in by_graph.items():
        for start in range(0, len(ids), MOST_THREADS):
            try:
                states |= await caller.client.threads.states(ids[start : start + MOST_THREADS], graph=graph)
            except LanggraphRqError:  # what is listed of them is shown all the same
                break
    return [thread.answer(states.get(thread.thread_id)) for thread in threads]


@dataclass(frozen=True, slots=True)
class Run:
    """A run: a task, as far as Redis still knows it."""

    run_id: str
    thread_id: str
    """Of a run without thread, its own id."""
    state: State
    created: datetime
    graph: str
    task: Mapping[str, Any]
    """As it was submitted; empty once its result is forgotten."""

    def answer(self) -> dict[str, Any]:
        """Write it."""
        shown = {name: self.task.get(name) for name in _SHOWN if self.task.get(name) is not None}
        assistant = assistant_id(self.graph)
        return {
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "assistant_id": assistant,
            "created_at": instant(self.created),
            "updated_at": instant(self.created),
            "status": RUN_STATUS[self.state],
            "metadata": {
                **self.task.get("metadata", {}),
                "graph_id": self.graph,
                "assistant_id": assistant,
                "created_by": "system",
            },
            "kwargs": {**shown, "stream_mode": self.task.get("stream", [])},
            "multitask_strategy": "enqueue",
        }


async def read_runs(caller: Caller, thread_id: str, run_ids: Sequence[str]) -> list[Run | None]:
    """Read runs of a thread, in one round trip; None for each that Redis does not know."""
    pipeline = caller.client.redis.pipeline(transaction=False)
    for run_id in run_ids:
        key = task_key(run_id, caller.tenant)
        pipeline.hmget(task_hash(key), _TASK_FIELDS)
        pipeline.hget(job_hash(key), "task")
    replies: list[Any] = await pipeline.execute(raise_on_error=False) if run_ids else []
    thread = task_key(thread_id, caller.tenant)
    return [_run(run_id, thread_id, thread, replies[2 * i], replies[2 * i + 1]) for i, run_id in enumerate(run_ids)]


def _run(run_id: str, thread_id: str, thread: str, fields: Any, text: Any) -> Run | None:
    try:
        state, created, graph, *threads = fields
        known = State(state.decode())
        of = next((one.decode() for one in threads if one), None)
    except (ValueError, TypeError, AttributeError):  # no such task, or a key of another type
        return None
    if (of is not None and of != thread) or (of is None and thread_id != run_id):
        return None
    try:
        task: Any = read_json(text)[2][0] if text else {}
    except (ValueError, LookupError, TypeError):
        task = {}
    task = task if isinstance(task, dict) else {}
    at = datetime.fromtimestamp(whole_number(created or b"") / 1000, UTC)
    return Run(run_id, thread_id, known, at, task.get("graph") or (graph or b"").decode(errors="replace"), task)


async def read_run(caller: Caller, thread_id: str, run_id: str) -> Run:
    """Read a run of a thread. Raises ProblemError 404."""
    (run,) = await read_runs(caller, thread_id, [run_id])
    is_listed = thread_id == run_id or await is_run(caller, thread_id, run_id)
    if run is None or not is_listed:
        raise ProblemError(404, "unknown_run", f"Run with ID {run_id[:60]} not found")
    return run


async def is_run(caller: Caller, thread_id: str, run_id: str) -> bool:
    """Whether a thread lists a run: one that was deleted is not listed any more."""
    thread, run = task_key(thread_id, caller.tenant), task_key(run_id, caller.tenant)
    return await caller.client.redis.zscore(runs_key(thread), run) is not None


def instant(at: datetime) -> str:
    """Write a time as LangGraph does."""
    return at.isoformat(timespec="microseconds")
