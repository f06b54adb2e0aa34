"""The store on plain Redis: items by namespace and key, each written as a whole by one script.

An item is found by tasks of the tenant that put it, and by no others: keys name the tenant, which no user sees. Values
are written by `StateSerializer`, as checkpoints are, and so are embeddings.

Keys. Those of a namespace, whose labels are joined by periods, live as long as its longest-lived item:
    agent:store:<tenant>:<namespace>          hash    key -> item; stays until a graph deletes it, unless items expire
    agent:store_order:<tenant>:<namespace>    zset    key -> when it was put (us); stays as the items do
    agent:store_expiry:<tenant>:<namespace>   zset    key -> until when it is kept (ms), of items that expire; stays as
                                              the items do
    agent:store_vectors:<tenant>:<namespace>  hash    key -> embeddings; stays as the items do
    agent:store_index:<tenant>:<namespace>    vector set  embeddings, with LGRQ_STORE_INDEX=vector-sets; stays as the
                                              items do
    agent:store_index_2:<tenant>:<namespace>  vector set  those of another length, while both are there; stays as the
                                              items do
    agent:store_namespaces:<tenant>           zset    namespaces that have items; stays as the items do
    agent:store_epoch:<task>                  string  highest epoch of a task that was seen, from the second; a day
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from langgraph_rq.worker.guards.event_loops import running_loop
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.store.access import Access, all_of
from langgraph_rq.worker.state.store.namespaces import list_namespaces
from langgraph_rq.worker.state.store.nearest import NearestReading
from langgraph_rq.worker.state.store.reading import Reading
from langgraph_rq.worker.state.store.vector_sets import VectorSets

if TYPE_CHECKING:
    from langgraph_rq.worker.state.store.vector_index import VectorIndex

SCAN_ITEMS = 10_000
_LONGEST_TTL = 100 * 365 * 24 * 60
"""Minutes."""


class Store(BaseStore):
    """LangGraph's store. Sync calls work in any thread, also inside a running loop, which then stands still meanwhile.

    Args:
        access: Runs the scripts.
        serializer: Writes and reads values.
        index: Searches by meaning; None: a query is ignored, as LangGraph's own stores do.
        ttl: Default time to live, and whether reads refresh it.
        scan_items: The most items that one search looks at.
    """

    supports_ttl = True

    def __init__(
        self,
        access: Access,
        serializer: StateSerializer | None = None,
        *,
        index: "VectorIndex | None" = None,
        ttl: TTLConfig | None = None,
        scan_items: int = SCAN_ITEMS,
    ) -> None:
        self._access = access
        self._loop = asyncio.get_running_loop()
        written = serializer or StateSerializer()
        if isinstance(access, VectorSets):
            self._reading: Reading = NearestReading(access, written, scan_items, index)
        else:
            self._reading = Reading(access, written, scan_items, index)
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations as `abatch` does, from a sync caller."""
        run = self._run(list(ops))
        if running_loop():
            return self._access.loops.run_sync(run)
        return asyncio.run_coroutine_threadsafe(run, self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations: first all that read, then the last put of each item.

        If the caller is cancelled, each item is written as a whole or not at all.

        Raises:
            RefusedStateError: an item holds a type that is not allowed, or was not written here with a known key.
            CheckpointFencedError: the run has ended, or another attempt at its task has begun.
            StoreScanError: a search would have to look at too much.
        """
        return await self._access.loops.run_here(self._run(list(ops)))

    async def raise_epoch(self, task_id: str, epoch: int) -> None:
        """Refuse from now on what earlier attempts at a task put."""
        await self._access.raise_epoch(task_id, epoch)

    async def _run(self, ops: list[Op]) -> list[Result]:
        for op in ops:
            validate_op_namespace(op)
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        reads = iter(await all_of([self._read(op) for op in ops if not isinstance(op, PutOp)]))
        results = [None if isinstance(op, PutOp) else next(reads) for op in ops]
        await self._put(list(puts.values()))
        return results

    async def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            return await self._reading.get(op)
        if isinstance(op, SearchOp):
            return await self._reading.search(op)
        if isinstance(op, ListNamespacesOp):
            return await list_namespaces(self._reading, op)
        raise TypeError(f"store: expected an operation of langgraph.store.base, got: {type(op).__name__}")

    async def _put(self, ops: list[PutOp]) -> None:
        index = self._reading.index
        texts = [index.texts(op) if index else [] for op in ops]
        vectors = await index.embed(text for some in texts for text in some) if index else {}
        packed = [index.pack([vectors[text] for text in some]) if index and some else b"" for some in texts]
        # All are written down before the first is sent: one that is refused refuses the batch.
        writes = [self._write(op, some) for op, some in zip(ops, packed, strict=True)]
        await self._access.write_in_order([write() for write in writes])

    def _write(self, op: PutOp, vectors: bytes) -> Callable[[], Coroutine[Any, Any, None]]:
        name = (op.namespace, op.key)
        if op.value is None:
            return partial(self._access.delete, *name)
        records = self._reading.records
        value = records.write(*name, dict(op.value))
        written = records.write_vectors(*name, vectors) if vectors else b""
        return partial(self._access.put, *name, value, written, _ttl_ms(op.ttl))


def _ttl_ms(minutes: float | None) -> int:
    if minutes is None:
        return 0
    if not (0 < minutes <= _LONGEST_TTL):
        raise ValueError(f"store: expected a ttl of more than 0 minutes and at most 100 years, got: {minutes}")
    return math.ceil(minutes * 60_000)
