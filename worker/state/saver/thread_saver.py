"""LangGraph's checkpoints on plain Redis (>= 7.0) or Valkey: no modules, two keys per thread, fenced writes.

Keys of a thread, which expire at the same instant, counted from its last write:
    agent:thread_state:<thread>  hash  all that belongs to it; its fields begin with the letter of what they hold
        t                                    the highest fencing token that was seen
        c<name>                              a checkpoint: `records.Codec.write`
        w<name>, s<k>:<name>, n<name>        what nodes wrote after it; from 64 kB on more fields, and their number
        v<namespace><channel>:<version>      a large value of a channel, once per version
    agent:thread_index:<thread>  zset  names of its checkpoints, in order; all scores are 0
    agent:run_threads:<run>      set   threads in which a run wrote checkpoints, if they name a run
So that not every step writes it anew, the instant may be a 64th of the TTL later.
A checkpoint's name is <bytes of the namespace>:<namespace>:<id>.

Fencing (R19 in docs/architecture.md): a task that starts on a thread brings the token of its claim (`begin`). Its
writes carry it, and one with a lower token than was seen is refused: it comes from a worker that has lost the task. A
caller that runs no task, such as an operation on a thread at rest, has no token and is not compared.
"""

import os
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.worker.guards.task_guard import note_saved
from langgraph_rq.worker.state.later_ids import followed
from langgraph_rq.worker.state.outages import PATIENCE_S, Outages
from langgraph_rq.worker.state.saver import upkeep
from langgraph_rq.worker.state.saver.ids import run_mark
from langgraph_rq.worker.state.saver.reading import ThreadReader, config_of, place_of
from langgraph_rq.worker.state.saver.records import name_of
from langgraph_rq.worker.state.saver.retention import all_but_newest, of_runs, of_task
from langgraph_rq.worker.state.saver.sizes import measure
from langgraph_rq.worker.state.saver.sync_faces import SyncFaces
from langgraph_rq.worker.state.saver.thread_scripts import HAS_CHECKPOINTS, ThreadScripts, accepted
from langgraph_rq.worker.state.saver.thread_writes import NewCheckpoint, NodeWrites
from langgraph_rq.worker.state.serializer import StateSerializer

THREAD_TTL_S = 7 * 24 * 3600.0
TASK_TTL_S = 60.0
"""TTL of a thread's checkpoints after its last write, and of those of a task without a thread after its end."""
TASK_ID = "task_id"
"""Key of the task's id in a run's `configurable` and in a checkpoint's metadata."""
THREAD_KEEP = 100
"""The newest checkpoints of each namespace of a thread that are kept."""

_REMEMBERED = 4_096
"""Namespaces of threads about which a process remembers something that spares it work."""
_RANDOM_BITS = 40
"""Of a version of 64 bits; the others count, up to 8 million steps of a thread."""
_random = random.Random()  # noqa: S311 - no secret. A dozen numbers a task: the system's cost 1.5 % of its CPU
os.register_at_fork(after_in_child=_random.seed)  # not seeded by a graph, and no two processes have the same
_MISSING = -1

K = TypeVar("K")
V = TypeVar("V")


def no_token(_thread: str) -> int | None:
    """Return None: the caller runs no task."""
    return None


class ThreadSaver(SyncFaces):
    """A checkpointer with the whole interface of the installed LangGraph.

    Args:
        redis: A client of the running loop, on a pool whose callers wait for a connection.
        serializer: Writes and reads values; None: those of LangGraph's own types, not encrypted.
        ttl_s: How long a thread is kept after its last write.
        keep: The newest checkpoints of each namespace that are kept; 0: all. Up to an eighth more are there.
        patience_s: How long a call waits while Redis is away.
        is_fenced: Whether this worker has lost its lease; then nothing is written or waited for.
        token: The fencing token of the running task on a thread; None: it runs none there.
        is_beside_tasks: Whether the same Redis has the queue, whose scripts can expire checkpoints.
    """

    def __init__(
        self,
        redis: AsyncRedis,
        *,
        serializer: StateSerializer | None = None,
        ttl_s: float = THREAD_TTL_S,
        keep: int = THREAD_KEEP,
        patience_s: float = PATIENCE_S,
        is_fenced: Callable[[], bool] = lambda: False,
        token: Callable[[str], int | None] = no_token,
        is_beside_tasks: bool = False,
    ) -> None:
        super().__init__()
        self.is_beside_tasks = is_beside_tasks
        self.serde = serializer or StateSerializer()
        self._threads = ThreadScripts(redis, self.serde, ttl_s, Outages(patience_s, is_fenced), token)
        self.ttl_ms = self._threads.ttl_ms
        self.lent = self._threads.lent
        self._reader = ThreadReader(self._threads)
        self._keep = keep
        self._large: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()
        self._left: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def finish(self, timeout_s: float) -> None:
        """Let what cancelled runs were writing end, for at most `timeout_s`, before the client is closed."""
        await self._threads.finish(timeout_s)

    async def begin(self, thread_id: str) -> bool:
        """Begin a task on a thread: from here on writes with a lower token than its own are refused.

        Returns:
            Whether the thread has checkpoints.

        Raises:
            CheckpointFencedError: a later task, or a later attempt of this one, has begun on the thread.
        """
        return accepted(await self._threads.begin(thread_id, name_of("", ""))) == HAS_CHECKPOINTS

    def begin_new(self, thread_id: str) -> None:
        """Begin a task on a thread of its own, which is empty: its first write begins it.

        If it is not, because a task of the same id had left it, that write is refused.
        """
        self._threads.note_empty(thread_id)

    async def input_is_saved(self, thread_id: str) -> None:
        """Wait for the checkpoint of a run's input, which `aput` returns before it is saved; the next write waits, too.

        Raises:
            CheckpointFencedError: the thread is another task's by now.
        """
        await self._threads.saved_soon(thread_id)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a thread's newest checkpoint, or the one in `config`; waits while Redis is away.

        Raises:
            RefusedStateError: it holds a type that is not allowed, or was not written here with a known key.
        """
        await self.input_is_saved(place_of(config)[0])
        return followed(await self._reader.find(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first; without a namespace of all of them, without a config of all threads."""
        left = limit
        if left == 0:
            return
        if config:
            await self.input_is_saved(place_of(config)[0])
        async for found in self._reader.select(config, filter or {}, before):
            yield found
            if left is not None and (left := left - 1) <= 0:
                return

    async def athreads(self) -> AsyncIterator[str]:
        """List the ids of all threads that have checkpoints, in no order; one may come twice."""
        async for thread in self._reader.threads():
            yield thread

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint; waits while Redis is away. Atomic, also if the caller is cancelled.

        Raises:
            RefusedStateError: it holds a type that is not allowed; nothing is written.
            CheckpointFencedError: the thread is another task's by now; nothing is written.
        """
        place = place_of(config)
        merged = get_checkpoint_metadata(config, metadata)
        write = partial(self._write, place, get_checkpoint_id(config) or "", checkpoint, merged, new_versions)
        run = str(merged.get("run_id") or "")
        what = write(self._large.get(place, frozenset()))
        is_input = merged.get("source") == "input" and not place[1]
        if is_input and not what.known and self._threads.is_task_of(place[0]):
            # LangGraph does not wait for it: it goes with the first writes, or before them, and they wait for it.
            self._threads.save_soon(place[0], run, what)
            return config_of(*place, checkpoint["id"])
        count = await self._threads.save(place[0], run, what)
        if count == _MISSING:  # an expired thread took them along
            count = await self._threads.save(place[0], run, write(frozenset()))
        if self._is_too_many(place, accepted(count)):
            await self._trim(place, str(config["configurable"].get(TASK_ID) or ""), count)
        note_saved(*place, checkpoint["id"], merged)
        return config_of(*place, checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write a node's pending writes; waits while Redis is away.

        Raises:
            RefusedStateError: they hold a type that is not allowed; nothing is written.
            CheckpointFencedError: the thread is another task's by now; nothing is written.
        """
        if not writes:
            return
        thread, namespace = place_of(config)
        numbered = [(WRITES_IDX_MAP.get(channel, i), channel, value) for i, (channel, value) in enumerate(writes)]
        configurable = config["configurable"]
        run, own_task = configurable.get("run_id"), configurable.get(TASK_ID)
        rows = self._threads.codec(thread).write_rows(
            numbered, task_id, task_path, run_mark(str(own_task or run or ""))
        )
        name = name_of(namespace, configurable["checkpoint_id"])
        accepted(await self._threads.save(thread, str(run or ""), NodeWrites(name, rows)))

    async def expire_thread(self, thread_id: str, ttl_s: float = TASK_TTL_S) -> int:
        """Set the TTL of a thread; 0 deletes it. One round trip, no search.

        Returns:
            The number of checkpoints found.

        Raises:
            CheckpointFencedError: the thread is another task's by now.
        """
        return await upkeep.expire(self._threads, thread_id, ttl_s)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread. What a worker that lost its task still writes does not bring it back."""
        await self.expire_thread(thread_id, 0)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what runs have written, except checkpoints from which a delta channel of a later one is rebuilt.

        The threads of a run are known for as long after its last checkpoint as a thread is kept.
        """
        for run in run_ids:
            for thread in await upkeep.threads_of(self._threads, run):
                left = await upkeep.drop(self._threads, thread, partial(of_runs, runs=[run]))
                await upkeep.forget_writes(self._threads, thread, left, run_mark(run))

    async def roll_back(self, thread_id: str, task_id: str) -> None:
        """Remove what a task has written to a thread, which is then as it was before; again, it removes nothing.

        Raises:
            CheckpointFencedError: a later task has begun on the thread.
        """
        left = await upkeep.drop(self._threads, thread_id, partial(of_task, task_id=task_id))
        await upkeep.forget_writes(self._threads, thread_id, left, run_mark(task_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Drop all but the newest checkpoint of each namespace (`keep_latest`), or whole threads (`delete`).

        Kept too is what a delta channel is rebuilt from. The namespace of a subgraph's call goes with the checkpoint of
        the root graph in which the call was made.

        Raises:
            ValueError: another strategy.
        """
        keep_newest = partial(upkeep.drop, self._threads, choose=partial(all_but_newest, keep=1))
        await upkeep.prune(thread_ids, strategy, self.adelete_thread, keep_newest)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread that no task writes to meanwhile.

        Raises:
            ValueError: the target has checkpoints.
        """
        await upkeep.copy(self._threads, source_thread_id, target_thread_id)

    async def measure(self, thread_id: str) -> dict[str, Any]:
        """Measure how many bytes a thread takes, as `sizes.measure` says."""
        return await measure(self._threads, thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Collect what delta channels are rebuilt from; a page of ancestors per round trip."""
        return await self._reader.history(config, channels)

    def get_next_version(self, current: Any, channel: None = None) -> Any:
        """Return a version above `current` that no other branch of the thread gets: values are stored by version."""
        del channel
        if isinstance(current, str):  # of a thread that another saver began
            return f"{int(current.split('.')[0]) + 1:032}.{_random.getrandbits(53) / 2**53:016}"
        count = int(current or 0) >> _RANDOM_BITS
        return (count + 1) << _RANDOM_BITS | _random.getrandbits(_RANDOM_BITS)

    def with_allowlist(self, extra_allowlist: Any) -> "ThreadSaver":
        """Return this saver, whose types are always checked; LANGGRAPH_STRICT_MSGPACK calls this."""
        del extra_allowlist
        return self

    def _write(
        self,
        place: tuple[str, str],
        parent: str,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        stored: frozenset[str],
    ) -> NewCheckpoint:
        """Write a checkpoint as bytes, and remember which large values it has."""
        thread, namespace = place
        written = self._threads.codec(thread).write(checkpoint, metadata, parent, new_versions, stored)
        remember(self._large, place, frozenset({*written.known, *written.values}))
        values = [part for pair in written.fields(namespace) for part in pair]
        name = name_of(namespace, checkpoint["id"])
        return NewCheckpoint(name, written.record, written.known_fields(namespace), values)

    def _is_too_many(self, place: tuple[str, str], count: int) -> bool:
        """Whether a namespace has an eighth more checkpoints than are wanted, or than had to stay."""
        keep = self._keep
        return 0 < keep <= count and count >= max(keep, self._left.get(place, 0)) + max(keep // 8, 1)

    async def _trim(self, place: tuple[str, str], task_id: str, count: int) -> None:
        """Drop old checkpoints of a namespace, which has `count`; later, if others are written to meanwhile."""
        thread, namespace = place
        choose = partial(all_but_newest, keep=self._keep, namespaces=[namespace], task_id=task_id)
        try:
            left = await upkeep.drop(self._threads, thread, choose)
        except upkeep.ThreadChangedError:
            remember(self._left, place, count)
        else:
            remember(self._left, place, sum(one == namespace for one, _ in left))


def remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    """Remember a value of a thread, of the last few thousand threads."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
