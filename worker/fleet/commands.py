"""Commands to a worker over pub/sub: RQ's own, and those that `cancel` publishes.

A message is only the fast path: a cancellation is stored in Redis too, and read at the next renewal of the lease.
"""

import asyncio
import json
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff

_OUTAGE = Backoff(first_s=0.25, longest_s=1.0)


async def listen(redis: Redis, channels: Sequence[str], obey: Callable[[str, str | None], None]) -> None:
    """Call `obey(command, job id)` for each message until cancelled; a malformed message is the empty command.

    Args:
        redis: A client with a connection to spare.
        channels: The worker's channels; they change with its name.
        obey: Must not raise.
    """
    failures = 0
    while True:
        try:
            async with redis.pubsub() as channel:
                await channel.subscribe(*channels)
                async for message in channel.listen():
                    failures = 0
                    if message["type"] == "message":
                        obey(*_read(message["data"]))
        except RedisError:
            failures += 1
            await asyncio.sleep(_OUTAGE.pause_s(failures))


def _read(data: bytes) -> tuple[str, str | None]:
    try:
        message = json.loads(data)
        return str(message["command"]), message.get("job_id")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", None
