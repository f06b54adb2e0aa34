"""Note how much memory a Redis of the checkpoints' own uses: from that the doctor estimates when it is full.

Each worker asks; the script notes the first answer of an hour. The sweeper does the same for the Redis of the queue.
"""

import asyncio

from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.telemetry.logs import get_logger

_PAUSE_S = 300.0
"""Much less than the hour of which one answer is kept."""

_log = get_logger(__name__)


def note_memory_call(now_ms: int | str = "") -> Call[int]:
    """Note what Redis uses, if this hour has no note yet."""
    return Call(load_script("worker/state/note_memory"), [], [now_ms], int)


async def note_memory(redis: AsyncRedis) -> None:
    """Note it until cancelled."""
    while True:
        try:
            await scripts.run(redis, note_memory_call())
        except Exception as error:  # tried again; what an outage means for tasks is said elsewhere
            _log.debug("memory.not_noted", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(_PAUSE_S)
