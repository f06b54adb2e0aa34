"""The store answers in Postgres as it does in Redis."""

import asyncio
import secrets
from contextlib import asynccontextmanager

import psycopg
import pytest
from langgraph.store.base import GetOp, PutOp, ensure_embeddings

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.postgres.schema import sweep
from langgraph_rq.worker.state.postgres.store_access import PostgresAccess
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from langgraph_rq.worker.state.store.access import StoreFencedError
from langgraph_rq.worker.state.store.reading import StoreScanError
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.state.store.vector_index import VectorIndex
from tests.worker.state.store.test_like_in_memory import DIMS, FIELDS, compare_with_memory, embed
from tests.worker.state.store.test_memory import hold_few_in_memory


@pytest.fixture
def opened(postgres, redis_url):
    """Open a store of its own: another worker's, as it were."""

    @asynccontextmanager
    async def opened(serializer=None, **options):
        async with open_async(redis_url) as redis:
            loops = EventLoops(redis, redis_url)
            try:
                yield Store(PostgresAccess(loops, Outages(), postgres=postgres), serializer, **options)
            finally:
                await loops.aclose()

    return opened


@pytest.fixture
async def store(opened):
    async with opened() as store:
        yield store


@pytest.fixture
def acting():
    def act(task_id, epoch=1, tenant="default"):
        current_task.set(task_id and TaskGuard(guards=None, task_id=task_id, epoch=epoch, payer=Payer(tenant)))

    yield act
    current_task.set(None)


USER = ("users", "ada")


# The pool's own tasks call `random` while Hypothesis draws.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
async def test_every_batch_is_answered_as_in_memory(opened, postgres_database):
    def empty():
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            connection.execute("TRUNCATE lgrq_items")

    async with opened(index=VectorIndex(DIMS, ensure_embeddings(embed), FIELDS)) as store:
        await asyncio.to_thread(compare_with_memory, store, empty, examples=30)


async def test_twenty_puts_of_one_key_at_once_leave_one_item(opened):
    async with opened() as store:
        await asyncio.gather(*(store.aput(USER, "k", {"n": n}) for n in range(20)))
        assert [item.value["n"] in range(20) for item in await store.asearch(())] == [True]


async def test_items_of_a_tenant_are_its_own(store, acting):
    for tenant in ("acme", "default"):
        acting("t", tenant=tenant)
        await store.aput(USER, "k", {"of": tenant})
    for tenant in ("acme", "default"):
        acting("t", tenant=tenant)
        assert (await store.aget(USER, "k")).value == {"of": tenant}
        assert [item.value["of"] for item in await store.asearch(())] == [tenant]
    acting("t", tenant="other")
    assert await store.alist_namespaces() == []


@pytest.mark.parametrize("late", ["put", "delete"])
async def test_earlier_attempt_writes_nothing_once_a_later_one_has_begun(store, acting, late):
    acting("t", 1)
    await store.aput(USER, "k", {"n": 1})
    await store.raise_epoch("t", 2)
    with pytest.raises(StoreFencedError):
        await (store.aput(USER, "k", {"n": 2}) if late == "put" else store.adelete(USER, "k"))
    acting("t", 2)
    assert (await store.aget(USER, "k")).value == {"n": 1}
    await store.adelete(USER, "k")
    acting(None)
    await store.aput(USER, "k", {"n": 3})


async def test_item_whose_time_is_over_is_gone_and_is_swept(store, postgres):
    await store.aput(USER, "k", {"n": 1}, ttl=10)
    await store.aput(USER, "stays", {"n": 2})
    await postgres.rows("UPDATE lgrq_items SET expires_at = now() - interval '1 second' WHERE ttl_ms > 0", {})
    assert await store.aget(USER, "k") is None
    assert [item.key for item in await store.asearch(())] == ["stays"]
    assert await sweep(postgres) == 1
    assert (await store.aget(USER, "stays")).value == {"n": 2}


async def test_read_lets_the_time_begin_anew_unless_it_is_told_not_to(store, postgres):
    left = "SELECT expires_at > now() + interval '5 minutes' AS is_long FROM lgrq_items"
    await store.aput(USER, "k", {"n": 1}, ttl=10)
    for refreshes in (False, True):
        await postgres.rows("UPDATE lgrq_items SET expires_at = now() + interval '1 minute'", {})
        await store.aget(USER, "k", refresh_ttl=refreshes)
        assert await postgres.rows(left, {}) == [{"is_long": refreshes}]


async def test_search_that_would_look_at_too_much_is_refused(opened):
    async with opened(scan_items=3) as store:
        await store.abatch([PutOp(USER, str(n), {"n": n}) for n in range(5)])
        assert len(await store.asearch(USER, limit=3)) == 3
        with pytest.raises(StoreScanError):
            await store.asearch(USER, filter={"n": 0})


async def test_sync_call_in_an_async_node_is_answered_and_does_not_hang(store):
    store.put(USER, "k", {"n": 1})
    assert store.get(USER, "k").value == {"n": 1}
    assert await asyncio.to_thread(store.batch, [GetOp(USER, "k")])


async def test_encrypted_item_is_read_only_where_it_was_written(opened, postgres):
    serializer = StateSerializer(StateKeys.parse("a-secret-of-more-than-32-characters"))
    async with opened(serializer) as store:
        await store.aput(USER, "k", {"name": "Ada Lovelace"})
        assert (await store.asearch((), filter={"name": "Ada Lovelace"}))[0].key == "k"
        (row,) = await postgres.rows("SELECT value FROM lgrq_items", {})
        assert b"Lovelace" not in row["value"]
        await postgres.rows("UPDATE lgrq_items SET key = 'moved'", {})
        with pytest.raises(RefusedStateError):
            await store.aget(USER, "moved")


async def test_searches_that_look_at_large_items_at_once_hold_few_of_them_in_memory(store):
    await hold_few_in_memory(store)


async def test_large_items_are_read_by_several_statements_in_their_order(store, postgres):
    sizes = [10, 600_000, 600_000, 2_000_000, 10, 10]
    for number, size in enumerate(sizes):
        await store.aput(USER, f"k{number}", {"text": "x" * size})
    await store.adelete(USER, "k4")
    keys = [f"k{number}" for number in range(len(sizes))]
    found = [await store._access.get(USER, keys[start:], refresh_ttl=True) for start in (0, 3, 4)]
    assert [[one is not None for one in some] for some in found] == [[True, True, True], [True, False], [False, True]]


async def test_key_that_postgres_cannot_hold_is_refused_at_once(store):
    with pytest.raises(ValueError, match="expected what Postgres can hold"):
        await store.aput(USER, secrets.token_hex(8_000), {"n": 1})
    assert await store.asearch(USER) == []
