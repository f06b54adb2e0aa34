"""The newest tasks of a tenant, for the console.

Key:
    agent:recent:<tenant>    list    ids, the newest first; a day after the last one
"""

from typing import Any

from redis.asyncio import Redis

from langgraph_rq.producer.client.lookup import STATUS_FIELDS, Receipt, TaskStatus, read_status
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.tasks import task_key

KEPT = 100
_TTL_S = 86_400


def _key(tenant: str) -> str:
    return f"agent:recent:{tenant}"


async def remember(redis: Redis, tenant: str, receipt: Receipt) -> None:
    """Add a task that is new."""
    if receipt.created:
        pipeline = redis.pipeline(transaction=False)
        pipeline.lpush(_key(tenant), receipt.task_id)
        pipeline.ltrim(_key(tenant), 0, KEPT - 1)
        pipeline.expire(_key(tenant), _TTL_S)
        await pipeline.execute()


async def read_recent(redis: Redis, tenant: str, limit: int) -> list[TaskStatus]:
    """Read the newest tasks that are still known."""
    ids: Any = await redis.lrange(_key(tenant), 0, limit - 1)
    pipeline = redis.pipeline(transaction=False)
    names = [id_.decode() for id_ in ids]
    for name in names:
        pipeline.hmget(task_hash(task_key(name, tenant)), STATUS_FIELDS)
    rows = await pipeline.execute() if names else []
    return [found for name, row in zip(names, rows, strict=True) if (found := read_status(name, row))]
