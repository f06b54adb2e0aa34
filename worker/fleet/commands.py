"""Messages to a worker over pub/sub: commands, RQ's own and those that `cancel` publishes, and news of side queues.

A message is only the fast path: the next renewal of the lease reads the same from Redis.
"""

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.telemetry.logs import get_logger

STOP_JOB = "stop-job"
SHUTDOWN = "shutdown"
_RQ_CHANNELS = b"rq:"
_LONGEST_BYTES = 4_096
"""A longer message is refused unread."""
_SHOWN = 64
"""Characters of a refused command in the log."""
_OUTAGE = Backoff(first_s=0.25, longest_s=1.0)

_log = get_logger(__name__)


async def listen(
    redis: Redis,
    channels: Sequence[str],
    obey: Callable[[str, str | None], None],
    news_channel: str,
    on_news: Callable[[str], None],
    on_subscribed: Callable[[], None],
) -> None:
    """Call `obey(command, job id)` for each command that may be obeyed, until cancelled; refuse and log the others.

    Args:
        redis: A client with a connection to spare.
        channels: The worker's channels, RQ's and ours; they change with its name.
        obey: Called with STOP_JOB and a job id, or with SHUTDOWN; must not raise.
        news_channel: A channel of all workers.
        on_news: Called with each message of that channel; must not raise.
        on_subscribed: Called whenever messages begin to arrive, at first or again: earlier ones may be lost; must not
            raise.
    """
    failures = 0
    while True:
        try:
            async with redis.pubsub() as channel:
                await channel.subscribe(*channels, news_channel)
                async for message in channel.listen():
                    failures = 0
                    if message["type"] == "subscribe":
                        if message["data"] == len(channels) + 1:  # the last of them
                            on_subscribed()
                    elif message["type"] != "message":
                        continue
                    elif message["channel"] == news_channel.encode():
                        on_news(message["data"].decode(errors="replace"))
                    else:
                        _receive(message["channel"], message["data"], obey)
        except RedisError:
            failures += 1
            await asyncio.sleep(_OUTAGE.pause_s(failures))


def _receive(channel: bytes, data: bytes, obey: Callable[[str, str | None], None]) -> None:
    """Obey a command that `channel` may carry: on ours, on which producers may publish, only that to stop a job."""
    command, task_id = _read(data) if len(data) <= _LONGEST_BYTES else ("", None)
    is_rqs = channel.startswith(_RQ_CHANNELS)
    if (command == STOP_JOB and task_id) or (command == SHUTDOWN and is_rqs):
        obey(command, task_id)
    else:
        _log.warning("command.refused", command=command[:_SHOWN], channel="rq" if is_rqs else "agent")


def _read(data: bytes) -> tuple[str, str | None]:
    """Read a command and its job id; a malformed message is the empty command."""
    try:
        message = read_json(data)
        command, task_id = message["command"], message.get("job_id")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", None
    return str(command), task_id if isinstance(task_id, str) else None
