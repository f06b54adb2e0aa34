"""Searches and listings: what they find, in which order, and when they would look at too much."""

import pytest
from langgraph.store.base import ListNamespacesOp, MatchCondition, PutOp, SearchOp, ensure_embeddings

from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from langgraph_rq.worker.state.store.access import NAMESPACES
from langgraph_rq.worker.state.store.filters import fits
from langgraph_rq.worker.state.store.reading import StoreScanError
from langgraph_rq.worker.state.store.vector_index import VectorIndex, VectorsError

ADA = ("users", "ada")


async def numbered(store, number, namespace=ADA):
    await store.abatch([PutOp(namespace, f"k{n:05}", {"n": n}) for n in range(number)])


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        ({}, {"n": None}, True),
        ({"n": 0}, {"n": None}, False),
        ({"n": "2026-11-28"}, {"n": {"$gt": "2026-11-27", "$lt": "2026-12"}}, True),
        ({"n": "10"}, {"n": {"$gt": "9"}}, True),
        ({"n": "ten"}, {"n": {"$gt": 9}}, False),
        ({}, {"n": {"$lt": 9}}, False),
        ({"n": None}, {"n": {"$gte": 0}}, False),
        ({}, {"n": {"$ne": 1}}, True),
        ({"n": 10**400}, {"n": {"$gt": 1}}, False),
        ({"n": [1, {"a": 2}]}, {"n": [1, {"a": {"$gt": 1}}]}, True),
        ({"n": [1, 2]}, {"n": [1]}, False),
        ({"n": {"a": 1, "b": 2}}, {"n": {"a": 1}}, True),
        ({"n": 1}, {"n": {"a": 1}}, False),
        ({"n": 1, "m": 2}, {"n": 1, "m": 3}, False),
    ],
)
def test_filter_compares_as_documented_and_never_fails_on_an_item(value, condition, expected):
    assert fits(value, condition) is expected


@pytest.mark.parametrize("condition", [{"n": {"$regex": "a"}}, {"n": [{"a": {"$eq": 1, "b": 2}}]}])
async def test_unknown_operator_is_refused_also_where_nothing_is_stored(condition, store):
    with pytest.raises(ValueError, match=r"filter: expected one of \$eq"):
        await store.asearch(ADA, filter=condition)


async def test_filter_comes_before_limit_and_offset(store):
    await numbered(store, 300)
    found = await store.asearch(ADA, filter={"n": {"$lt": 7}}, limit=3, offset=2)
    assert [item.value["n"] for item in found] == [4, 3, 2]


async def test_pages_of_many_namespaces_hold_each_item_once_and_the_newest_first(store):
    for n in range(2 * NAMESPACES + 5):
        await store.aput(("users", f"u{n % (NAMESPACES + 3)}"), f"k{n}", {"n": n})
    pages = [await store.asearch(("users",), limit=50, offset=offset) for offset in range(0, 500, 50)]
    assert [item.value["n"] for page in pages for item in page] == list(reversed(range(2 * NAMESPACES + 5)))


async def test_search_that_would_look_at_too_much_is_refused_with_what_to_do(opened):
    index = VectorIndex(1, ensure_embeddings(lambda texts: [[1.0]] * len(texts)))
    async with opened(scan_items=50, index=index, store_index="scan") as store:
        await numbered(store, 51)
        assert len(await store.asearch(ADA, limit=20, offset=25)) == 20
        assert [item.value["n"] for item in await store.asearch(ADA, filter={"n": {"$gt": 40}}, limit=3)] == [
            50,
            49,
            48,
        ]
        for search in (
            SearchOp(ADA, limit=60),
            SearchOp(ADA, filter={"n": 0}),
            SearchOp(ADA, query="any", limit=1),
        ):
            with pytest.raises(StoreScanError, match=r"expected at most 50 items below .*LGRQ_STORE_SCAN_ITEMS"):
                await store.abatch([search])
        await store.adelete(ADA, "k00000")
        assert len(await store.asearch(ADA, limit=60)) == 50
        assert len(await store.asearch(ADA, query="any", limit=60)) == 50


async def test_listing_that_would_look_at_too_many_namespaces_is_refused(opened):
    async with opened(scan_items=2 * NAMESPACES) as store:
        for n in range(6 * NAMESPACES):
            await store.aput((f"t{n % 2}", f"u{n:03}"), "k", {})
        with pytest.raises(StoreScanError, match="LGRQ_STORE_SCAN_ITEMS"):
            await store.alist_namespaces(suffix=("nowhere",))
        assert await store.alist_namespaces(limit=2) == [("t0", "u000"), ("t0", "u002")]
        assert await store.alist_namespaces(max_depth=1) == [("t0",), ("t1",)]
        assert len(await store.alist_namespaces(prefix=("t1",), limit=500)) == 500


async def test_listing_takes_wildcards_in_prefix_and_suffix(store):
    for namespace in (("a", "x", "v1"), ("a", "y", "v2"), ("b", "x", "v1"), ("a",)):
        await store.aput(namespace, "k", {})
    assert await store.alist_namespaces(prefix=("*", "x")) == [("a", "x", "v1"), ("b", "x", "v1")]
    assert await store.alist_namespaces(prefix=("a", "*"), suffix=("v1",)) == [("a", "x", "v1")]
    assert await store.alist_namespaces(suffix=("*", "v2")) == [("a", "y", "v2")]


@pytest.mark.parametrize(
    "op",
    [
        SearchOp(ADA, limit=-1),
        SearchOp(ADA, offset=-1),
        ListNamespacesOp(limit=-1),
        ListNamespacesOp(max_depth=0),
        ListNamespacesOp(match_conditions=(MatchCondition("infix", ("a",)),)),
    ],
)
async def test_bounds_that_make_no_sense_are_refused(op, store):
    with pytest.raises(ValueError, match="expected"):
        await store.abatch([op])


PETS = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "nothing": [0.0, 0.0]}


def embed(texts):
    return [[sum(PETS.get(word, (0, 0))[axis] for word in text.split()) for axis in (0, 1)] for text in texts]


@pytest.fixture
def pets(opened):
    def pets(serializer=None, fields=("text", "tags[*]"), dims=2):
        return opened(serializer, index=VectorIndex(dims, ensure_embeddings(embed), fields))

    return pets


async def test_item_is_as_near_as_the_nearest_of_its_fields(pets):
    async with pets() as store:
        await store.aput(ADA, "both", {"text": "cat", "tags": ["dog", "cat"]})
        await store.aput(ADA, "cat", {"text": "cat cat"})
        await store.aput(ADA, "mixed", {"text": "cat dog dog"})
        found = await store.asearch(ADA, query="dog")
        assert [(item.key, round(item.score, 3)) for item in found] == [("both", 1), ("mixed", 0.894), ("cat", 0)]


async def test_items_without_embeddings_come_last_and_without_score(pets):
    async with pets() as store:
        await store.aput(ADA, "cat", {"text": "cat"})
        await store.aput(ADA, "hidden", {"text": "dog"}, index=False)
        await store.aput(ADA, "zero", {"text": "nothing"})
        await store.aput(ADA, "textless", {"n": 1})
        found = await store.asearch(ADA, query="dog")
        assert [(item.key, item.score) for item in found] == [
            ("zero", 0.0),
            ("cat", 0.0),
            ("textless", None),
            ("hidden", None),
        ]
        assert [item.key for item in await store.asearch(ADA, query="dog", limit=2, offset=1)] == ["cat", "textless"]


async def test_item_put_again_is_found_by_what_it_says_now(pets):
    async with pets() as store:
        await store.aput(ADA, "k", {"text": "cat", "tags": ["dog"]})
        await store.aput(ADA, "k", {"text": "cat"})
        assert [item.score for item in await store.asearch(ADA, query="dog")] == [0.0]
        await store.aput(ADA, "k", {"text": "dog"}, index=False)
        assert [item.score for item in await store.asearch(ADA, query="dog")] == [None]


async def test_search_by_meaning_filters_before_it_ranks(pets):
    async with pets() as store:
        for n in range(200):
            await store.aput(ADA, f"k{n}", {"text": "dog" if n % 2 else "cat dog", "n": n})
        found = await store.asearch(ADA, query="dog", filter={"n": {"$lt": 4}}, limit=3)
        assert [item.value["n"] for item in found] == [3, 1, 2]


async def test_put_may_name_other_fields(pets):
    async with pets(fields=("text",)) as store:
        await store.aput(ADA, "k", {"text": "cat", "about": {"pet": "dog"}}, index=["about.pet"])
        assert (await store.asearch(ADA, query="dog"))[0].score == 1.0


async def test_equal_texts_of_a_batch_are_embedded_once(pets):
    calls = []

    async def counted(texts):
        calls.append(texts)
        return embed(texts)

    async with pets() as store:
        store._reading.index.embeddings.afunc = counted
        await store.abatch([PutOp(ADA, key, {"text": "cat", "tags": ["cat", "dog"]}) for key in ("k", "l")])
    assert calls == [["cat", "dog"]]


async def test_embeddings_of_another_model_are_an_error_and_not_a_wrong_order(pets, opened):
    async with pets() as store:
        await store.aput(ADA, "k", {"text": "cat"})
    async with opened(index=VectorIndex(1, ensure_embeddings(lambda texts: [[1.0]] * len(texts)))) as other:
        with pytest.raises(VectorsError, match="expected embeddings of 1 numbers, got an item with 2"):
            await other.asearch(ADA, query="cat")
    async with pets(dims=3) as wrong:
        with pytest.raises(VectorsError, match=r"store.index.dims: expected embeddings of 3 numbers, got: 2"):
            await wrong.aput(ADA, "k", {"text": "cat"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_embedding_that_is_near_to_nothing_is_refused(number, opened):
    async with opened(index=VectorIndex(1, ensure_embeddings(lambda texts: [[number]] * len(texts)))) as store:
        with pytest.raises(VectorsError, match="expected embeddings of finite numbers"):
            await store.aput(ADA, "k", {"text": "cat"})
        assert await store.aget(ADA, "k") is None


async def test_embeddings_are_encrypted_as_values_are(pets):
    async with pets(StateSerializer(StateKeys.parse("a-secret-of-more-than-32-characters"))) as store:
        await store.aput(ADA, "k", {"text": "cat"})
        assert (await store.asearch(ADA, query="cat"))[0].score == 1.0
    async with pets() as store:
        with pytest.raises(RefusedStateError):
            await store.asearch(ADA, query="cat")


async def test_query_without_an_index_is_ignored_as_in_langgraph(store):
    await store.aput(ADA, "k", {"text": "cat"})
    assert [item.score for item in await store.asearch(ADA, query="cat")] == [None]
