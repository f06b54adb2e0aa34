"""Messages to a worker over pub/sub: commands, RQ's own and those that `cancel` publishes, and news of side queues.

A message is only the fast path: the next renewal of the lease reads the same from Redis.
"""

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.strict_json import read_json

STOP_JOB = "stop-job"
_RQ_CHANNELS = b"rq:"
_OUTAGE = Backoff(first_s=0.25, longest_s=1.0)


async def listen(
    redis: Redis,
    channels: Sequence[str],
    obey: Callable[[str, str | None], None],
    news_channel: str,
    on_news: Callable[[str], None],
) -> None:
    """Call `obey(command, job id)` for each command until cancelled; a malformed one is the empty command.

    Args:
        redis: A client with a connection to spare.
        channels: The worker's channels; they change with its name.
        obey: Must not raise.
        news_channel: A channel of all workers.
        on_news: Called with each message of that channel; must not raise.
    """
    failures = 0
    while True:
        try:
            async with redis.pubsub() as channel:
                await channel.subscribe(*channels, news_channel)
                async for message in channel.listen():
                    failures = 0
                    if message["type"] != "message":
                        continue
                    if message["channel"] == news_channel.encode():
                        on_news(message["data"].decode(errors="replace"))
                    else:
                        obey(*_read(message["channel"], message["data"]))
        except RedisError:
            failures += 1
            await asyncio.sleep(_OUTAGE.pause_s(failures))


def _read(channel: bytes, data: bytes) -> tuple[str, str | None]:
    """Read a message; on our own channels, on which producers may publish, the only command is to stop a job."""
    try:
        message = read_json(data)
        command, task_id = message["command"], message.get("job_id")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", None
    if command != STOP_JOB and not channel.startswith(_RQ_CHANNELS):
        return "", None
    return str(command), task_id if isinstance(task_id, str) else None
