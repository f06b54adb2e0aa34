"""Do the workers of a graph keep its threads in one place? Else a conversation has a history in each."""

from collections.abc import Collection

from redis import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)


def compare_places(redis: Redis, worker: str, entry: str, graphs: Collection[str], kept: str) -> None:
    """Announce where this worker keeps threads, and warn of each other place of a live worker with a graph of this one.

    Neither is done if Redis is away or the entry of a worker cannot be read.

    Args:
        redis: The tasks' Redis.
        worker: This worker.
        entry: Key of its entry in RQ's registers.
        graphs: The graphs that it serves.
        kept: Where it keeps their checkpoints, without secrets; empty: not to be compared.
    """
    if not kept:
        return
    try:
        redis.hset(entry, "state_kept", kept)
        others = run_sync(redis, fleet_call()).workers
    except (RedisError, ValueError):  # an outage, or what was planted: the lease is kept by now, and the worker goes on
        return
    places: dict[str, str] = {}
    for other in others:
        if other.name != worker and other.state_kept not in {"", kept} and set(graphs) & set(other.graphs):
            places[other.state_kept] = other.name
    for place, name in places.items():
        _log.warning("state.settings_differ", worker=worker, own=kept, other=name, others=place)
