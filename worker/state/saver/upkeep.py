"""What becomes of whole threads: dropping of old checkpoints, deletion, copies."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.reading import ThreadReader
from langgraph_rq.worker.state.saver.records import Codec, Header, name_of, read_header, split_name
from langgraph_rq.worker.state.saver.retention import Place, Plan, plan
from langgraph_rq.worker.state.saver.thread_keys import run_key, state_key
from langgraph_rq.worker.state.saver.thread_scripts import HAS_CHECKPOINTS, ThreadScripts, accepted

_HEADERS = 500
_DROPPED = 100
_FIELDS = 32
"""The most that one script reads, drops or copies: headers, checkpoints or values, fields."""
_ATTEMPTS = 3
_CHANGED = 2


class ThreadChangedError(LanggraphRqError):
    """The thread was written to while it was decided what to drop of it; nothing more was dropped."""


Choice = Callable[[Mapping[Place, Header]], set[Place]]


async def drop(threads: ThreadScripts, thread: str, choose: Choice) -> set[Place]:
    """Drop checkpoints of a thread, in several steps, of which each is atomic.

    Args:
        threads: Calls the scripts.
        thread: Its id.
        choose: Returns what is not wanted, of all that there is. What other checkpoints depend on is not dropped.

    Returns:
        The places that are left.

    Raises:
        ThreadChangedError: the thread was written to meanwhile, again and again.
        CheckpointFencedError: the thread is another task's by now.
    """
    for _attempt in range(_ATTEMPTS):
        headers = await _read_headers(threads, thread)
        todo = plan(headers, choose(headers))
        if await _carry_out(threads, thread, todo, len(headers)):
            return set(headers) - set(todo.places)
    raise ThreadChangedError(f"expected a thread at rest, got one that is written to: {thread!r}")


async def prune(
    thread_ids: Sequence[str],
    strategy: str,
    delete: Callable[[str], Awaitable[None]],
    keep_newest: Callable[[str], Awaitable[object]],
) -> None:
    """Prune threads as LangGraph's `aprune` says, wherever they are kept.

    Raises:
        ValueError: another strategy.
    """
    if strategy not in {"keep_latest", "delete"}:
        raise ValueError(f"strategy: expected keep_latest or delete, got: {strategy!r}")
    for thread in thread_ids:
        await (delete if strategy == "delete" else keep_newest)(thread)


async def forget_writes(threads: ThreadScripts, thread: str, places: set[Place], run: bytes) -> None:
    """Drop what a run or a task wrote beside the checkpoints of others: answers to questions, and what followed.

    In several steps, of which each is atomic and looks at a part of the thread.
    """
    names = [name_of(*place) for place in sorted(places)]
    at = field = 0
    while at < len(names):
        is_accepted, *reached = await threads.write("forget_writes", thread, [run, field, *names[at : at + _DROPPED]])
        accepted(is_accepted)
        done, field = reached
        at += done


async def expire(threads: ThreadScripts, thread: str, ttl_s: float) -> int:
    """Set the TTL of a thread, 0 deletes it. Returns the number of its checkpoints."""
    count = await threads.write("expire_thread", thread, [round(ttl_s * 1000)], is_after_run=True)
    return accepted(count + 1) - 1


async def copy(threads: ThreadScripts, source: str, target: str) -> None:
    """Copy a thread that no task writes to meanwhile; a copy that dies half-way leaves no checkpoint.

    Raises:
        ValueError: the target has checkpoints.
    """
    if accepted(await threads.begin(target)) == HAS_CHECKPOINTS:
        raise ValueError(f"target_thread_id: expected a new thread, got one with checkpoints: {target!r}")
    reader, writer, cursor = threads.codec(source), threads.codec(target), 0
    while True:
        scan = partial(threads.redis.hscan, state_key(source), cursor, count=_FIELDS)
        cursor, fields = await threads.outages.retry(cast("Callable[[], Awaitable[tuple[int, Any]]]", scan))
        moved = {field: _moved(field, value, reader, writer) for field, value in fields.items() if field != b"t"}
        pairs = [part for pair in moved.items() for part in pair]
        await threads.write("copy_in", target, [threads.ttl_ms, 0, *pairs])
        if not cursor:
            break
    async for names in ThreadReader(threads).names(source):
        await threads.write("copy_in", target, [threads.ttl_ms, len(names), *names])


async def threads_of(threads: ThreadScripts, run: str) -> list[str]:
    """Return the threads in which a run has written checkpoints."""
    members = partial(threads.redis.smembers, run_key(run))
    found = await threads.outages.retry(cast("Callable[[], Awaitable[set[bytes]]]", members))
    return sorted(thread.decode() for thread in found)


async def _read_headers(threads: ThreadScripts, thread: str) -> dict[Place, Header]:
    found: dict[Place, Header] = {}
    last = b""
    while True:
        _, *pairs = await threads.read("headers", thread, [last, _HEADERS])
        for name, packed in zip(pairs[::2], pairs[1::2], strict=True):
            found[split_name(name)] = _header(packed)
        if len(pairs) < 2 * _HEADERS:
            return found
        last = pairs[-2]


def _header(packed: bytes) -> Header:
    try:
        return read_header(packed)
    except RefusedStateError:  # it cannot be read, and is dropped as one that nothing depends on
        return "", [], [], "", "", ""


async def _carry_out(threads: ThreadScripts, thread: str, todo: Plan, count: int) -> bool:
    """Drop what is planned; False: the thread has changed since then."""
    for at in range(0, len(todo.places), _DROPPED):
        names = [name_of(*place) for place in todo.places[at : at + _DROPPED]]
        if accepted(await threads.write("drop", thread, [count, len(names), *names])) == _CHANGED:
            return False
        count -= len(names)
    for at in range(0, len(todo.values), _DROPPED):
        values = todo.values[at : at + _DROPPED]
        if accepted(await threads.write("drop", thread, [count, 0, *values])) == _CHANGED:
            return False
    return True


def _moved(field: bytes, value: bytes, reader: Codec, writer: Codec) -> bytes:
    """Return what a field holds as another thread keeps it."""
    match field[:1]:
        case b"c":
            return reader.move_record(value, writer)
        case b"w" | b"s":
            return reader.move_rows(value, writer)
        case b"v":
            return reader.move(value, writer)
        case _:
            return value
