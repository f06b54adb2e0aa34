"""LangGraph's checkpoints in Redis: after a crash another worker continues a task from its last checkpoint.

`Checkpointer` extends langgraph-checkpoint-redis' `AsyncRedisSaver` and keeps its keys and indexes. It differs in this:

- A write is one Lua script, which takes one round trip and a third of the CPU, and leaves no key without a TTL even if
  the worker is killed.
- While Redis is away a write waits, because a lost checkpoint makes a paid node run again.
- A checkpoint's metadata holds the id of the task that wrote it, which the library drops.
- Checkpoint, metadata and writes are each one opaque text of `StateSerializer`. The library writes JSON, takes dicts of
  the user for its own, and imports and builds whatever they name.

Keys, all with the thread's TTL, counted from their last write or the start of the thread's last task:
    checkpoint:<thread>:<namespace>:<id>       JSON    a checkpoint
    checkpoint_latest:<thread>:<namespace>     string  key of the newest checkpoint
    checkpoint_write:<thread>:<namespace>:<id>:<node's task>:<index>
                                               JSON    a node's pending write, until its step is complete
    write_keys_zset:<thread>:<namespace>:<id>  zset    keys of a checkpoint's pending writes
    agent:checkpoints:<thread>                 zset    the thread's checkpoints, for `expire_thread`
In <thread> all but letters, digits and any of _ . - ~ @ + are written as in a URL: the library joins with colons.
The root graph's namespace is written `__empty__`; each subgraph has its own. The search indexes `checkpoint` and
`checkpoint_write` are permanent.
"""

import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.checkpoint.redis.key_registry import CheckpointKeyRegistry
from langgraph.checkpoint.redis.util import to_storage_safe_id, to_storage_safe_str
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError
from redisvl.exceptions import RedisVLError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.worker.guards.task_guard import note_saved
from langgraph_rq.worker.state.later_ids import followed
from langgraph_rq.worker.state.outages import PATIENCE_S, Outages
from langgraph_rq.worker.state.redis_stack.documents import (
    is_asked_for,
    names_of,
    order_of,
    read_tuple,
    read_value,
    write_text,
)
from langgraph_rq.worker.state.redis_stack.pruning import drops
from langgraph_rq.worker.state.redis_stack.search_indexes import create_indexes
from langgraph_rq.worker.state.redis_stack.thread_keys import INDEX, index_key, part_of, stored_config
from langgraph_rq.worker.state.saver.thread_saver import TASK_TTL_S, THREAD_TTL_S
from langgraph_rq.worker.state.saver.upkeep import prune
from langgraph_rq.worker.state.serializer import StateSerializer


class Checkpointer(AsyncRedisSaver):
    """The library's saver with a TTL on every key, retries while Redis is away, and a serializer of our own.

    Args:
        redis: A client of the running loop, on a pool whose callers wait for a connection.
        serializer: Writes and reads values; None: those of LangGraph's own types, not encrypted.
        ttl_s: How long a thread is kept after its last write.
        patience_s: How long a call waits while Redis is away.
        is_fenced: Whether this worker has lost its lease; then nothing is written or waited for.
    """

    serde: StateSerializer

    def __init__(
        self,
        redis: AsyncRedis,
        *,
        serializer: StateSerializer | None = None,
        ttl_s: float = THREAD_TTL_S,
        patience_s: float = PATIENCE_S,
        is_fenced: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(redis_client=redis)
        self.serde = serializer or StateSerializer()
        self._trips = Batcher(redis)
        self._ttl_ms = round(ttl_s * 1000)
        self._outages = Outages(patience_s, is_fenced, _is_outage, (RedisError, RedisVLError, OSError))

    async def asetup(self) -> None:
        """Create the search indexes; safe if they exist, and if other workers boot at the same time.

        Raises:
            SearchModuleError: this Redis has no JSON and search modules.
        """
        await create_indexes(super().asetup)

    async def finish(self, timeout_s: float) -> None:
        """Let what cancelled runs were writing end, for at most `timeout_s`, before the client is closed."""
        await self._trips.aclose(timeout_s)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a thread's newest checkpoint, or the one in `config`; waits while Redis is away.

        Raises:
            RefusedStateError: it holds a type that is not allowed, or was not written here with a known key.
        """
        reader = self._at(config)
        found = followed(
            await self._outages.retry(lambda: super(Checkpointer, reader).aget_tuple(stored_config(config)))
        )
        return found and read_tuple(reader.serde, found)

    async def begin(self, thread_id: str) -> bool:
        """Begin a task on a thread, all of which is kept from now on for as long as what the task will write.

        Returns:
            Whether the thread has checkpoints.
        """
        script = scripts.load_script("worker/state/redis_stack/begin")
        call = scripts.Call(script, [index_key(thread_id)], [part_of(thread_id), self._ttl_ms], list[int])
        while True:
            known, is_more = await self._outages.retry(lambda: self._trips.run(call))
            if not is_more:
                return bool(known)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first; without a namespace of all of them, without a config of all threads.

        The library finds them, and reads all of the thread: of namespaces, `before` and filters it knows a part.
        """
        reader, named = self._at(config or {}), (config or {}).get("configurable", {})
        wanted = {name: named[name] for name in ("thread_id", "checkpoint_id") if named.get(name)}
        last, left = (get_checkpoint_id(before) if before else None), limit
        if left == 0:
            return
        async for stored in super(Checkpointer, reader).alist(
            stored_config({"configurable": wanted}) if wanted else None
        ):
            found = read_tuple(reader.serde, stored)
            if not is_asked_for(found, named, last, filter or {}):
                continue
            yield found
            if left is not None and (left := left - 1) <= 0:
                return

    async def athreads(self) -> AsyncIterator[str]:
        """List the ids of all threads that have checkpoints, in no order; one may come twice."""
        async for key in self._redis.scan_iter(match=f"{INDEX}*", count=1_000):
            yield unquote(key.decode().removeprefix(INDEX))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        stream_mode: str = "values",
    ) -> RunnableConfig:
        """Write a checkpoint; waits while Redis is away. Atomic, also if the caller is cancelled.

        Raises:
            RefusedStateError: it holds a type that is not allowed; nothing is written.
        """
        del new_versions, stream_mode  # the checkpoint contains its values
        self._outages.check_fence()
        configurable = config["configurable"]
        thread, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
        call = self._put(configurable, checkpoint, get_checkpoint_metadata(config, metadata))
        await self._outages.retry(lambda: self._trips.run(call))
        note_saved(thread, namespace, checkpoint["id"], metadata)
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write a node's pending writes; waits while Redis is away."""
        if writes:
            self._outages.check_fence()
            call = self._put_writes(config["configurable"], writes, task_id, task_path)
            await self._outages.retry(lambda: self._trips.run(call))

    async def expire_thread(self, thread_id: str, ttl_s: float = TASK_TTL_S) -> int:
        """Set the TTL of all keys of a thread to `ttl_s`; 0 deletes them. One round trip, no search.

        Returns:
            The number of checkpoints found.
        """
        call = scripts.Call(
            scripts.load_script("worker/state/redis_stack/expire"),
            [index_key(thread_id)],
            [part_of(thread_id), round(ttl_s * 1000)],
            int,
        )
        return await self._outages.retry(lambda: self._trips.run(call))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        await self.expire_thread(thread_id, 0)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", **_library: Any) -> None:
        """Drop all but the newest checkpoint of each namespace and what these need, or whole threads (`delete`).

        The library's finds no thread whose id is written otherwise in keys, and takes the past of delta channels.

        Raises:
            ValueError: another strategy.
        """
        await prune(thread_ids, strategy, self.adelete_thread, self._keep_newest)

    async def _keep_newest(self, thread: str) -> None:
        for call in await drops(self, thread):
            await self._outages.retry(partial(self._trips.run, call))

    def _put(
        self, configurable: dict[str, Any], checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> scripts.Call[int]:
        thread, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
        serializer = self.serde.at(f"thread:{thread}")
        parent = configurable.get("checkpoint_id")
        run_id = configurable.get("run_id", metadata.get("run_id"))
        document = {
            **_place(part_of(thread), namespace, checkpoint["id"]),
            "run_id": str(run_id) if run_id else "",
            "parent_checkpoint_id": parent if parent and parent != checkpoint["id"] else "",
            "checkpoint_ts": time.time() * 1000,
            "checkpoint": write_text(serializer, checkpoint),
            # A string, as the library wants it of a search.
            "metadata": orjson.dumps(write_text(serializer, metadata)).decode(),
            "has_writes": False,
            "source": metadata.get("source", ""),
            "step": metadata.get("step", 0),
        }
        keys = [
            self._make_redis_checkpoint_key(part_of(thread), namespace, checkpoint["id"]),
            self._make_redis_checkpoint_latest_key(part_of(thread), namespace),
            index_key(thread),
        ]
        member = f"{to_storage_safe_str(namespace)}:{checkpoint['id']}"
        return scripts.Call(
            scripts.load_script("worker/state/redis_stack/put"),
            keys,
            [orjson.dumps(document), member, self._ttl_ms],
            int,
        )

    def _put_writes(
        self, configurable: dict[str, Any], writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> scripts.Call[int]:
        place = (
            part_of(configurable["thread_id"]),
            configurable.get("checkpoint_ns", ""),
            configurable["checkpoint_id"],
        )
        serializer = self.serde.at(f"thread:{configurable['thread_id']}")
        args: list[Argument] = [self._ttl_ms]
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            document = {
                **_place(*place),
                "task_id": task_id,
                "task_path": task_path,
                "idx": idx,
                "channel": channel,
                **write_text(serializer, value),
            }
            args += [self._make_redis_checkpoint_writes_key(*place, task_id, idx), orjson.dumps(document)]
        keys = [self._make_redis_checkpoint_key(*place), CheckpointKeyRegistry.make_write_keys_zset_key(*place)]
        return scripts.Call(scripts.load_script("worker/state/redis_stack/put_writes"), keys, args, int)

    def _at(self, config: RunnableConfig) -> "Checkpointer":
        """Return a reader of one thread: the library gives the thread to none of the methods that decode."""
        reader = copy.copy(self)
        reader.serde = self.serde.at(f"thread:{config.get('configurable', {}).get('thread_id', '')}")
        return reader

    # What follows replaces steps of the library's reading.

    def with_allowlist(self, extra_allowlist: Any) -> "Checkpointer":
        """Return this checkpointer, whose types are always checked; LANGGRAPH_STRICT_MSGPACK calls this."""
        del extra_allowlist
        return self

    def _load_checkpoint(self, checkpoint: Any, channel_values: Any, pending_sends: Any) -> Checkpoint:
        del channel_values, pending_sends  # the checkpoint contains both
        loaded: Checkpoint = read_value(self.serde, checkpoint)
        return loaded

    def _recursive_deserialize(self, obj: Any) -> Any:
        return obj

    async def aget_channel_values(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nothing: a checkpoint contains its values."""
        del args, kwargs
        return {}

    async def _aload_pending_sends(self, *args: Any, **kwargs: Any) -> list[tuple[str, str | bytes]]:
        del args, kwargs
        return []

    async def _abatch_load_pending_sends(self, batch_keys: Any) -> dict[Any, list[Any]]:
        del batch_keys
        return {}

    async def _aload_pending_writes(
        self, thread_id: str, checkpoint_ns: str = "", checkpoint_id: str = ""
    ) -> list[tuple[str, str, Any]]:
        registry = CheckpointKeyRegistry.make_write_keys_zset_key(thread_id, checkpoint_ns, checkpoint_id)
        keys: Any = await self._redis.zrange(registry, 0, -1)
        found: list[Any] = await self._redis.json().mget(keys, "$") if keys else []
        writes = sorted((write for documents in found if documents for write in documents), key=order_of)
        return [(*names_of(write), read_value(self.serde, write)) for write in writes]

    async def _abatch_load_pending_writes(self, batch_keys: Any) -> dict[Any, list[tuple[str, str, Any]]]:
        return {place: await self._aload_pending_writes(*place) for place in batch_keys}


def _is_outage(error: BaseException) -> bool:
    """Recognise an outage, also when the search library has wrapped it."""
    return is_outage(error) or (isinstance(error, RedisVLError) and is_outage(error.__cause__ or error))


def _place(thread: str, namespace: str, checkpoint_id: str) -> dict[str, str]:
    return {
        "thread_id": to_storage_safe_id(thread),
        "checkpoint_ns": to_storage_safe_str(namespace),
        "checkpoint_id": to_storage_safe_id(checkpoint_id),
    }
