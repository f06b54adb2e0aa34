"""LangGraph's checkpoints in Redis: after a crash another worker continues a task from its last checkpoint.

`Checkpointer` extends langgraph-checkpoint-redis' `AsyncRedisSaver` and keeps its key format, so the library reads and
lists what is written here. It differs in three ways:

- A write is one Lua script, which takes one round trip and a third of the CPU, and leaves no key without a TTL even if
  the worker is killed.
- While Redis is away a write waits, because a lost checkpoint makes a paid node run again.
- A checkpoint's metadata holds the id of the task that wrote it, which the library drops.

Keys, all with the thread's TTL, counted from their last write:
    checkpoint:<thread>:<namespace>:<id>       JSON    a checkpoint
    checkpoint_latest:<thread>:<namespace>     string  key of the newest checkpoint
    checkpoint_write:<thread>:<namespace>:<id>:<node's task>:<index>
                                               JSON    a node's pending write, until its step is complete
    write_keys_zset:<thread>:<namespace>:<id>  zset    keys of a checkpoint's pending writes
    agent:checkpoints:<thread>                 zset    the thread's checkpoints, for `expire_thread`
The root graph's namespace is written `__empty__`; each subgraph has its own. The search indexes `checkpoint` and
`checkpoint_write` are permanent.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.checkpoint.redis.key_registry import CheckpointKeyRegistry
from langgraph.checkpoint.redis.util import to_storage_safe_id, to_storage_safe_str
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError
from redisvl.exceptions import RedisVLError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.guards.guards import current_task
from langgraph_rq.worker.state.search_indexes import create_indexes

TASK_ID = "task_id"
"""Key of the task's id in a run's `configurable` and in a checkpoint's metadata."""

THREAD_TTL_S = 7 * 24 * 3600.0
TASK_TTL_S = 60.0
"""TTL of a thread's checkpoints after its last write, and of those of a task without a thread after its end."""

PATIENCE_S = 600.0
"""How long a write waits while Redis is away; then the node's work is lost."""

_OUTAGE = Backoff(first_s=0.05, longest_s=2.0)

T = TypeVar("T")


class CheckpointOutageError(LanggraphRqError):
    """Redis was away for too long. Not caused by the task or its graph, unlike a Redis error raised by a node."""


class CheckpointFencedError(LanggraphRqError):
    """The run has ended, or another worker has taken over this one's tasks: the run's checkpoints are refused."""


class Checkpointer(AsyncRedisSaver):
    """The library's saver with a TTL on every key, retries while Redis is away, and the task's id in the metadata.

    Args:
        redis: A client of the running loop, on a pool whose callers wait for a connection.
        ttl_s: How long a thread is kept after its last write.
        patience_s: How long a call waits while Redis is away.
        is_fenced: Whether this worker has lost its lease; then nothing is written or waited for.
    """

    def __init__(
        self,
        redis: AsyncRedis,
        *,
        ttl_s: float = THREAD_TTL_S,
        patience_s: float = PATIENCE_S,
        is_fenced: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(redis_client=redis)
        self._trips = Batcher(redis)
        self._ttl_ms = round(ttl_s * 1000)
        self._patience_s = patience_s
        self._is_fenced = is_fenced

    async def asetup(self) -> None:
        """Create the search indexes; safe if they exist, and if other workers boot at the same time.

        Raises:
            SearchModuleError: this Redis has no JSON and search modules.
        """
        await create_indexes(super().asetup)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a thread's newest checkpoint, or the one in `config`; waits while Redis is away."""
        return await self._retry_outages(lambda: super(Checkpointer, self).aget_tuple(config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        stream_mode: str = "values",
    ) -> RunnableConfig:
        """Write a checkpoint; waits while Redis is away. Atomic, also if the caller is cancelled."""
        del new_versions, stream_mode  # the checkpoint contains its values
        self._check_fence()
        configurable = config["configurable"]
        thread, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
        call = self._put(configurable, checkpoint, metadata)
        await self._retry_outages(lambda: self._trips.run(call))
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write a node's pending writes; waits while Redis is away."""
        if writes:
            self._check_fence()
            call = self._put_writes(config["configurable"], writes, task_id, task_path)
            await self._retry_outages(lambda: self._trips.run(call))

    async def expire_thread(self, thread_id: str, ttl_s: float = TASK_TTL_S) -> int:
        """Set the TTL of all keys of a thread to `ttl_s`; 0 deletes them. One round trip, no search.

        Returns:
            The number of checkpoints found.
        """
        call = scripts.Call(
            scripts.load_script("worker/state/expire"), [_index_key(thread_id)], [thread_id, round(ttl_s * 1000)], int
        )
        return await self._retry_outages(lambda: self._trips.run(call))

    def _put(
        self, configurable: dict[str, Any], checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> scripts.Call[int]:
        thread, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
        stamped: Any = {**metadata, **({TASK_ID: configurable[TASK_ID]} if TASK_ID in configurable else {})}
        parent = configurable.get("checkpoint_id")
        run_id = configurable.get("run_id", metadata.get("run_id"))
        document = {
            **_place(thread, namespace, checkpoint["id"]),
            "run_id": str(run_id) if run_id else "",
            "parent_checkpoint_id": parent if parent and parent != checkpoint["id"] else "",
            "checkpoint_ts": time.time() * 1000,
            "checkpoint": self._dump_checkpoint(checkpoint),
            "metadata": self._dump_metadata(stamped),
            "has_writes": False,
            "source": metadata.get("source", ""),
            "step": metadata.get("step", 0),
        }
        keys = [
            self._make_redis_checkpoint_key(thread, namespace, checkpoint["id"]),
            self._make_redis_checkpoint_latest_key(thread, namespace),
            _index_key(thread),
        ]
        member = f"{to_storage_safe_str(namespace)}:{checkpoint['id']}"
        return scripts.Call(
            scripts.load_script("worker/state/put"), keys, [orjson.dumps(document), member, self._ttl_ms], int
        )

    def _put_writes(
        self, configurable: dict[str, Any], writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> scripts.Call[int]:
        place = (configurable["thread_id"], configurable.get("checkpoint_ns", ""), configurable["checkpoint_id"])
        args: list[Argument] = [self._ttl_ms]
        for position, (channel, value) in enumerate(writes):
            kind, blob = self.serde.dumps_typed(value)
            idx = WRITES_IDX_MAP.get(channel, position)
            document = {
                **_place(*place),
                "task_id": task_id,
                "task_path": task_path,
                "idx": idx,
                "channel": channel,
                "type": kind,
                "blob": self._encode_blob(blob),
            }
            args += [self._make_redis_checkpoint_writes_key(*place, task_id, idx), orjson.dumps(document)]
        keys = [self._make_redis_checkpoint_key(*place), CheckpointKeyRegistry.make_write_keys_zset_key(*place)]
        return scripts.Call(scripts.load_script("worker/state/put_writes"), keys, args, int)

    def _check_fence(self) -> None:
        """Refuse what an abandoned run writes: its thread may be another task's by now.

        Raises:
            CheckpointFencedError: the run has ended, or this worker has lost its tasks.
        """
        run = current_task.get()
        if self._is_fenced() or (run is not None and run.is_over):
            raise CheckpointFencedError("expected a run that still owns its task, got: one that has ended")

    async def _retry_outages(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run `step`, which must be idempotent, and retry it while Redis is away.

        Raises:
            CheckpointOutageError: Redis was away for `patience_s`, or this worker has lost its lease.
        """
        gives_up_at = time.monotonic() + self._patience_s
        failures = 0
        while True:
            try:
                return await step()
            except (RedisError, RedisVLError, OSError) as error:
                if not _is_outage(error):
                    raise
                failures += 1
                pause_s = _OUTAGE.pause_s(failures)
                if self._is_fenced() or time.monotonic() + pause_s > gives_up_at:
                    raise CheckpointOutageError(f"checkpoints could not be reached in Redis: {error}") from error
            await asyncio.sleep(pause_s)


def _is_outage(error: BaseException) -> bool:
    """Recognise an outage, also when the search library has wrapped it."""
    return is_outage(error) or (isinstance(error, RedisVLError) and is_outage(error.__cause__ or error))


def _place(thread: str, namespace: str, checkpoint_id: str) -> dict[str, str]:
    return {
        "thread_id": to_storage_safe_id(thread),
        "checkpoint_ns": to_storage_safe_str(namespace),
        "checkpoint_id": to_storage_safe_id(checkpoint_id),
    }


def _index_key(thread: str) -> str:
    return f"agent:checkpoints:{thread}"
