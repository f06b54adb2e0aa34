"""Search by meaning in vector sets: what it finds beside a comparison of all, and what stays in the sets."""

import asyncio
from itertools import cycle

import numpy as np
import pytest
from langgraph.store.base import PutOp, ensure_embeddings

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.state.store.access import StoreFencedError
from langgraph_rq.worker.state.store.reading import StoreScanError
from langgraph_rq.worker.state.store.vector_index import VectorIndex, VectorsError
from langgraph_rq.worker.state.store.vector_sets import check_vector_sets
from tests.worker.state.store.test_like_in_memory import DIMS, FIELDS, compare_with_memory
from tests.worker.state.store.test_like_in_memory import embed as embed_words

ADA = ("users", "ada")
NAME = "default:users.ada"
SETS = [f"agent:store_index:{NAME}", f"agent:store_index_2:{NAME}"]


@pytest.fixture
def store_index():
    return "vector-sets"


def embed(texts):
    """Embed numbers: texts of them, separated by spaces."""
    return [[float(number) for number in text.split()] for text in texts]


@pytest.fixture
def numbers(opened):
    """Open a store whose items have embeddings that their texts spell."""

    def numbers(dims=2, fields=("text",), **options):
        return opened(index=VectorIndex(dims, ensure_embeddings(embed), fields), **options)

    return numbers


@pytest.fixture
def held(redis_client):
    """How many embeddings the vector sets of the namespace hold."""
    return lambda: [redis_client.execute_command("VCARD", key) for key in SETS]


def angle(degrees):
    """A text whose embedding is so far from that of "1 0"."""
    return f"{np.cos(np.radians(degrees))} {np.sin(np.radians(degrees))}"


async def put_angles(store, number):
    """Put items the nearer to "1 0" the smaller their number is."""
    await store.abatch([PutOp(ADA, f"k{n:04}", {"text": angle(n * 90 / number), "n": n}) for n in range(number)])


async def found(store, query="1 0", prefix=ADA, **options):
    return [item.key for item in await store.asearch(prefix, query=query, **options)]


async def test_nearest_of_many_are_nearly_those_of_a_comparison_of_all_and_scores_are_cosines(numbers):
    rng = np.random.default_rng(7)
    middles = rng.normal(size=(40, 24))
    vectors = middles[rng.integers(0, 40, 1_500)] + 0.7 * rng.normal(size=(1_500, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = 0
    async with numbers(dims=24) as store:
        texts = [" ".join(map(str, vector)) for vector in vectors]
        await store.abatch([PutOp(ADA, str(n), {"text": text}) for n, text in enumerate(texts)])
        for query in range(0, 1_500, 50):
            items = await store.asearch(ADA, query=texts[query], limit=10)
            cosines = vectors @ vectors[query]
            assert [item.score for item in items] == pytest.approx([cosines[int(i.key)] for i in items], abs=1e-6)
            hits += len({int(item.key) for item in items} & {*np.argsort(-cosines)[:10].tolist()})
    assert hits >= 0.98 * 300


async def test_query_among_more_items_than_one_search_looks_at_is_answered(numbers):
    async with numbers(scan_items=50) as store:
        await put_angles(store, 120)
        assert await found(store, limit=3) == ["k0000", "k0001", "k0002"]
        assert await found(store, limit=3, offset=70) == ["k0070", "k0071", "k0072"]
        assert len(await found(store, limit=200)) == 120


async def test_items_without_embeddings_come_last_also_among_more_than_one_search_looks_at(numbers):
    async with numbers(scan_items=50) as store:
        await store.abatch([PutOp(ADA, f"plain{n:03}", {"n": n}) for n in range(120)])
        assert await found(store, limit=2) == ["plain119", "plain118"]
        await put_angles(store, 3)
        assert await found(store, limit=5) == ["k0000", "k0001", "k0002", "plain119", "plain118"]


async def test_query_is_embedded_only_where_there_are_items(numbers):
    async with numbers() as store:
        store._reading.index.embeddings.func = None
        assert await found(store) == []


async def test_items_that_were_put_without_vector_sets_are_found_with_them_and_the_other_way_round(numbers):
    async with numbers(store_index="scan") as scan, numbers(scan_items=50) as sets:
        for n, store in zip(range(90), cycle([scan, sets, sets])):
            await store.aput(ADA, f"k{n:04}", {"text": angle(n), "even": n % 2 == 0})
        expected = [f"k{n:04}" for n in range(90)]
        assert await found(sets, limit=40) == expected[:40]
        assert await found(sets, limit=10, filter={"even": True}) == expected[:20:2]
        assert await found(scan, limit=90) == expected


@pytest.mark.parametrize("order", [("scan", "vector-sets"), ("vector-sets", "scan")])
async def test_item_put_again_under_the_other_setting_has_its_embeddings_in_one_place(
    order, numbers, held, redis_client
):
    for n, index in enumerate(order):
        async with numbers(store_index=index) as store:
            await store.aput(ADA, "k", {"text": angle(n)})
            (item,) = await store.asearch(ADA, query=angle(n))
            assert item.score == pytest.approx(1.0)
    assert sum(held()) + redis_client.hlen(f"agent:store_vectors:{NAME}") == 1


async def test_every_batch_is_answered_as_in_memory_while_the_setting_changes(opened, redis_client):
    index = VectorIndex(DIMS, ensure_embeddings(embed_words), FIELDS)
    async with opened(index=index) as sets, opened(index=index, store_index="scan") as scan:

        class Changing:
            turns = cycle([sets, scan, scan, sets])

            def batch(self, ops):
                return next(self.turns).batch(ops)

        await asyncio.to_thread(compare_with_memory, Changing(), redis_client.flushdb, 25)


@pytest.mark.parametrize("order", [("scan", "vector-sets"), ("vector-sets", "scan")])
async def test_readers_never_miss_an_item_that_is_put_again_under_the_other_setting(order, numbers):
    names = {f"k{n}" for n in range(20)}
    before, after = order
    async with numbers(store_index=before) as first, numbers(store_index=after) as writer, numbers() as reader:
        for _ in range(5):
            await first.abatch([PutOp(ADA, name, {"text": "1 0"}) for name in names])

            async def put_again():
                for name in sorted(names):
                    await writer.aput(ADA, name, {"text": "0 1"})

            writing = asyncio.create_task(put_again())
            while not writing.done():
                items = await reader.asearch(ADA, query="1 0", limit=20)
                assert {item.key for item in items if item.score is not None} == names
            await writing


async def test_more_items_in_the_hash_than_one_search_looks_at_are_an_error_that_says_so(numbers):
    async with numbers(store_index="scan") as scan, numbers(scan_items=50) as sets:
        await put_angles(scan, 51)
        await sets.aput(ADA, "new", {"text": "1 0"})
        with pytest.raises(StoreScanError, match="expected at most 50 items"):
            await found(sets)


async def test_replaced_and_deleted_items_leave_nothing_in_the_sets(numbers, held, redis_client):
    async with numbers(fields=("text", "tags[*]")) as store:
        await store.aput(ADA, "k", {"text": "1 0", "tags": ["0 1", "1 1"]})
        assert held() == [3, 0]
        await store.aput(ADA, "k", {"text": "1 0"})
        assert held() == [1, 0]
        await store.aput(ADA, "k", {"text": "1 0"}, index=False)
        assert held() == [0, 0]
        await store.aput(ADA, "k", {"text": "0 1", "tags": ["0 1"]})
        await store.adelete(ADA, "k")
    assert redis_client.keys() == []


async def test_twenty_puts_of_one_key_at_once_leave_the_embeddings_of_the_item_that_is_there(numbers, held):
    async with numbers() as one, numbers() as other:
        await asyncio.gather(*((one, other)[n % 2].aput(ADA, "k", {"text": angle(n)}) for n in range(20)))
        (item,) = await one.asearch(ADA, query="1 0")
        assert item.score == pytest.approx(float(item.value["text"].split()[0]), abs=1e-6)
    assert held() == [1, 0]


async def test_cancelled_put_leaves_an_item_with_its_own_embeddings(numbers, held):
    async with numbers() as store, numbers() as reader:
        await store.aput(ADA, "k", {"text": angle(0)})
        for pauses in range(8):
            put = asyncio.create_task(store.aput(ADA, "k", {"text": angle(10 + pauses)}))
            for _ in range(pauses):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            text = (await reader.aget(ADA, "k")).value["text"]
            (item,) = await reader.asearch(ADA, query=text)
            assert item.value["text"] != text or item.score == pytest.approx(1.0)
            assert held() == [1, 0]


async def test_items_whose_time_is_over_are_not_found_and_leave_the_sets_some_with_each_script(
    numbers, held, redis_client
):
    async with numbers() as store:
        await put_angles(store, 200)
        await store.abatch([PutOp(ADA, f"over{n}", {"text": angle(0)}, ttl=1) for n in range(60)])
        assert held() == [260, 0]
        redis_client.zadd(f"agent:store_expiry:{NAME}", {f"over{n}": 1 for n in range(60)})
        assert await found(store, limit=3) == ["k0000", "k0001", "k0002"]
        assert 200 < held()[0] < 260
        for _ in range(6):
            await found(store, limit=1)
        assert held() == [200, 0]


async def test_search_below_many_namespaces_takes_few_items_whose_time_is_over_out_of_sets(numbers, redis_client):
    async with numbers() as store:
        await store.abatch([PutOp(("users", f"u{n}"), f"k{n}", {"text": "1 0"}, ttl=1) for n in range(100)])
        for n in range(100):
            redis_client.zadd(f"agent:store_expiry:default:users.u{n}", {f"k{n}": 1})
        assert await found(store, prefix=("users",)) == []
        assert 100 - 3 * 10 <= len(redis_client.keys("agent:store_index:*")) < 100


async def test_vector_set_lives_as_long_as_the_longest_lived_item_in_it(numbers, redis_client):
    async with numbers() as store:
        await store.aput(ADA, "short", {"text": "1 0"}, ttl=1)
        assert 50_000 < redis_client.pttl(SETS[0]) <= 60_000
        await store.aput(ADA, "long", {"text": "1 0"}, ttl=60)
        assert 3_500_000 < redis_client.pttl(SETS[0]) <= 3_600_000
        redis_client.pexpire(SETS[0], 30_000)
        await store.aget(ADA, "long")
        assert redis_client.pttl(SETS[0]) > 3_500_000
        await store.aput(ADA, "for ever", {"text": "1 0"})
        assert redis_client.pttl(SETS[0]) == -1


async def test_filter_looks_at_further_items_until_the_page_is_full(numbers):
    async with numbers(scan_items=400) as store:
        await put_angles(store, 600)
        assert await found(store, filter={"n": {"$gt": 300}}, limit=3, offset=1) == ["k0302", "k0303", "k0304"]


async def test_filter_that_few_of_few_items_fit_compares_them_all(numbers):
    async with numbers() as store:
        await put_angles(store, 1_400)
        assert await found(store, filter={"n": {"$gt": 1_390}}, limit=3) == ["k1391", "k1392", "k1393"]
        assert await found(store, filter={"n": {"$gt": 1_397}}, limit=3) == ["k1398", "k1399"]


async def test_filter_that_too_few_of_many_items_fit_is_an_error_that_says_so(numbers):
    async with numbers(scan_items=1_000) as store:
        await put_angles(store, 1_400)
        with pytest.raises(
            StoreScanError, match=r"expected 3 items below .* among its 1,000 nearest embeddings, got: 0"
        ):
            await found(store, filter={"n": {"$gt": 1_390}}, limit=3)


async def test_item_with_several_embeddings_counts_once_and_as_its_nearest(numbers):
    async with numbers(fields=("text", "tags[*]")) as store:
        near = [angle(n / 10) for n in range(7)]
        for n in range(30):
            await store.aput(ADA, f"k{n:02}", {"text": angle(80), "tags": [angle(n), *near[: 7 if n < 3 else 0]]})
        items = await store.asearch(ADA, query="1 0", limit=6)
        assert [item.key for item in items] == ["k02", "k01", "k00", "k03", "k04", "k05"]
        assert items[3].score == pytest.approx(np.cos(np.radians(3)), abs=1e-6)


async def test_item_with_very_many_embeddings_keeps_them_in_the_hash(numbers, held, redis_client):
    async with numbers(fields=("tags[*]",)) as store:
        await store.aput(ADA, "many", {"tags": [angle(n) for n in range(20)]})
        await store.aput(ADA, "one", {"tags": [angle(10.5)]})
        assert (held(), redis_client.hlen(f"agent:store_vectors:{NAME}")) == ([1, 0], 1)
        assert await found(store, query=angle(19)) == ["many", "one"]
        assert await found(store, query=angle(10.5)) == ["one", "many"]


async def test_search_below_many_namespaces_gives_the_nearest_of_all(numbers):
    async with numbers(scan_items=1_000) as store, numbers(store_index="scan") as scan:
        puts = [PutOp(("users", f"u{n % 250}"), f"k{n:03}", {"text": angle(n / 10)}) for n in range(800)]
        for start in range(0, 800, 100):
            await (scan if start == 300 else store).abatch(puts[start : start + 100])
        await store.abatch([PutOp(("users", "many"), f"m{n}", {"text": angle(2 + n / 97)}) for n in range(1, 31)])
        assert await found(store, prefix=("users",), limit=40) == await found(scan, prefix=("users",), limit=40)
        assert await found(store, prefix=("users",), query=angle(31.2), limit=1) == ["k312"]


async def test_embeddings_of_another_model_are_an_error_until_all_items_are_put_again(numbers, held, redis_client):
    async with numbers(dims=2) as old, numbers(dims=3) as new:
        for key in ("a", "b"):
            await old.aput(ADA, key, {"text": "1 0"})
        await new.aput(ADA, "a", {"text": "1 0 0"})
        assert held() == [1, 1]
        for store, dims, other in ((old, 2, 3), (new, 3, 2)):
            with pytest.raises(VectorsError, match=f"expected embeddings of {dims} numbers, got an item with {other}"):
                await store.asearch(ADA, query="1 0" + " 0" * (dims - 2))
        await new.aput(ADA, "b", {"text": "0 1 0"})
        assert await found(new, query="1 0 0") == ["a", "b"]
        await new.aput(ADA, "c", {"text": "0 1 1"})
        assert held() == [0, 3]
    assert not redis_client.exists(f"agent:store_vectors:{NAME}")


async def test_embeddings_of_a_third_model_are_kept_in_the_hash_and_lose_no_item(numbers, held):
    async with numbers(dims=2) as first, numbers(dims=3) as second, numbers(dims=4) as third:
        await first.aput(ADA, "a", {"text": "1 0"})
        await second.aput(ADA, "b", {"text": "1 0 0"})
        await third.aput(ADA, "c", {"text": "1 0 0 0"})
        assert held() == [1, 1]
        assert await third.aget(ADA, "c")
        for key in ("a", "b"):
            await third.aput(ADA, key, {"text": "0 1 0 0"})
        assert await found(third, query="1 0 0 0") == ["c", "b", "a"]


async def test_tenants_search_their_own_sets_and_earlier_attempts_change_none(numbers, acting):
    async with numbers() as store:
        acting("t", epoch=2, tenant="acme")
        await store.aput(ADA, "k", {"text": "1 0"})
        acting("t", epoch=1, tenant="acme")
        with pytest.raises(StoreFencedError):
            await store.aput(ADA, "k", {"text": "0 1"})
        with pytest.raises(StoreFencedError):
            await store.adelete(ADA, "k")
        assert [item.score for item in await store.asearch(ADA, query="1 0")] == [1.0]
        acting(None)
        assert await found(store) == []


async def test_key_of_another_type_beside_the_sets_keeps_no_worker_from_its_start(redis_url, redis_client):
    redis_client.set("agent:store_index:", "planted")
    async with open_async(redis_url) as redis:
        await check_vector_sets(redis, is_encrypted=False)


@pytest.mark.parametrize("key", SETS)
async def test_key_of_another_type_where_a_set_should_be_stops_nothing(key, numbers, redis_client):
    async with numbers() as store:
        await store.aput(ADA, "k", {"text": "1 0"})
        redis_client.delete(key)
        redis_client.set(key, "planted")
        await store.aput(ADA, "l", {"text": "0 1"})
        assert (await found(store, query="0 1"))[0] == "l"
        await store.adelete(ADA, "l")
