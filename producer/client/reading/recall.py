"""Look up tasks of which only a record is left, or nothing but the id."""

from collections.abc import Sequence

from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import ScriptsMissingError, UnknownTaskError
from langgraph_rq.shared.queue.records import MOST_READ, RunRecord, read_runs_call
from langgraph_rq.shared.tasks import State


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


async def recall_state(connection: Connection, task_id: str, key: str) -> State:
    """Read how a task ended whose hash is forgotten. Raises UnknownTaskError."""
    (record,) = await recall(connection, [key])
    if record is None:
        raise UnknownTaskError(task_id)
    return record.state
