"""What becomes of whole threads: dropping of old checkpoints, runs, copies."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph_rq.worker.state.postgres import statements
from langgraph_rq.worker.state.saver.ids import run_mark, task_name
from langgraph_rq.worker.state.saver.records import Header, value_field, value_name
from langgraph_rq.worker.state.saver.retention import Place, of_runs, plan
from langgraph_rq.worker.state.saver.upkeep import ThreadChangedError

if TYPE_CHECKING:
    from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver

_ATTEMPTS = 3

Choice = Callable[[Mapping[Place, Header]], set[Place]]


async def drop(saver: "PostgresSaver", thread: str, choose: Choice, runs: Sequence[bytes] = ()) -> None:
    """Drop checkpoints of a thread in one statement.

    Args:
        saver: Runs statements.
        thread: Its id.
        choose: Returns what is not wanted, of all that there is. What other checkpoints depend on is not dropped.
        runs: Marks of runs whose writes beside other checkpoints are not wanted either.

    Raises:
        ThreadChangedError: the thread was written to meanwhile, again and again.
        CheckpointFencedError: the thread is another task's by now.
    """
    named = {"thread": thread}
    for _attempt in range(_ATTEMPTS):
        found = await saver.postgres.rows(statements.CHANGES, named)
        if not found:
            return
        values = {
            (row["checkpoint_ns"], row["channel"], row["version"])
            for row in await saver.postgres.rows(statements.VALUES, named)
        }
        headers = {
            (row["checkpoint_ns"], row["checkpoint_id"]): _header(row, values)
            for row in await saver.postgres.rows(statements.HEADERS, named)
        }
        todo = plan(headers, choose(headers))
        fields = {
            value_field(space, value_name(channel, version)): (space, channel, version)
            for space, channel, version in values
        }
        dropped = [fields[field] for field in todo.values if field in fields]
        row = await saver.write(
            statements.DROP,
            thread,
            changes=found[0]["changes"],
            namespaces=[place[0] for place in todo.places],
            ids=[place[1] for place in todo.places],
            value_namespaces=[value[0] for value in dropped],
            channels=[value[1] for value in dropped],
            versions=[value[2] for value in dropped],
            runs=list(runs),
        )
        if row["state"] == "dropped":
            return
    raise ThreadChangedError(f"expected a thread at rest, got one that is written to: {thread!r}")


async def delete_runs(saver: "PostgresSaver", runs: Sequence[str]) -> None:
    """Drop what runs have written."""
    marks = [run_mark(run) for run in runs if run]
    found = await saver.postgres.rows(statements.THREADS_OF_RUNS, {"runs": list(runs), "marks": marks})
    for row in found:
        await drop(saver, row["thread_id"], partial(of_runs, runs=runs), marks)


async def copy(saver: "PostgresSaver", source: str, target: str) -> None:
    """Copy a thread that no task writes to meanwhile; a copy that dies half-way leaves no checkpoint.

    Raises:
        ValueError: the target has checkpoints.
    """
    if await saver.begin(target):
        raise ValueError(f"target_thread_id: expected a new thread, got one with checkpoints: {target!r}")
    reader, writer = saver.serializer_of(source), saver.serializer_of(target)
    for table in ("checkpoint_blobs", "checkpoint_writes"):
        for row in await saver.postgres.rows(f"SELECT * FROM {table} WHERE thread_id = %(thread)s", {"thread": source}):  # noqa: S608
            copied = {name: value for name, value in row.items() if not name.startswith("lgrq_replaced")}
            copied["thread_id"] = target
            if row["blob"] is not None and not (reader.is_plain and writer.is_plain):
                copied["type"], copied["blob"] = writer.dumps_typed(reader.loads_typed((row["type"], row["blob"])))
            await _insert(saver, table, copied)
    await saver.write(statements.COPY, target, source=source)


async def _insert(saver: "PostgresSaver", table: str, row: dict[str, Any]) -> None:
    places = ", ".join(f"%({name})s" for name in row)
    saver.postgres.outages.check_fence()
    await saver.postgres.rows(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places}) ON CONFLICT DO NOTHING",  # noqa: S608 - names of columns
        row,
    )


def _header(row: Mapping[str, Any], values: set[tuple[str, str, str]]) -> Header:
    """Return what decides whether a checkpoint may be dropped, as `retention` reads it."""
    namespace, versions, metadata = row["checkpoint_ns"], row["versions"] or {}, row["metadata"] or {}
    has_value = {channel for channel, version in versions.items() if (namespace, channel, str(version)) in values}
    deltas = metadata.get("counters_since_delta_snapshot") or ()
    return (
        row["parent"],
        [value_name(channel, versions[channel]) for channel in has_value],
        [channel for channel in deltas if channel in versions and channel not in has_value],
        str((metadata.get("parents") or {}).get("", "")),
        str(metadata.get("run_id") or ""),
        task_name(str(metadata.get("task_id") or "")),
    )
