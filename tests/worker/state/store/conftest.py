"""Stores on the test's Redis, without vector sets and with them, and the tasks in whose name they are used."""

from contextlib import asynccontextmanager

import pytest
from redis import Redis

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.state.store.vector_sets import VectorSets


@pytest.fixture(params=["scan", "vector-sets"])
def store_index(request):
    """LGRQ_STORE_INDEX."""
    return request.param


@pytest.fixture
def redis_url(store_index, request):
    """The URL of an empty Redis, which is Redis 8 if there are to be vector sets."""
    if store_index == "vector-sets":
        return request.getfixturevalue("redis_8_url")
    url = request.getfixturevalue("redis_server").url
    with Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def opened(redis_url, store_index):
    """Open a store of its own connections: another worker's, as it were."""

    @asynccontextmanager
    async def opened(serializer=None, *, is_fenced=lambda: False, patience_s=60.0, store_index=store_index, **options):
        async with open_async(redis_url) as redis:
            loops = EventLoops(redis, redis_url)
            try:
                made = VectorSets if store_index == "vector-sets" else Access
                yield Store(made(loops, Outages(patience_s, is_fenced)), serializer, **options)
            finally:
                await loops.aclose()

    return opened


@pytest.fixture
async def store(opened):
    async with opened() as store:
        yield store


@pytest.fixture
def acting():
    """Act as an attempt at a task; None: as no task."""

    def act(task_id, epoch=1, tenant="default"):
        task = task_id and TaskGuard(guards=None, task_id=task_id, epoch=epoch, payer=Payer(tenant))
        current_task.set(task)
        return task

    yield act
    current_task.set(None)
