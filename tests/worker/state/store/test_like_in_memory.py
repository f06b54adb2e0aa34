"""The store answers as LangGraph's InMemoryStore does, operation by operation."""

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp, ensure_embeddings
from langgraph.store.memory import InMemoryStore

from langgraph_rq.worker.state.store.vector_index import VectorIndex

WORDS = ["red", "green", "blue"]
DIMS = len(WORDS) + 1
FIELDS = ["text", "tags[*]"]


def embed(texts):
    return [[*(float(text.count(word)) for word in WORDS), 0.1] for text in texts]


class Reference(InMemoryStore):
    """InMemoryStore, but for what it does by accident.

    It finds the oldest items first (LangGraph's Postgres store: the newest), lists namespaces that are empty, refuses
    two equal texts in a batch, and still finds an item by the text that it had before.
    """

    def __init__(self):
        super().__init__(index={"dims": DIMS, "embed": embed, "fields": FIELDS})
        self.turns, self.turn = count(), {}

    def _filter_items(self, op):
        found = super()._filter_items(op._replace(offset=0, limit=1_000))
        return sorted(found, key=lambda one: -self.turn[one[0].namespace, one[0].key])

    def _handle_list_namespaces(self, op):
        for namespace in [namespace for namespace, items in self._data.items() if not items]:
            del self._data[namespace]
        return super()._handle_list_namespaces(op)

    def _extract_texts(self, put_ops):
        for namespace, key in put_ops:
            self._vectors[namespace].pop(key, None)
            self.turn[namespace, key] = next(self.turns)
        return super()._extract_texts(put_ops)

    def _insertinmem_store(self, to_embed, embeddings):
        for places, embedding in zip(to_embed.values(), embeddings, strict=True):
            for namespace, key, path in places:
                self._vectors[namespace][key][path] = embedding


LABELS = st.sampled_from(["a", "a b", "a-b", "ab", "Ω", "*", "users"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "K", "k.1", "", "a\x00b", "ключ"])
TEXTS = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
VALUES = st.fixed_dictionaries(
    {"n": st.integers(-3, 3)},
    optional={
        "text": TEXTS,
        "tags": st.lists(st.sampled_from(WORDS), max_size=2),
        "deep": st.fixed_dictionaries({"n": st.integers(0, 1)}, optional={"m": st.none() | st.booleans()}),
    },
)
NUMBERS = st.integers(-3, 3)
FILTERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "n": NUMBERS
        | st.dictionaries(
            st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1, max_size=2
        ),
        "text": TEXTS | st.fixed_dictionaries({"$ne": TEXTS}),
        "tags": st.lists(st.sampled_from(WORDS), max_size=2),
        "deep": st.fixed_dictionaries({"n": st.integers(0, 1)}),
        "absent": st.none() | st.just(1),
    },
)
INDEXED = st.sampled_from([None, False, ["text"], ["tags"]])
PUTS = st.builds(PutOp, NAMESPACES, KEYS, st.none() | VALUES, INDEXED, st.none())
PREFIXES = st.lists(LABELS, max_size=2).map(tuple)
READS = st.one_of(
    st.builds(GetOp, NAMESPACES, KEYS),
    st.builds(SearchOp, PREFIXES, FILTERS, st.integers(0, 4), st.integers(0, 4), st.none()),
    st.builds(SearchOp, PREFIXES, FILTERS, st.integers(0, 20), st.just(0), TEXTS),
    st.builds(
        ListNamespacesOp,
        st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), NAMESPACES), max_size=2).map(tuple),
        st.none() | st.integers(1, 3),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
)
BATCHES = st.lists(PUTS, max_size=6).flatmap(lambda puts: st.lists(READS, max_size=2).map(lambda reads: puts + reads))


def shown(op, result):
    """What can be compared: without times, and where two items are as near as each other, without their order."""
    if isinstance(op, GetOp):
        return result and (result.namespace, result.key, result.value)
    if isinstance(op, SearchOp):
        rows = [(item.namespace, item.key, item.value, item.score and round(item.score, 4)) for item in result]
        if not op.query:
            return rows
        scores = [score for *_, score in rows]
        return scores, sorted(rows, key=repr) if len(rows) < op.limit else None
    return result


def compare_with_memory(store, empty, examples=100):
    """Compare any batches; not to be called on the store's own loop."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(BATCHES, min_size=1, max_size=6))
    def compare(batches):
        empty()
        reference = Reference()
        for ops in batches:
            ours, theirs = store.batch(ops), reference.batch(ops)
            assert [shown(*pair) for pair in zip(ops, ours, strict=True)] == [
                shown(*pair) for pair in zip(ops, theirs, strict=True)
            ]

    compare()


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.slow)])
async def test_every_batch_is_answered_as_in_memory(opened, redis_client, examples):
    async with opened(index=VectorIndex(DIMS, ensure_embeddings(embed), FIELDS)) as store:
        await asyncio.to_thread(compare_with_memory, store, redis_client.flushdb, examples)
