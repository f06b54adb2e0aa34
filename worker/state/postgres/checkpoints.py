"""Checkpoints in Postgres: the tables and the reading of langgraph-checkpoint-postgres, with writing of our own.

- A put, with all its values, is one statement, fenced by the token of its thread (statements.py). The library's is
  several, which are not fenced.
- Values are written by `StateSerializer`, each by itself. The library writes strings and numbers as JSON, which refuses
  some of them: text with NUL, NaN.
- A thread expires as a whole and keeps its newest checkpoints (schema.py, retention.py). In the library it stays for
  ever.
- Callers share a pool. The library lets one query run at a time, on a pool too.

Ids, versions and metadata are not encrypted, since Postgres searches by them.
"""

import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from langgraph_rq.worker.guards.task_guard import note_saved
from langgraph_rq.worker.state.later_ids import follow, followed
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.postgres import statements, upkeep
from langgraph_rq.worker.state.postgres.connections import Postgres
from langgraph_rq.worker.state.postgres.plain_json import plain_json
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.ids import run_mark
from langgraph_rq.worker.state.saver.reading import config_of, place_of
from langgraph_rq.worker.state.saver.retention import all_but_newest, of_task
from langgraph_rq.worker.state.saver.sync_faces import SyncFaces
from langgraph_rq.worker.state.saver.thread_saver import (
    TASK_ID,
    TASK_TTL_S,
    THREAD_KEEP,
    THREAD_TTL_S,
    ThreadSaver,
    no_token,
    remember,
)
from langgraph_rq.worker.state.saver.upkeep import ThreadChangedError, prune
from langgraph_rq.worker.state.serializer import StateSerializer

_SERIALIZERS = 1_024


class PostgresSaver(SyncFaces, AsyncPostgresSaver):
    """A checkpointer for workers.

    Args:
        postgres: The database, of the running loop.
        serializer: Writes and reads values; None: those of LangGraph's own types, not encrypted.
        ttl_s: How long a thread is kept after its last write.
        keep: The newest checkpoints of each namespace that are kept; 0: all. Up to an eighth more are there.
        token: The fencing token of the running task on a thread; None: it runs none there.
    """

    serde: StateSerializer

    def __init__(
        self,
        postgres: Postgres,
        *,
        serializer: StateSerializer | None = None,
        ttl_s: float = THREAD_TTL_S,
        keep: int = THREAD_KEEP,
        token: Callable[[str], int | None] = no_token,
    ) -> None:
        AsyncPostgresSaver.__init__(self, postgres.pool)
        self._loop = self.loop
        self.lock: Any = nullcontext()
        self.serde = serializer or StateSerializer()
        self.postgres = postgres
        self._ttl = timedelta(seconds=ttl_s)
        self._keep = keep
        self._token = token
        self._serializers: dict[str, StateSerializer] = {}
        self._tried: OrderedDict[str, int] = OrderedDict()  # thread -> its changes at an attempt that it disturbed

    async def finish(self, _timeout_s: float) -> None:
        """Do nothing: a statement ends with the run that made it."""

    async def begin(self, thread_id: str) -> bool:
        """Begin a task on a thread: from here on writes with a lower token than its own are refused.

        Returns:
            Whether the thread has checkpoints.

        Raises:
            CheckpointFencedError: a later task, or a later attempt of this one, has begun on the thread.
        """
        row = await self.write(statements.BEGIN, thread_id, ttl=self._ttl)
        follow(row["newest"] or "")
        return bool(row["has_checkpoints"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a thread's newest checkpoint, or the one in `config`; waits while Postgres is away.

        Raises:
            RefusedStateError: it holds a type that is not allowed, or was not written here with a known key.
        """
        read = super().aget_tuple
        return followed(await self.postgres.outages.retry(lambda: read(config)))

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first; without a namespace of all of them, without a config of all threads."""
        select = super().alist

        async def read() -> list[CheckpointTuple]:
            return [found async for found in select(config, **options)]

        for found in await self.postgres.outages.retry(read):
            yield found

    async def athreads(self) -> AsyncIterator[str]:
        """List the ids of all threads that have checkpoints."""
        for row in await self.postgres.rows("SELECT DISTINCT thread_id FROM checkpoints", {}):
            yield row["thread_id"]

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint; waits while Postgres is away. Atomic, also if the caller is cancelled.

        Raises:
            RefusedStateError: it holds a type that is not allowed; nothing is written.
            CheckpointFencedError: the thread is another task's by now; nothing is written.
        """
        thread, namespace = place_of(config)
        values = checkpoint["channel_values"]
        inline = {channel: _inline(value) for channel, value in values.items() if _is_inline(value)}
        serializer = self.serializer_of(thread)
        added = [
            (channel, str(version), *serializer.dumps_typed(values[channel]))
            for channel, version in new_versions.items()
            if channel in values and values[channel] is not None
        ]
        channels, versions, types, blobs = columns(added, 4)
        row = await self.write(
            statements.PUT,
            thread,
            ttl=self._ttl,
            namespace=namespace,
            id=checkpoint["id"],
            parent=get_checkpoint_id(config),
            checkpoint=Jsonb({**checkpoint, "channel_values": inline}),
            metadata=Jsonb(plain_json(get_serializable_checkpoint_metadata(config, metadata))),
            channels=channels,
            versions=versions,
            types=types,
            blobs=blobs,
        )
        await self._trim(thread, row["changes"], row["trimmed"], str(config["configurable"].get(TASK_ID) or ""))
        note_saved(thread, namespace, checkpoint["id"], metadata)
        return config_of(thread, namespace, checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write a node's pending writes; waits while Postgres is away.

        Raises:
            RefusedStateError: they hold a type that is not allowed; nothing is written.
            CheckpointFencedError: the thread is another task's by now; nothing is written.
        """
        if not writes:
            return
        thread, namespace = place_of(config)
        serializer = self.serializer_of(thread)
        numbered = {WRITES_IDX_MAP.get(channel, i): (channel, value) for i, (channel, value) in enumerate(writes)}
        rows = [(i, channel, *serializer.dumps_typed(value)) for i, (channel, value) in numbered.items()]
        configurable = config["configurable"]
        indexes, channels, types, blobs = columns(rows, 4)
        await self.write(
            statements.PUT_WRITES,
            thread,
            ttl=self._ttl,
            namespace=namespace,
            id=configurable["checkpoint_id"],
            task=task_id,
            path=task_path,
            run=run_mark(str(configurable.get(TASK_ID) or configurable.get("run_id") or "")),
            indexes=indexes,
            channels=channels,
            types=types,
            blobs=blobs,
        )

    async def expire_thread(self, thread_id: str, ttl_s: float = TASK_TTL_S) -> int:
        """Let a thread end in `ttl_s` seconds; 0 deletes it.

        Returns:
            The number of checkpoints found.

        Raises:
            CheckpointFencedError: the thread is another task's by now.
        """
        statement = statements.EXPIRE if ttl_s else statements.DELETE
        row = await self.write(statement, thread_id, is_after_run=True, ttl=timedelta(seconds=ttl_s))
        return int(row["checkpoints"])

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread. What a worker that lost its task still writes does not bring it back."""
        await self.expire_thread(thread_id, 0)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what runs have written, except checkpoints from which a delta channel of a later one is rebuilt.

        Reads all checkpoints of the database to find their threads.
        """
        await upkeep.delete_runs(self, run_ids)

    async def roll_back(self, thread_id: str, task_id: str) -> None:
        """Remove what a task has written to a thread, which is then as it was before; again, it removes nothing.

        One transaction. The task is the last that has written to the thread.

        Raises:
            ThreadChangedError: the thread was written to meanwhile, again and again.
            CheckpointFencedError: a later task has begun on the thread.
        """
        await upkeep.drop(self, thread_id, partial(of_task, task_id=task_id), runs=[run_mark(task_id)])

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Drop all but the newest checkpoint of each namespace (`keep_latest`), or whole threads (`delete`).

        Raises:
            ValueError: another strategy.
        """
        keep_newest = partial(upkeep.drop, self, choose=partial(all_but_newest, keep=1))
        await prune(thread_ids, strategy, self.adelete_thread, keep_newest)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread that no task writes to meanwhile.

        Raises:
            ValueError: the target has checkpoints.
        """
        await upkeep.copy(self, source_thread_id, target_thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Collect what delta channels are rebuilt from."""
        read = super(PostgresSaver, self._at(place_of(config)[0])).aget_delta_channel_history
        return await self.postgres.outages.retry(lambda: read(config=config, channels=channels))

    # A thread that came from Redis goes on with versions of its own form: LangGraph compares them.
    get_next_version = ThreadSaver.get_next_version

    def with_allowlist(self, extra_allowlist: Any) -> "PostgresSaver":
        """Return this saver, whose types are always checked; LANGGRAPH_STRICT_MSGPACK calls this."""
        del extra_allowlist
        return self

    def serializer_of(self, thread: str) -> StateSerializer:
        """Return what writes and reads the values of a thread; it derives the thread's keys once."""
        if thread not in self._serializers:
            if len(self._serializers) >= _SERIALIZERS:
                self._serializers.clear()
            self._serializers[thread] = self.serde.at(f"thread:{thread}")
        return self._serializers[thread]

    def _at(self, thread: str) -> "PostgresSaver":
        """Return a reader of one thread: the library gives the thread to none of the methods that decode."""
        reader = copy.copy(self)
        reader.serde = self.serializer_of(thread)
        return reader

    async def write(self, statement: str, thread: str, *, is_after_run: bool = False, **parameters: Any) -> DictRow:
        """Run a statement with the token of the running task.

        Args:
            statement: One of `statements`.
            thread: Its thread.
            is_after_run: Whether the end of the run is no reason to refuse the call.
            parameters: Of the statement, besides thread and token.

        Raises:
            CheckpointFencedError: the worker has lost the task.
        """
        if not is_after_run:
            self.postgres.outages.check_fence()
        found = await self.postgres.rows(statement, {"thread": thread, "token": self._token(thread), **parameters})
        if not found:
            raise CheckpointFencedError("expected the last task that began on the thread, got: an earlier one")
        return found[0]

    async def _trim(self, thread: str, changes: int, trimmed: int, task_id: str) -> None:
        """Drop old checkpoints from time to time: a checkpoint is at least one change. Later, if the thread changes."""
        last = max(trimmed, self._tried.get(thread, 0))
        if self._keep and changes > self._keep and changes - last > max(self._keep // 8, 1):
            try:
                await upkeep.drop(self, thread, partial(all_but_newest, keep=self._keep, task_id=task_id))
            except ThreadChangedError:
                remember(self._tried, thread, changes)

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Read a row of the library's query. The library reads writes in a thread, which sync nodes may hold."""
        thread, namespace, checkpoint = value["thread_id"], value["checkpoint_ns"], value["checkpoint"]
        reader = self._at(thread)
        stored = reader._load_blobs(value["channel_values"])  # noqa: SLF001 - the library has no other
        inline = checkpoint.get("channel_values") or {}
        forged = [channel for channel, one in inline.items() if one is not None and channel not in stored]
        if forged and not self.serde.is_plain:
            raise RefusedStateError(f"state: expected values that are encrypted, got: plain ones of {forged[:3]}")
        read: Any = {**checkpoint, "channel_values": {**inline, **stored}}
        parent = value["parent_checkpoint_id"]
        return CheckpointTuple(
            config_of(thread, namespace, value["checkpoint_id"]),
            read,
            value["metadata"],
            config_of(thread, namespace, parent) if parent else None,
            reader._load_writes(value["pending_writes"]),  # noqa: SLF001
        )


def columns(rows: Sequence[tuple[Any, ...]], number: int) -> list[list[Any]]:
    """Turn rows into columns, as `unnest` takes them."""
    return [[row[at] for row in rows] for at in range(number)]


def _is_inline(value: Any) -> bool:
    return value is None or isinstance(value, _DeltaSnapshot)


def _inline(value: Any) -> Any:
    """Return what the library finds in place of a value: of a snapshot of a delta channel, a mark that there is one."""
    return None if value is None else True
