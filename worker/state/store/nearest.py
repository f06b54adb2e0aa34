"""Search by meaning in vector sets, whatever number of items a namespace has.

A search asks for a few of the nearest embeddings of each namespace, and for four times as many while too few of the
items fit. Embeddings that lie in the hash, from puts of workers without vector sets, are all compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langgraph.store.base import SearchOp

from langgraph_rq.worker.state.store.access import NAMESPACES
from langgraph_rq.worker.state.store.reading import Name, Reading, StoreScanError, bounds
from langgraph_rq.worker.state.store.records import Namespace
from langgraph_rq.worker.state.store.vector_sets import Space, VectorSets

if TYPE_CHECKING:
    from langgraph_rq.worker.state.store.vector_index import Vector

_FIRST = 10
"""Embeddings that the first round asks of each namespace, at least."""
_GROWTH = 4
"""How many times as many the next round asks for, and the first one if there is a filter."""
_MOST = 1_000
"""Embeddings that a round asks of each namespace: Redis is busy with them for 10 ms in a set of 100,000."""

Found = dict[Name, tuple[float, float]]
"""Cosine to the query, and when the item was put (us)."""


@dataclass(frozen=True, slots=True)
class NearestReading(Reading):
    """Reads as `Reading`, and searches by meaning in vector sets.

    Args:
        access: Runs the scripts.
    """

    access: VectorSets

    async def rank(self, op: SearchOp, end: int) -> tuple[list[Name], dict[Name, float]]:
        """Return the nearest items below a namespace, `end` at least if there are so many, and their scores.

        Raises:
            StoreScanError: too few of the nearest items fit the filter, or more than `scan_items` lie in the hash.
            VectorsError: embeddings of another model are left.
        """
        assert self.index
        spaces = await self._survey(op.namespace_prefix)
        if not spaces or not end:
            return [], {}
        for space in spaces:
            if space.other_dims:
                raise self.index.wrong_dims(space.other_dims)
        if sum(space.in_hash for space in spaces) > self.scan_items:
            raise StoreScanError(self.too_many("items", op.namespace_prefix))
        return await self._rank_nearest(op, end, spaces, await self.index.embed_query(str(op.query)))

    async def _rank_nearest(
        self, op: SearchOp, end: int, spaces: Sequence[Space], query: "Vector"
    ) -> tuple[list[Name], dict[Name, float]]:
        # Before the sets, so that an item is found that a put moves into one of them meanwhile.
        in_hash = await self._find_in_hash(spaces, query)
        kept: list[Name] = []
        looked_at = set[Name]()
        for count in _counts(end * _GROWTH if op.filter else end):
            near, least, changed = await self._find_near(spaces, query, count)
            if changed:  # a put of a worker without vector sets may have moved an item out of them meanwhile
                in_hash |= await self._find_in_hash(changed, query)
            found = {**in_hash, **near}
            sure = [name for name in _nearest_first(found) if found[name][0] >= least and name not in looked_at]
            looked_at.update(sure)
            kept += await self._filter(sure, op.filter, end - len(kept)) if op.filter else sure
            is_all = least == -math.inf
            if is_all and not op.filter:
                kept += await self._others(op.namespace_prefix, found, end - len(kept))
            if len(kept) >= end or (is_all and not op.filter):
                return kept, {name: cosine for name, (cosine, _) in found.items()}
            if is_all:
                break
        if sum(space.items for space in spaces) <= self.scan_items:
            return await self.rank_all(op, query)
        raise StoreScanError(
            f"store: expected {end:,} items below {op.namespace_prefix} that fit among its {_MOST:,} nearest "
            f"embeddings, got: {len(kept):,}; search in a longer namespace, or for fewer"
        )

    async def _others(self, prefix: Namespace, found: Found, most: int) -> list[Name]:
        """List the newest of the items without embeddings, `most` at least if there are so many."""
        newest, _ = await self._newest(prefix, len(found) + most) if most > 0 else ([], True)
        return [name for name in newest if name not in found]

    async def _survey(self, prefix: Namespace) -> list[Space]:
        assert self.index
        first, last = bounds(prefix)
        spaces: list[Space] = []
        is_more, seen = True, 0
        while is_more:
            is_more, behind, some = await self.access.survey(first, last, self.index.dims)
            spaces += some
            first = b"(" + behind
            seen += NAMESPACES if is_more else 0
            if seen > self.scan_items:
                raise StoreScanError(self.too_many("namespaces", prefix))
        return spaces

    async def _find_in_hash(self, spaces: Sequence[Space], query: "Vector") -> Found:
        put_us: dict[Name, float] = {}
        for namespace in [space.namespace for space in spaces if space.in_hash]:
            cursor = b""
            while cursor != b"0":
                cursor, some = await self.access.embedded(namespace, cursor or b"0")
                put_us.update({(namespace, key): at for key, at in some.items()})
        scores = await self.score(list(put_us), query)
        return {name: (score, put_us[name]) for name, score in scores.items()}

    async def _find_near(
        self, spaces: Sequence[Space], query: "Vector", count: int
    ) -> tuple[Found, float, list[Space]]:
        """Search in vector sets.

        Returns the nearest items, the cosine from which on these are all, and the namespaces that have another number
        of items in the hash by now, with this number.
        """
        near: Found = {}
        changed: list[Space] = []
        least = -math.inf
        floats = query.astype("<f4").tobytes()
        left = [space for space in spaces if space.in_set or space.in_hash]
        while left:
            replies = await self.access.nearest(
                [space.namespace for space in left[:NAMESPACES]], floats, len(query), count
            )
            for space, reply in zip(left, replies, strict=False):
                least = max(least, reply.least)
                if reply.in_hash != space.in_hash:
                    changed.append(space._replace(in_hash=reply.in_hash))
                for key, cosine, put_us in reply.embeddings:
                    name = (space.namespace, key)
                    near[name] = max((cosine, put_us), near.get(name, (-math.inf, put_us)))
            left = left[len(replies) :]
            if len(near) > count:
                near = {name: near[name] for name in _nearest_first(near)[:count]}
                least = max(least, min(cosine for cosine, _ in near.values()))
        return near, least, changed


def _counts(first: int) -> Iterator[int]:
    """Yield how many embeddings each round asks for; none if already the first is too large."""
    count = max(first, _FIRST)
    while count < _MOST:
        yield count
        count *= _GROWTH
    if first <= _MOST:
        yield _MOST


def _nearest_first(found: Mapping[Name, tuple[float, float]]) -> list[Name]:
    """Sort by cosine, and those that are as near as each other by when they were put, the last first."""
    return sorted(found, key=found.__getitem__, reverse=True)
