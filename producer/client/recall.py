"""Look up tasks of which only a record is left, or nothing but the id."""

from collections.abc import Sequence

from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import ScriptsMissingError
from langgraph_rq.shared.queue.records import MOST_READ, RunRecord, read_runs_call


async def recall(connection: Connection, keys: Sequence[str]) -> list[RunRecord | None]:
    """Read what is left of tasks whose hashes are forgotten; `keys` are their ids in Redis.

    None for each that is unknown, as all are where Redis lacks the script: no worker has been there since it started.

    Raises:
        RedisUnavailableError: Redis cannot be reached.
    """
    found: list[RunRecord | None] = []
    for start in range(0, len(keys), MOST_READ):
        some = keys[start : start + MOST_READ]
        try:
            (reply,) = await connection.run([read_runs_call(some)], awaits_scripts=False)
        except ScriptsMissingError:
            reply = [None] * len(some)
        if isinstance(reply, Exception):
            raise reply
        found += reply
    return found
