"""Opening of the store as langgraph.json describes it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langgraph.store.base import TTLConfig, ensure_embeddings
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import SCAN_ITEMS, Store
from langgraph_rq.worker.state.store.vector_sets import VectorSets
from langgraph_rq.worker.state.store_index import read_index

if TYPE_CHECKING:
    from langgraph_rq.worker.state.store.vector_index import VectorIndex

_TTL_KEYS = {"default_ttl", "refresh_on_read", "sweep_interval_minutes"}
"""LangGraph's. The last has no effect: expired items are gone at once, and deleted by the next that uses them."""
_INDEX_KEYS = {"dims", "embed", "fields"}


@asynccontextmanager
async def open_store(
    redis: AsyncRedis,
    url: str,
    config: LanggraphJson,
    serializer: StateSerializer | None = None,
    *,
    is_fenced: Callable[[], bool] = lambda: False,
    scan_items: int = SCAN_ITEMS,
    has_vector_sets: bool = False,
    access: Callable[[EventLoops], Access] | None = None,
) -> AsyncIterator[Store]:
    """Open the store; without `store.index` in langgraph.json, search is by namespace and filter only.

    Args:
        redis: The running loop's client of the Redis that holds the items.
        url: The same Redis, for sync callers.
        config: What langgraph.json says about the store.
        serializer: Writes and reads values; None: those of LangGraph's own types, not encrypted.
        is_fenced: Whether this worker has lost its tasks, so that nothing may be written.
        scan_items: The most items that one search looks at.
        has_vector_sets: Whether embeddings go into vector sets, which this Redis then has to have.
        access: Makes what runs the verbs, where the items are not in Redis.

    Raises:
        GraphLoadError: `store.index` or `store.ttl` is invalid.
    """
    config.apply()
    async with AsyncExitStack() as stack:
        loops = EventLoops(redis, url)
        stack.push_async_callback(loops.aclose)
        made = access or partial(
            VectorSets if has_vector_sets else Access, outages=Outages(is_fenced=is_fenced, what="the store")
        )
        index, ttl = await _index(config, stack), _ttl(config)
        yield Store(made(loops), serializer, index=index, ttl=ttl, scan_items=scan_items)


async def _index(config: LanggraphJson, stack: AsyncExitStack) -> "VectorIndex | None":
    try:
        index = await read_index(config, stack)
    except (ImportError, ValueError) as error:
        raise GraphLoadError(f"{config.path}: store.index: {error}") from error
    if index is None:
        return None
    # Importing numpy takes a tenth of a second, which few graphs need.
    from langgraph_rq.worker.state.store.vector_index import VectorIndex  # noqa: PLC0415

    _check_keys(config, "store.index", index, _INDEX_KEYS)
    dims, fields = index["dims"], index.get("fields") or ["$"]
    if not isinstance(dims, int) or dims < 1:
        raise GraphLoadError(f"{config.path}: store.index.dims: expected a number from 1, got: {dims!r}")
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise GraphLoadError(f"{config.path}: store.index.fields: expected a list of paths, got: {fields!r}")
    return VectorIndex(dims, ensure_embeddings(index["embed"]), fields)


def _ttl(config: LanggraphJson) -> TTLConfig | None:
    ttl = config.store_ttl
    if ttl is None:
        return None
    _check_keys(config, "store.ttl", ttl, _TTL_KEYS)
    minutes, refresh = ttl.get("default_ttl"), ttl.get("refresh_on_read", True)
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0):
        raise GraphLoadError(f"{config.path}: store.ttl.default_ttl: expected minutes above 0, got: {minutes!r}")
    if not isinstance(refresh, bool):
        raise GraphLoadError(f"{config.path}: store.ttl.refresh_on_read: expected true or false, got: {refresh!r}")
    return cast("TTLConfig", dict(ttl))


def _check_keys(config: LanggraphJson, where: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise GraphLoadError(f"{config.path}: {where}: expected {', '.join(sorted(known))}, got: {', '.join(unknown)}")
