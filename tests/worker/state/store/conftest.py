"""Stores on the test's Redis, and the tasks in whose name they are used."""

from contextlib import asynccontextmanager

import pytest

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store


@pytest.fixture
def opened(redis_url):
    """Open a store of its own connections: another worker's, as it were."""

    @asynccontextmanager
    async def opened(serializer=None, *, is_fenced=lambda: False, patience_s=60.0, **options):
        async with open_async(redis_url) as redis:
            loops = EventLoops(redis, redis_url)
            try:
                yield Store(Access(loops, Outages(patience_s, is_fenced)), serializer, **options)
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
