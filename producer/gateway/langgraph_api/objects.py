"""Threads and runs as LangGraph's API shows them, made of what Redis has of them."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.assistants import assistant_id
from langgraph_rq.producer.gateway.langgraph_api.ids import thread_of_its_own
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import LanggraphRqError, UnknownTaskError
from langgraph_rq.shared.queue.keys import question_key, result_key
from langgraph_rq.shared.queue.records import MOST_READ, RunRecord, list_thread_runs_call, read_runs_call
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State, task_key, thread_key
from langgraph_rq.shared.threads.requests import MOST_THREADS
from langgraph_rq.shared.threads.rows import ThreadRow, index_key, read_call, row_key, runs_key

MOST_LISTED = 1_000
"""Runs of a thread that are listed."""

_FEW = 10
"""Runs that are read at once where older ones are known."""

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

T = TypeVar("T")

SERVERS = frozenset({"run_id", "graph_id", "assistant_id", "thread_id"})
"""What the server adds to a run's `configurable`."""


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

    def answer(self, state: Mapping[str, Any] | None, last: "LastRun | None" = None) -> dict[str, Any]:
        """Write it, with its state and what is known of its newest run, if there are any."""
        shown: dict[str, Any] = {
            "thread_id": self.thread_id,
            "created_at": instant(self.row.created),
            "updated_at": instant(self.row.updated),
            "state_updated_at": instant(self.row.changed),
            "metadata": self.metadata,
            "status": self.status,
            "config": {"configurable": {}} if self.row.run else {},
            "values": state["values"] if state and state["checkpoint"] else None,
        }
        if self.row.is_used:
            tasks = state["tasks"] if state else ()
            shown["interrupts"] = {task["id"]: task["interrupts"] for task in tasks if task["interrupts"]}
            shown["error"] = last.error if last and self.status == "error" else None
            if self.row.ended is State.CANCELLED and not self.is_busy:
                shown["error"] = {
                    "error": "UserInterrupt",
                    "message": (last and last.reason) or "the run was cancelled",
                }
            if last:
                shown["config"] = last.config
        return shown


@dataclass(frozen=True, slots=True)
class LastRun:
    """What a thread shows of its newest run."""

    config: Mapping[str, Any]
    error: Mapping[str, str] | None
    reason: str | None
    """Why it was cancelled."""


async def read_threads(caller: Caller, thread_ids: Sequence[str]) -> list[Thread | None]:
    """Read threads, in one round trip; None for each that does not exist."""
    calls = [read_call(thread_key(thread_id, caller.tenant)) for thread_id in thread_ids]
    return [
        Thread(thread_id, one.row, is_busy=one.is_busy, is_asking=one.is_asking) if one else None
        for thread_id, one in zip(thread_ids, await _run_all(caller, calls), strict=True)
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
        if thread.row.is_used and thread.row.graph:
            by_graph.setdefault(thread.row.graph, []).append(thread.thread_id)
    for graph, ids in by_graph.items():
        for start in range(0, len(ids), MOST_THREADS):
            try:
                states |= await caller.client.threads.states(ids[start : start + MOST_THREADS], graph=graph)
            except LanggraphRqError:  # what is listed of them is shown all the same
                break
    lasts = await _last_runs(caller, threads)
    return [thread.answer(states.get(thread.thread_id), last) for thread, last in zip(threads, lasts, strict=True)]


async def _last_runs(caller: Caller, threads: Sequence[Thread]) -> list[LastRun | None]:
    redis = caller.client.redis
    calls = [read_runs_call([thread.row.run or ""], thread_key(thread.thread_id, caller.tenant)) for thread in threads]
    records = await _read_records(caller, calls)
    pipeline = redis.pipeline(transaction=False)
    for thread in threads:
        pipeline.get(result_key(thread.row.run or ""))
    results: list[Any] = await pipeline.execute(raise_on_error=False) if threads else []
    found: list[LastRun | None] = []
    for thread, record, result in zip(threads, records, results, strict=True):
        config = dict((record.about.get("kwargs", {}) if record else {}).get("config") or {})
        config.pop("metadata", None)
        own = {name: value for name, value in config.get("configurable", {}).items() if name not in SERVERS}
        ended = _document(result)
        reason = (ended.get("metadata") or {}).get("cancel_reason")
        found.append(LastRun({**config, "configurable": own}, failure(ended), reason) if thread.row.run else None)
    return found


def _document(text: Any) -> dict[str, Any]:
    """Read a result; empty if there is none, or another program's."""
    try:
        found = read_json(text) if isinstance(text, bytes) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Run:
    """A run: a task, as far as Redis still knows it."""

    run_id: str
    thread_id: str
    state: State
    created: datetime
    graph: str
    record: Mapping[str, Any]
    """What its client asked for; empty if it came by another door."""
    started_ms: int = 0
    """When a worker first had it; 0: none has."""

    def answer(self) -> dict[str, Any]:
        """Write it."""
        return {
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "assistant_id": assistant_id(self.graph),
            "created_at": instant(self.created),
            "updated_at": instant(self.created),
            "status": RUN_STATUS[self.state],
            "metadata": self.record.get("metadata", {}),
            "kwargs": self.record.get("kwargs", {}),
            "multitask_strategy": self.record.get("multitask_strategy", "enqueue"),
        }


async def read_runs(caller: Caller, thread_id: str, run_ids: Sequence[str]) -> list[Run | None]:
    """Read runs of a thread, in one round trip; None for each that Redis does not know."""
    is_own = thread_id in map(thread_of_its_own, run_ids)
    places = [(thread_id, run_id) for run_id in run_ids]
    return await _read_runs(caller, places, "" if is_own else thread_key(thread_id, caller.tenant))


async def read_each_run(caller: Caller, places: Sequence[tuple[str, str]]) -> list[Run | None]:
    """Read open runs as `read_runs` does, each of its own thread: (thread, run)."""
    return await _read_runs(caller, places, "")


async def _read_runs(caller: Caller, places: Sequence[tuple[str, str]], thread: str) -> list[Run | None]:
    keys = [task_key(run_id, caller.tenant) for _, run_id in places]
    calls = [read_runs_call(keys[start : start + MOST_READ], thread) for start in range(0, len(keys), MOST_READ)]
    return [
        _run(run_id, thread_id, thread_key(thread_id, caller.tenant), record)
        for (thread_id, run_id), record in zip(places, await _read_records(caller, calls), strict=True)
    ]


async def read_records(caller: Caller, keys: Sequence[str]) -> list[RunRecord | None]:
    """Read runs by their ids in Redis, in one round trip; None for each that Redis does not know."""
    calls = [read_runs_call(keys[start : start + MOST_READ]) for start in range(0, len(keys), MOST_READ)]
    return await _read_records(caller, calls)


async def _read_records(
    caller: Caller, calls: Sequence[scripts.Call[list[RunRecord | None]]]
) -> list[RunRecord | None]:
    """Read what calls of `read_runs_call` answer, in one round trip."""
    return [record for page in await _run_all(caller, calls) for record in page]


async def _run_all(caller: Caller, calls: Sequence[scripts.Call[T]]) -> list[T]:
    """Run calls in one round trip, a single one with those of other requests. Raises the first error of one."""
    if len(calls) == 1:
        return [await caller.client.batcher.run(calls[0])]
    replies = await scripts.run_many(caller.client.redis, calls) if calls else []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _run(run_id: str, thread_id: str, thread: str, record: RunRecord | None) -> Run | None:
    if record is None or record.created is None:
        return None
    if record.thread != thread and (record.thread or thread_id != thread_of_its_own(run_id)):
        return None
    name = record.about.get("graph") or record.graph
    started_ms = round(record.started.timestamp() * 1000) if record.started else 0
    return Run(run_id, thread_id, record.state, record.created, name, record.about, started_ms)


def failure(result: Any) -> dict[str, str] | None:
    """Write why a run failed, as `{error, message}`; None: it did not."""
    error = result.get("error")
    if not error or result.get("status") not in {State.ERROR, State.TIMEOUT}:
        return None
    name = (error.get("exception") or error["type"]).rpartition(".")[2]
    message = error["message"].removeprefix(f"{name}: ") if error.get("exception") else error["message"]
    return {"error": name, "message": message}


async def read_run(caller: Caller, thread_id: str, run_id: str) -> Run:
    """Read a run of a thread. Raises ProblemError 404."""
    (run,) = await read_runs(caller, thread_id, [run_id])
    if run is None:
        raise ProblemError(404, "unknown_run", f"Run with ID {run_id[:60]} not found")
    return run


async def newest_runs(
    caller: Caller, thread_id: str, most: int = MOST_LISTED, known: Collection[str] = ()
) -> list[Run]:
    """Read the newest runs of a thread, the newest first: `most` or a few more, up to the first that is known."""
    thread = thread_key(thread_id, caller.tenant)
    found: dict[str, Run] = {}  # a run that comes meanwhile shifts the pages
    size = _FEW if known else max(min(most, MOST_READ), _FEW)
    for start in range(0, MOST_LISTED, size):
        page = await scripts.run(caller.client.redis, list_thread_runs_call(thread, start, size))
        for record in filter(None, page):
            run_id = record.key.removeprefix(task_key("", caller.tenant))
            if run_id in known:
                return list(found.values())
            run = _run(run_id, thread_id, thread, record)
            if run:
                found.setdefault(run_id, run)
        if len(page) < size or len(found) >= most:
            break
    return list(found.values())


async def open_runs(caller: Caller, thread_id: str) -> list[str]:
    """Read the ids of a thread's runs that have not ended."""
    return [run.run_id for run in await newest_runs(caller, thread_id) if not run.state.is_terminal]


async def cancel_runs(caller: Caller, run_ids: Sequence[str], *, rollback: bool = False, reason: str = "") -> None:
    """Cancel runs, `MOST_READ` side by side; those that have expired meanwhile are skipped."""
    for start in range(0, len(run_ids), MOST_READ):
        page = run_ids[start : start + MOST_READ]
        cancelling = (caller.client.cancel(run_id, rollback=rollback, reason=reason) for run_id in page)
        for ended in await asyncio.gather(*cancelling, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, UnknownTaskError):
                raise ended


async def forget_threads(caller: Caller, thread_ids: Sequence[str]) -> None:
    """Delete what is listed of threads, and the records of their runs."""
    for thread_id in thread_ids:
        key, redis = thread_key(thread_id, caller.tenant), caller.client.redis
        pipeline = redis.pipeline(transaction=True)
        pipeline.delete(row_key(key), runs_key(key), question_key(key))
        pipeline.zrem(index_key(caller.tenant), key)
        await pipeline.execute()


def instant(at: datetime) -> str:
    """Write a time as LangGraph does."""
    return at.isoformat(timespec="microseconds")
