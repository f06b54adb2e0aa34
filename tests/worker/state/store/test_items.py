"""Items: written as a whole, by whoever comes last, and seen by nobody else."""

import asyncio
from types import SimpleNamespace

import pytest
from langchain_core.messages import HumanMessage
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp

from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from langgraph_rq.worker.state.store import access
from langgraph_rq.worker.state.store.access import StoreFencedError
from langgraph_rq.worker.state.store.reading import Reading

ADA = ("users", "ada")


async def test_twenty_puts_of_one_key_at_once_leave_one_item(opened, redis_client):
    async with opened() as one, opened() as other:
        await asyncio.gather(*((one, other)[n % 2].aput(ADA, "likes", {"n": n, "again": n}) for n in range(20)))
        (found,) = await one.asearch(ADA)
        assert found.value["n"] == found.value["again"]
        assert (await other.aget(ADA, "likes")).value == found.value
    assert redis_client.hlen("agent:store:default:users.ada") == redis_client.zcard(
        "agent:store_order:default:users.ada"
    )


async def test_readers_never_miss_an_item_that_is_being_put_again(opened):
    async with opened() as writer, opened() as reader:
        names = {f"k{n}" for n in range(30)}
        for key in names:
            await writer.aput(ADA, key, {"n": 0})

        async def put_again():
            for n in range(1, 9):
                await asyncio.gather(*(writer.aput(ADA, key, {"n": n}) for key in names))

        writing = asyncio.create_task(put_again())
        rounds = 0
        while not writing.done():
            found = await reader.asearch(ADA, filter={"n": {"$gte": 0}}, limit=100)
            assert {item.key for item in found} == names
            assert await reader.aget(ADA, "k7") is not None
            assert await reader.alist_namespaces() == [ADA]
            rounds += 1
        await writing
    assert rounds


async def test_search_over_several_scripts_misses_no_item_that_is_put_again_meanwhile(opened, monkeypatch):
    monkeypatch.setattr(access, "_ITEMS", 7)
    async with opened() as store, opened() as writer:
        names = [f"k{n:02}" for n in range(40)]
        for key in names:
            await store.aput(ADA, key, {"n": 0})
        turns = iter(names)

        async def put_and_find(*args):
            await writer.aput(ADA, next(turns), {"n": 1})
            return await store._access.find(*args)

        reading = Reading(SimpleNamespace(find=put_and_find), StateSerializer(), 100)
        found, is_all = await reading._newest(ADA, 100)
        assert (sorted(key for _, key in found), is_all) == (names, True)
    assert next(turns) > names[5]


async def test_batch_reads_what_was_there_before_its_own_puts_of_which_the_last_counts(store):
    await store.aput(ADA, "k", {"n": 0})
    found, *_, listed = await store.abatch(
        [GetOp(ADA, "k"), PutOp(ADA, "k", {"n": 1}), PutOp(ADA, "k", {"n": 2}), PutOp(ADA, "new", {}), SearchOp(ADA)]
    )
    assert found.value == {"n": 0}
    assert [item.value for item in listed] == [{"n": 0}]
    assert (await store.aget(ADA, "k")).value == {"n": 2}


async def test_large_items_are_read_by_several_scripts(store, redis_client):
    for n in range(5):
        await store.aput(ADA, f"k{n}", {"text": str(n) * 600_000})
    await store.asearch(ADA)  # loads the scripts
    redis_client.config_resetstat()
    found = await store.asearch(ADA, filter={"text": {"$ne": ""}})
    assert [item.value["text"][0] for item in found] == ["4", "3", "2", "1", "0"]
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1 + 3 + 3  # names, filter, page


async def test_batch_with_an_item_that_is_refused_writes_none(store):
    with pytest.raises(RefusedStateError):
        await store.abatch([PutOp(ADA, "good", {"n": 1}), PutOp(ADA, "bad", {"n": object()})])
    assert await store.asearch(("users",)) == []


async def test_put_again_keeps_the_time_of_creation_and_comes_first(store):
    for key in ("old", "new"):
        await store.aput(ADA, key, {})
    before = await store.aget(ADA, "old")
    await store.aput(ADA, "old", {"again": True})
    after = await store.aget(ADA, "old")
    assert after.created_at == before.created_at == before.updated_at < after.updated_at
    assert [item.key for item in await store.asearch(ADA)] == ["old", "new"]


async def test_item_that_is_put_later_comes_first_also_when_the_clock_went_back(store, redis_client):
    await store.aput(ADA, "old", {})
    redis_client.zincrby("agent:store_order:default:users.ada", 3_600_000_000, "old")
    await store.aput(ADA, "new", {})
    assert [item.key for item in await store.asearch(ADA)] == ["new", "old"]


async def test_item_that_no_longer_fits_when_it_is_read_is_not_found(store):
    await store.aput(ADA, "k", {"n": 1})
    reads = []

    async def get(*args, **options):
        reads.append(1)
        if len(reads) == 2:
            await store.aput(ADA, "k", {"n": 2})
        return await store._access.get(*args, **options)

    reading = Reading(SimpleNamespace(find=store._access.find, get=get), StateSerializer(), 100)
    assert await reading.search(SearchOp(ADA, filter={"n": 1})) == []
    assert len(reads) == 2


async def test_item_created_after_a_deletion_is_a_new_one(store):
    await store.aput(ADA, "k", {})
    before = await store.aget(ADA, "k")
    await store.adelete(ADA, "k")
    assert await store.aget(ADA, "k") is None
    assert await store.alist_namespaces() == []
    await store.aput(ADA, "k", {})
    assert (await store.aget(ADA, "k")).created_at > before.created_at


async def test_last_deletion_leaves_no_key_behind(store, redis_client):
    await store.aput(ADA, "k", {}, ttl=1)
    await store.aput(ADA, "l", {})
    for key in ("k", "l", "unknown"):
        await store.adelete(ADA, key)
    assert redis_client.keys() == []


async def test_value_keeps_its_types(store):
    value = {"tuple": (1, 2), "message": HumanMessage("hi"), "bytes": b"\x00", 3: 2**70}
    await store.aput(ADA, "k", value)
    assert (await store.aget(ADA, "k")).value == value


async def test_period_in_a_label_is_refused_also_in_a_batch(store):
    for run in (lambda: store.aput(("a.b",), "k", {}), lambda: store.abatch([PutOp(("a.b",), "k", {})])):
        with pytest.raises(InvalidNamespaceError):
            await run()


async def test_sync_node_uses_the_store_from_its_thread(store):
    await asyncio.to_thread(store.put, ADA, "k", {"n": 1})
    assert (await asyncio.to_thread(store.get, ADA, "k")).value == {"n": 1}


async def test_sync_call_in_an_async_node_is_answered_and_does_not_hang(store):
    store.put(ADA, "k", {"n": 1})
    assert store.search(ADA)[0].value == {"n": 1}


async def test_items_of_a_tenant_are_its_own(store, acting, redis_client):
    for tenant in ("acme", "default"):
        acting("t", tenant=tenant)
        await store.aput(ADA, "k", {"of": tenant})
    acting("t", tenant="acme")
    await store.aput(("acme only",), "k", {})
    assert (await store.aget(ADA, "k")).value == {"of": "acme"}
    assert {item.namespace for item in await store.asearch(())} == {ADA, ("acme only",)}
    acting("t", tenant="other")
    assert await store.aget(ADA, "k") is None
    assert await store.asearch(()) == []
    assert await store.alist_namespaces() == []
    await store.adelete(ADA, "k")
    acting(None)
    assert (await store.aget(ADA, "k")).value == {"of": "default"}
    assert await store.alist_namespaces() == [ADA]
    assert redis_client.exists("agent:store:acme:users.ada", "agent:store:default:users.ada") == 2


async def test_earlier_attempt_writes_nothing_once_a_later_one_has_put(opened, acting):
    async with opened() as zombie, opened() as successor:
        acting("t", epoch=2)
        await successor.aput(ADA, "k", {"by": 2})
        acting("t", epoch=1)
        with pytest.raises(StoreFencedError):
            await zombie.aput(ADA, "k", {"by": 1})
        with pytest.raises(StoreFencedError):
            await zombie.adelete(ADA, "k")
        assert (await zombie.aget(ADA, "k")).value == {"by": 2}
        acting("another", epoch=1)
        await zombie.aput(ADA, "k", {"by": "another"})
        acting(None)
        await zombie.aput(ADA, "k", {"by": "an API"})
        acting("t", epoch=3)
        await successor.aput(ADA, "k", {"by": 3})


async def test_earlier_attempt_writes_nothing_once_a_later_one_has_begun(store, acting, redis_client):
    await store.raise_epoch("t", 2)
    acting("t", epoch=1)
    with pytest.raises(StoreFencedError):
        await store.aput(ADA, "k", {})
    assert 80_000 < redis_client.ttl("agent:store_epoch:t") <= 86_400


async def test_first_attempt_leaves_no_trace_but_its_item(store, acting, redis_client):
    acting("t")
    await store.aput(ADA, "k", {})
    assert not redis_client.exists("agent:store_epoch:t")


async def test_run_that_has_ended_or_lost_its_worker_writes_nothing(opened, acting):
    acting("t").is_over = True
    async with opened() as store:
        with pytest.raises(CheckpointFencedError):
            await store.aput(ADA, "k", {})
    acting("t")
    async with opened(is_fenced=lambda: True) as store:
        with pytest.raises(CheckpointFencedError):
            await store.aput(ADA, "k", {})
        assert await store.aget(ADA, "k") is None


async def test_cancelled_put_leaves_the_old_item_or_the_new_one(opened):
    async with opened() as store, opened() as reader:
        await store.aput(ADA, "k", {"text": "old" * 50_000})
        for pauses in range(8):
            put = asyncio.create_task(store.aput(ADA, "k", {"text": "new" * 50_000}))
            for _ in range(pauses):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            assert (await reader.aget(ADA, "k")).value["text"] in {"old" * 50_000, "new" * 50_000}


SECRETS = "a-secret-of-more-than-32-characters"


async def test_encrypted_item_is_read_only_where_it_was_written(opened, aredis, acting):
    serializer = StateSerializer(StateKeys.parse(SECRETS))
    async with opened(serializer) as store:
        await store.aput(ADA, "k", {"text": "canary"})
        assert (await store.aget(ADA, "k")).value == {"text": "canary"}
    item = await aredis.hget("agent:store:default:users.ada", "k")
    assert b"canary" not in item
    await aredis.hset("agent:store:default:users.ada", "moved", item)
    await aredis.hset("agent:store:acme:users.ada", "k", item)
    async with opened(serializer) as store:
        with pytest.raises(RefusedStateError):
            await store.aget(ADA, "moved")
        acting("t", tenant="acme")
        with pytest.raises(RefusedStateError):
            await store.aget(ADA, "k")


@pytest.mark.parametrize("planted", [b"", b"\x01", b"\xff" * 40, b"\x01" + b"\xff" * 24 + b"\x07msgpack\x80"])
async def test_planted_item_is_refused(planted, store, redis_client):
    await store.aput(ADA, "k", {})
    redis_client.hset("agent:store:default:users.ada", "k", planted)
    with pytest.raises(RefusedStateError):
        await store.aget(ADA, "k")


@pytest.mark.parametrize("name", ["store", "store_order", "store_expiry", "store_vectors"])
async def test_key_of_another_type_costs_what_stood_there_and_nothing_else(name, store, redis_client):
    await store.aput(ADA, "k", {})
    key = f"agent:{name}:default:users.ada"
    redis_client.delete(key)
    redis_client.set(key, "planted")
    await store.asearch(("users",))
    await store.aput(ADA, "l", {"n": 1}, ttl=1)
    assert (await store.aget(ADA, "l")).value == {"n": 1}
    assert "l" in {item.key for item in await store.asearch(("users",))}


async def test_outage_is_waited_for_but_not_where_it_would_block_the_loop(opened, redis_client):
    async with opened(patience_s=30.0) as store:
        redis_client.config_set("maxmemory", 1)
        try:
            put = asyncio.create_task(store.aput(ADA, "k", {"n": 1}))
            with pytest.raises(CheckpointOutageError):
                store.put(ADA, "l", {})
            assert not put.done()
        finally:
            redis_client.config_set("maxmemory", 0)
        await put
        assert (await store.aget(ADA, "k")).value == {"n": 1}
