"""Get and search: items by name, or the newest or nearest ones below a namespace.

A search first lists the names of its candidates, newest first, and then reads what it needs of them. An item that is
put meanwhile is found as it is by then; one that is deleted meanwhile is left out.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from langgraph.store.base import GetOp, Item, SearchItem, SearchOp

from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.state.store.access import Access, all_of, current_tenant
from langgraph_rq.worker.state.store.filters import check_filter, fits
from langgraph_rq.worker.state.store.records import Namespace, Record, Records, read_namespace, write_namespace

if TYPE_CHECKING:
    from langgraph_rq.worker.state.serializer import StateSerializer
    from langgraph_rq.worker.state.store.vector_index import Vector, VectorIndex

_READ_ITEMS = 128
"""Items per script."""
_READ_BYTES = 256_000
"""Of embeddings per script: it takes about a millisecond."""
_READ_AT_ONCE = 8
"""Replies that are in memory at the same time, of all searches of a loop: each is a megabyte, or a larger item."""
Name = tuple[Namespace, str]
Read = Callable[[Namespace, Sequence[str]], Coroutine[Any, Any, list[bytes | None]]]
Use = Callable[[dict[Name, bytes]], None]


class StoreScanError(LanggraphRqError):
    """A search or a listing would have to look at too much."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads for one caller.

    Args:
        access: Runs the scripts.
        serializer: Reads values.
        scan_items: The most items, or namespaces, that one search looks at.
        index: Searches by meaning; None: a query is ignored.
    """

    access: Access
    serializer: "StateSerializer"
    scan_items: int
    index: "VectorIndex | None" = None
    _turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(default_factory=WeakKeyDictionary)

    @property
    def records(self) -> Records:
        """The items of the caller's tenant."""
        return Records(self.serializer, current_tenant())

    async def get(self, op: GetOp) -> Item | None:
        """Read one item."""
        (item,) = await self.access.get(op.namespace, [op.key], refresh_ttl=op.refresh_ttl)
        if item is None:
            return None
        record = self.records.read(op.namespace, op.key, item)
        return Item(
            value=record.value,
            key=op.key,
            namespace=op.namespace,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )

    async def search(self, op: SearchOp) -> list[SearchItem]:
        """Search below a namespace: filter, then rank by meaning if there is a query, then limit and offset.

        Without a query the items that were put last come first; with one, those without embeddings come last.

        Raises:
            StoreScanError: it would have to look at more than `scan_items` items.
            ValueError: of its filter, limit or offset.
        """
        if op.limit < 0 or op.offset < 0:
            raise ValueError(f"search: expected limit and offset from 0, got: {op.limit} and {op.offset}")
        check_filter(op.filter)
        end = op.offset + op.limit
        scores: dict[Name, float] = {}
        if op.query and self.index is not None:
            names, scores = await self.rank(op, end)
        else:
            names = await self._list(op, end)
        page = names[op.offset : end]
        records = await self._read(page, refresh_ttl=op.refresh_ttl)
        return [
            SearchItem(*name, record.value, record.created_at, record.updated_at, scores.get(name))
            for name in page
            if (record := records.get(name)) and fits(record.value, op.filter or {})
        ]

    async def rank(self, op: SearchOp, end: int) -> tuple[list[Name], dict[Name, float]]:
        """Return the nearest items below a namespace, `end` at least if there are so many, and their scores."""
        del end
        return await self.rank_all(op)

    async def rank_all(self, op: SearchOp, query: "Vector | None" = None) -> tuple[list[Name], dict[Name, float]]:
        """Look at all items below a namespace, filter, and compare the embeddings with that of the query.

        Raises:
            StoreScanError: these are more than `scan_items`.
        """
        names, is_all = await self._newest(op.namespace_prefix, self.scan_items)
        if op.filter:
            names = await self._filter(names, op.filter, self.scan_items)
        if not is_all:
            raise StoreScanError(self.too_many("items", op.namespace_prefix))
        scores: dict[Name, float] = {}
        if names:
            assert self.index
            scores = await self.score(names, await self.index.embed_query(str(op.query)) if query is None else query)
        return sorted(names, key=lambda name: -scores.get(name, -2.0)), scores

    async def _list(self, op: SearchOp, end: int) -> list[Name]:
        """List the newest items below a namespace that fit the filter, `end` at least if there are so many."""
        most = self.scan_items if op.filter else min(end, self.scan_items)
        names, is_all = await self._newest(op.namespace_prefix, most)
        if op.filter:
            names = await self._filter(names, op.filter, end)
        if not is_all and len(names) < end:
            raise StoreScanError(self.too_many("items", op.namespace_prefix))
        return names

    def too_many(self, what: str, prefix: Namespace) -> str:
        """Say that there is too much below a namespace."""
        return (
            f"store: expected at most {self.scan_items:,} {what} below {prefix} (LGRQ_STORE_SCAN_ITEMS), got: more; "
            "search in a longer namespace, or raise the setting"
        )

    async def _newest(self, prefix: Namespace, most: int) -> tuple[list[Name], bool]:
        """List the newest items below a namespace, and whether these are all."""
        found: dict[Name, float] = {}
        first, last = bounds(prefix)
        behind, is_more, seen = b"", most > 0, 0
        while is_more:
            reply = await self.access.find(first, last, most + 1, behind)
            seen += len(reply.namespaces) - bool(behind)
            is_more, behind = reply.is_more, reply.behind
            first = (b"[" if behind else b"(") + reply.last
            if seen > self.scan_items:
                raise StoreScanError(self.too_many("namespaces", prefix))
            for written, members in reply.namespaces:
                namespace = read_namespace(written)
                for key, updated in zip(members[::2], members[1::2], strict=True):
                    found[namespace, key.decode()] = float(updated)
            found = dict(sorted(found.items(), key=_newest_first)[: most + 1])
        return list(found)[:most], len(found) <= most

    async def _filter(self, names: Sequence[Name], conditions: dict[str, Any], most: int) -> list[Name]:
        """Keep what fits; stop at `most`."""
        kept: list[Name] = []
        records = self.records

        def use(items: dict[Name, bytes]) -> None:
            fitting.update(name for name, item in items.items() if fits(records.read(*name, item).value, conditions))

        for chunk in _chunks(names, _READ_ITEMS):
            fitting = set[Name]()
            await self._read_each(chunk, self._get(refresh_ttl=False), _READ_ITEMS, use)
            kept += [name for name in chunk if name in fitting]
            if len(kept) >= most:
                break
        return kept

    async def score(self, names: Sequence[Name], query: "Vector") -> dict[Name, float]:
        """Return the cosine of the items that have embeddings."""
        index, records = self.index, self.records
        assert index
        scores: dict[Name, float] = {}

        def use(written: dict[Name, bytes]) -> None:
            found = {name: records.read_vectors(*name, data) for name, data in written.items()}
            if found:
                scores.update(zip(found, index.score(list(found.values()), query), strict=True))

        size = max(1, min(_READ_ITEMS, _READ_BYTES // (4 * index.dims)))
        for chunk in _chunks(names, _READ_AT_ONCE * size):
            await self._read_each(chunk, self.access.vectors, size, use)
        return scores

    async def _read(self, names: Sequence[Name], *, refresh_ttl: bool) -> dict[Name, Record]:
        """Read items; those that are gone are left out."""
        found: dict[Name, Record] = {}
        records = self.records

        def use(items: dict[Name, bytes]) -> None:
            found.update({name: records.read(*name, item) for name, item in items.items()})

        for chunk in _chunks(names, _READ_ITEMS):
            await self._read_each(chunk, self._get(refresh_ttl=refresh_ttl), _READ_ITEMS, use)
        return found

    def _get(self, *, refresh_ttl: bool) -> Read:
        def get(namespace: Namespace, keys: Sequence[str]) -> Coroutine[Any, Any, list[bytes | None]]:
            return self.access.get(namespace, keys, refresh_ttl=refresh_ttl)

        return get

    async def _read_each(self, names: Sequence[Name], read: Read, size: int, use: Use) -> None:
        """Read of each namespace, `size` items per script, and `use` what is there of each reply at once."""
        turns = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_READ_AT_ONCE))

        async def read_all(namespace: Namespace, keys: Sequence[str]) -> None:
            while keys:
                async with turns:
                    reply = await read(namespace, keys)
                    found = zip(keys, reply, strict=False)
                    use({(namespace, key): data for key, data in found if data is not None})
                    keys = keys[len(reply) :]
                    del reply, found

        groups = groupby(sorted(names), key=itemgetter(0))
        await all_of(
            [
                read_all(namespace, [key for _, key in part])
                for namespace, group in groups
                for part in _chunks(list(group), size)
            ]
        )


def _newest_first(found: tuple[Name, float]) -> tuple[float, Name]:
    name, updated_us = found
    return -updated_us, name


def bounds(prefix: Namespace) -> tuple[bytes, bytes]:
    """Return the first and the last namespace below a prefix, as ZRANGE BYLEX wants them."""
    if not prefix:
        return b"-", b"+"
    written = write_namespace(prefix).encode()
    return b"[" + written, b"(" + written + b"\xff"


def _chunks(names: Sequence[Name], size: int) -> Iterator[Sequence[Name]]:
    return (names[start : start + size] for start in range(0, len(names), size))
