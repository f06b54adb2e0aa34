"""Move threads between the ways to keep state: export them as JSON lines, and import these.

A line is a checkpoint, with what nodes wrote after it; those of a thread follow each other, oldest first:
    thread, namespace, id, parent   what names it, and the id of the one before it, or null
    kind, content                   checkpoint, metadata and writes, of `StateSerializer`; content is base64
With LGRQ_STATE_KEY the content is encrypted, and imported with the same key. The rows of threads, their runs and the
store are not moved: they are not where checkpoints are, or not in a form that others read.
"""

import base64
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import groupby
from typing import IO, Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from langgraph_rq.shared.errors import LanggraphRqError, SettingsError
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings, load
from langgraph_rq.shared.tasks import own_thread
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer

_FIELDS = {"thread", "namespace", "id", "parent", "kind", "content"}
_OF_TASKS = own_thread("")


class ThreadFileError(LanggraphRqError):
    """A line cannot be imported; nothing of its thread was written."""


class UnknownThreadError(LanggraphRqError):
    """A thread that was named has no checkpoints."""


async def export_threads(out: IO[bytes], threads: Sequence[str]) -> int:
    """Write threads; none named: all, but those that tasks have for themselves.

    Returns:
        How many threads were written.

    Raises:
        UnknownThreadError: a named thread has no checkpoints; those before it were written.
    """
    async with open_context(load(WorkerSettings), load(RedisSettings)) as context:
        saver, serializer = _opened(context.checkpointer, context.serializer)
        written = 0
        async for thread in _named(saver, threads):
            found = sorted([one async for one in saver.alist(_config(thread))], key=_id)
            for one in found:
                out.write(_line(serializer.at(f"thread:{thread}"), thread, one))
            if threads and not found:
                raise UnknownThreadError(f"thread {thread!r}: expected one with checkpoints, got: one without")
            written += bool(found)
        return written


async def import_threads(lines: Iterable[bytes]) -> tuple[int, int]:
    """Write threads that `export_threads` wrote. What was imported before is left as it is.

    Returns:
        How many threads were written, and how many were there already.

    Raises:
        ThreadFileError: a line is none of `export_threads`, or the thread has other checkpoints.
    """
    async with open_context(load(WorkerSettings), load(RedisSettings)) as context:
        saver, serializer = _opened(context.checkpointer, context.serializer)
        documents = (_document(number, line) for number, line in enumerate(lines, 1) if line.strip())
        written = 0
        known = 0
        for thread, group in groupby(documents, key=lambda document: str(document["thread"])):
            if await _import(saver, serializer.at(f"thread:{thread}"), thread, list(group)):
                written += 1
            else:
                known += 1
        return written, known


async def _import(
    saver: Checkpointer, serializer: StateSerializer, thread: str, documents: Sequence[dict[str, Any]]
) -> bool:
    """Write a thread; False: it is there already. One that was imported in part is completed."""
    there = {_id(one) async for one in saver.alist(_config(thread))}
    ids = [str(document["id"]) for document in documents]
    if there - set(ids):
        raise ThreadFileError(f"thread {thread!r}: expected none, or what was imported before, got: other checkpoints")
    read = [_content(serializer, document) for document in documents]
    for document, (checkpoint, metadata, writes) in zip(documents, read, strict=True):
        place = {"thread_id": thread, "checkpoint_ns": str(document["namespace"])}
        above: RunnableConfig = {"configurable": {**place, "checkpoint_id": document["parent"]}}
        if not document["parent"]:
            del above["configurable"]["checkpoint_id"]
        await saver.aput(above, checkpoint, metadata, checkpoint["channel_versions"])
        here: RunnableConfig = {"configurable": {**place, "checkpoint_id": document["id"]}}
        # The paths of nodes, by which writes are in order, are not told: numbers take their place.
        for number, (task, group) in enumerate(groupby(writes, key=lambda write: str(write[0]))):
            await saver.aput_writes(here, [(channel, value) for _, channel, value in group], task, f"{number:08}")
    return set(ids) != there


async def _named(saver: Any, threads: Sequence[str]) -> AsyncIterator[str]:
    for thread in threads:
        yield thread
    seen: set[str] = set()
    if not threads:
        async for thread in saver.athreads():
            if thread not in seen and not thread.startswith(_OF_TASKS):
                seen.add(thread)
                yield thread


def _opened(saver: Any, serializer: StateSerializer | None) -> tuple[Any, StateSerializer]:
    if saver is None or serializer is None or isinstance(saver, ProjectCheckpointer):
        raise SettingsError(
            "threads: expected checkpoints that workers keep, got: LGRQ_CHECKPOINTS=false, or checkpointer.path of "
            "langgraph.json"
        )
    return saver, serializer


def _line(serializer: StateSerializer, thread: str, one: CheckpointTuple) -> bytes:
    kind, data = serializer.dumps_typed([one.checkpoint, one.metadata, list(one.pending_writes or ())])
    named = one.config["configurable"]
    parent = one.parent_config["configurable"]["checkpoint_id"] if one.parent_config else None
    document = {"thread": thread, "namespace": named["checkpoint_ns"], "id": named["checkpoint_id"], "parent": parent}
    return orjson.dumps({**document, "kind": kind, "content": base64.b64encode(data).decode()}) + b"\n"


def _document(number: int, line: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ThreadFileError(f"line {number}: expected JSON, got: {error}") from None
    if not isinstance(document, dict) or document.keys() != _FIELDS:
        got = ", ".join(document) if isinstance(document, dict) else type(document).__name__
        raise ThreadFileError(f"line {number}: expected the fields {', '.join(sorted(_FIELDS))}, got: {got}")
    return document


def _content(serializer: StateSerializer, document: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
    try:
        data = base64.b64decode(document["content"], validate=True)
        checkpoint, metadata, writes = serializer.loads_typed((str(document["kind"]), data))
        return checkpoint, metadata, writes
    except (TypeError, ValueError, RefusedStateError) as error:
        raise ThreadFileError(f"thread {document['thread']!r}, checkpoint {document['id']!r}: {error}") from error


def _config(thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}}


def _id(one: CheckpointTuple) -> str:
    return str(one.config["configurable"]["checkpoint_id"])
