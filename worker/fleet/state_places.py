"""Do the workers of a graph keep its threads in one place, with one secret? Else a conversation is torn apart."""

from collections.abc import Collection

from redis import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)


def compare_places(redis: Redis, worker: str, entry: str, graphs: Collection[str], kept: StateKept | None) -> None:
    """Announce where this worker keeps threads, and warn of live workers with a graph of this one that do it otherwise.

    Neither is done if Redis is away or the entry of a worker cannot be read.

    Args:
        redis: The tasks' Redis.
        worker: This worker.
        entry: Key of its entry in RQ's registers.
        graphs: The graphs that it serves.
        kept: Where it keeps their checkpoints, and with which secrets; None: not to be compared.
    """
    if kept is None:
        return
    try:
        redis.hset(entry, "state_kept", kept.announcement())
        others = run_sync(redis, fleet_call()).workers
    except (RedisError, ValueError):  # an outage, or what was planted: the lease is kept by now, and the worker goes on
        return
    places: dict[str, str] = {}
    for other in others:
        if other.name != worker and not kept.fits(other.state_kept) and set(graphs) & set(other.graphs):
            places[str(other.state_kept)] = other.name
    for place, name in places.items():
        _log.warning("state.settings_differ", worker=worker, own=str(kept), other=name, others=place)
