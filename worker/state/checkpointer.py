"""The checkpointers of workers, of which `LGRQ_STATE` chooses one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer

if TYPE_CHECKING:
    from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer as StackCheckpointer

    Checkpointer: TypeAlias = ThreadSaver | StackCheckpointer | ProjectCheckpointer
else:
    Checkpointer = ThreadSaver | ProjectCheckpointer


async def open_checkpointer(
    kind: Literal["redis", "redis-stack"],
    redis: AsyncRedis,
    serializer: StateSerializer,
    *,
    ttl_s: float,
    keep: int,
    is_fenced: Callable[[], bool],
) -> Checkpointer:
    """Open a checkpointer of the running loop; arguments as `ThreadSaver` takes them.

    Raises:
        SearchModuleError: `redis-stack` on a Redis without modules.
    """
    if kind == "redis":
        return ThreadSaver(redis, serializer=serializer, ttl_s=ttl_s, keep=keep, is_fenced=is_fenced, token=token_of)
    from langgraph_rq.worker.state.redis_stack import checkpoints  # noqa: PLC0415 - its library is loaded only if it is chosen

    checkpointer = checkpoints.Checkpointer(redis, serializer=serializer, ttl_s=ttl_s, is_fenced=is_fenced)
    await checkpointer.asetup()
    return checkpointer
