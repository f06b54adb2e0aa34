"""How much of the worker's memory searches take while they look at many large items."""

import asyncio
import tracemalloc

from langgraph.store.base import PutOp

ITEMS, ITEM_BYTES, SEARCHES = 60, 200_000, 6


async def hold_few_in_memory(store):
    await store.abatch([PutOp(("docs",), f"k{n}", {"n": n, "text": "x" * ITEM_BYTES}) for n in range(ITEMS)])
    tracemalloc.start()
    try:
        found = await asyncio.gather(*(store.asearch(("docs",), filter={"n": n}) for n in range(SEARCHES)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [[item.value["n"] for item in items] for items in found] == [[n] for n in range(SEARCHES)]
    assert peak < SEARCHES * ITEMS * ITEM_BYTES / 3


async def test_searches_that_look_at_large_items_at_once_hold_few_of_them_in_memory(store):
    await hold_few_in_memory(store)
