"""The newest tasks of a tenant, for the console.

Key:
    agent:recent:<tenant>    list    ids, the newest first; a day after the last one
"""

from contextlib import suppress

from redis.asyncio import Redis

from langgraph_rq.producer.client.lookup import STATUS_FIELDS, Receipt, TaskStatus, read_status
from langgraph_rq.producer.client.transport.transports import readable
from langgraph_rq.shared.errors import UnreadableTaskError
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
        readable(await pipeline.execute(raise_on_error=False))  # of another type it expires in a day


async def read_recent(redis: Redis, tenant: str, limit: int) -> list[TaskStatus]:
    """Read the newest tasks that are still known, without those that another program has overwritten."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.lrange(_key(tenant), 0, limit - 1)
    (ids,) = readable(await pipeline.execute(raise_on_error=False))
    names = [id_.decode(errors="replace") for id_ in ids or ()]
    for name in names:
        pipeline.hmget(task_hash(task_key(name, tenant)), STATUS_FIELDS)
    rows = readable(await pipeline.execute(raise_on_error=False)) if names else []
    found = []
    for name, row in zip(names, rows, strict=True):
        with suppress(UnreadableTaskError):
            found.append(read_status(name, row))
    return [one for one in found if one]
