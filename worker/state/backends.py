"""Where workers keep state, of which `LGRQ_STATE` chooses one. The libraries of the others are not loaded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from langgraph.store.base import BaseStore
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.connections.background import end
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import StateSettings, WorkerSettings, mask_url
from langgraph_rq.worker.graphs.langgraph_json import LanggraphJson
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.opening import open_store
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.state.store.vector_sets import check_vector_sets

_URL = "LGRQ_STATE_URL"


@dataclass(frozen=True, slots=True)
class Place:
    """What each way to keep state is opened with.

    Args:
        settings: Which one, and for how long.
        state: Where Postgres is.
        redis: A client of the running loop, of the Redis that may hold the state.
        redis_url: The same Redis, for sync callers.
        config: What langgraph.json says about the store.
        serializer: Writes and reads values.
        is_fenced: Whether this worker has lost its tasks, so that nothing may be written.
        is_beside_tasks: Whether that Redis is the one of the queue.
    """

    settings: WorkerSettings
    state: StateSettings
    redis: AsyncRedis
    redis_url: str
    config: LanggraphJson
    serializer: StateSerializer
    is_fenced: Callable[[], bool]
    is_beside_tasks: bool = False

    def described(self) -> str:
        """Say where the checkpoints are, without secrets; equal for workers that surely share them."""
        if not self.settings.checkpoints:
            return "nowhere (LGRQ_CHECKPOINTS=false)"
        if self.settings.state == "postgres":
            url = self.state.url.get_secret_value() if self.state.url else ""
            return f"postgres, {mask_url(url).partition('?')[0]}"
        return f"{self.settings.state}, {'beside the tasks' if self.is_beside_tasks else mask_url(self.redis_url)}"


@asynccontextmanager
async def open_backend(place: Place) -> AsyncIterator[tuple[Checkpointer | None, BaseStore]]:
    """Open the checkpointer, if there are to be checkpoints, and the store, both of the running loop.

    Raises:
        GraphLoadError: `store.index` or `store.ttl` of langgraph.json is invalid.
        SearchModuleError: `redis-stack` on a Redis without modules.
        PostgresUnavailableError: `postgres`, and it does not answer.
        SettingsError: `postgres` without a URL, or without its libraries; vector sets where there are none.
    """
    settings = place.settings
    if settings.store_index != "scan" and settings.state != "redis":
        raise SettingsError(
            f"LGRQ_STORE_INDEX={settings.store_index}: expected LGRQ_STATE=redis, got: {settings.state}; "
            "use LGRQ_STORE_INDEX=scan"
        )
    async with AsyncExitStack() as stack:
        match settings.state:
            case "redis":
                opened = await _open_redis(place, stack)
            case "redis-stack":
                opened = await _open_redis_stack(place, stack)
            case "postgres":
                opened = await _open_postgres(place, stack)
        yield opened


async def _open_redis(place: Place, stack: AsyncExitStack) -> tuple[Checkpointer | None, BaseStore]:
    settings = place.settings
    if settings.store_index == "vector-sets":
        await check_vector_sets(place.redis, is_encrypted=not place.serializer.is_plain)
    saver = ThreadSaver(
        place.redis,
        serializer=place.serializer,
        ttl_s=settings.thread_ttl_s,
        keep=settings.thread_keep,
        is_fenced=place.is_fenced,
        token=token_of,
        is_beside_tasks=place.is_beside_tasks,
    )
    return (saver if settings.checkpoints else None), await _open_store(place, stack)


async def _open_redis_stack(place: Place, stack: AsyncExitStack) -> tuple[Checkpointer | None, BaseStore]:
    from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer as StackCheckpointer  # noqa: PLC0415
    from langgraph_rq.worker.state.redis_stack.store import open_redis_stack_store  # noqa: PLC0415

    saver = None
    if place.settings.checkpoints:
        saver = StackCheckpointer(
            place.redis,
            serializer=place.serializer,
            ttl_s=place.settings.thread_ttl_s,
            is_fenced=place.is_fenced,
        )
        await saver.asetup()
    return saver, await stack.enter_async_context(open_redis_stack_store(place.redis, place.config, place.serializer))


async def _open_postgres(place: Place, stack: AsyncExitStack) -> tuple[Checkpointer | None, BaseStore]:
    if place.state.url is None:
        raise SettingsError(
            f"{_URL}: expected a URL such as postgresql://user@host/database with LGRQ_STATE=postgres, got: none"
        )
    try:
        from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver  # noqa: PLC0415
        from langgraph_rq.worker.state.postgres.connections import open_postgres  # noqa: PLC0415
        from langgraph_rq.worker.state.postgres.schema import set_up, sweep_regularly  # noqa: PLC0415
        from langgraph_rq.worker.state.postgres.store_access import PostgresAccess  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"LGRQ_STATE=postgres: expected pip install 'langgraph-rq[postgres]', got: {error}"
        ) from None
    settings = place.settings
    url = place.state.url.get_secret_value()
    postgres = await stack.enter_async_context(
        open_postgres(url, connections=place.state.connections, is_fenced=place.is_fenced)
    )
    await set_up(postgres)
    sweeping = asyncio.create_task(sweep_regularly(postgres))
    stack.push_async_callback(end, [sweeping])
    saver = PostgresSaver(
        postgres,
        serializer=place.serializer,
        ttl_s=settings.thread_ttl_s,
        keep=settings.thread_keep,
        token=token_of,
    )

    def access(loops: EventLoops) -> Access:
        return PostgresAccess(loops, Outages(is_fenced=place.is_fenced, what="the store"), postgres=postgres)

    return (saver if settings.checkpoints else None), await _open_store(place, stack, access)


async def _open_store(
    place: Place, stack: AsyncExitStack, access: Callable[[EventLoops], Access] | None = None
) -> Store:
    opening = open_store(
        place.redis,
        place.redis_url,
        place.config,
        place.serializer,
        is_fenced=place.is_fenced,
        scan_items=place.settings.store_scan_items,
        has_vector_sets=place.settings.store_index == "vector-sets",
        access=access,
    )
    return await stack.enter_async_context(opening)
