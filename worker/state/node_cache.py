"""The results of nodes with a `CachePolicy`, in Redis, so that all workers share them.

It takes the place of the `InMemoryCache` that a graph was compiled with. A result is shared by the tasks of one tenant
that run the same graph from the same source files of its nodes: what was cached by other code is not found any more.

Keys (type; lifetime):
    agent:cache:<nodes>:<input>  string  a node's result, by digests: of tenant, graph, source and node, and of what the
                                   policy says of the input; the policy's `ttl`, at most `LGRQ_NODE_CACHE_TTL_S`

Redis being away, a damaged entry, and a result that is too long or holds a type that state may not hold are no errors:
the node runs.
"""

import asyncio
import inspect
import json
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.pregel import Pregel
from redis.asyncio import Redis
from redis.exceptions import RedisError
from xxhash import xxh3_128_hexdigest

from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer

LONGEST_BYTES = 1_000_000
"""A longer result is not cached."""

_SCANNED = 1_000

_END = b"\n"
"""Between the serializer's name of the form and the data."""


class NodeCache(BaseCache[Any]):
    """LangGraph's cache interface, for one graph.

    Args:
        redis: A client of the running loop.
        serializer: Reads and writes values.
        scope: The graph and the version of its code.
        ttl_s: The longest life of an entry.
    """

    def __init__(self, redis: Redis, serializer: StateSerializer, scope: Sequence[str], ttl_s: float) -> None:
        super().__init__(serde=serializer.at("cache"))
        self._redis = redis
        self._serializer = serializer
        self._scope = [*scope]
        self._ttl_ms = round(ttl_s * 1000)
        self._loop = asyncio.get_running_loop()

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Return the results that are known."""
        names = [self._name(*key) for key in keys]
        try:
            entries: Any = await self._redis.mget(names) if names else []
        except (RedisError, OSError):
            return {}
        found = {}
        for key, name, entry in zip(keys, names, entries, strict=True):
            kind, _, data = (entry or b"").partition(_END)
            with suppress(RefusedStateError, UnicodeDecodeError):
                value = self._serializer.at(name).loads_typed((kind.decode(), data)) if entry else None
                if _are_writes(value):
                    found[key] = value
        return found

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Keep results, each for its `ttl` (s)."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for key, (value, ttl_s) in pairs.items():
                name = self._name(*key)
                with suppress(RefusedStateError):
                    kind, data = self._serializer.at(name).dumps_typed(value)
                    if len(data) <= LONGEST_BYTES:
                        ttl_ms = self._ttl_ms if ttl_s is None else min(self._ttl_ms, max(1, round(ttl_s * 1000)))
                        pipe.set(name, kind.encode() + _END + data, px=ttl_ms)
            with suppress(RedisError, OSError):
                await pipe.execute()

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Forget the results of some nodes, or of all nodes of the tenant's whole fleet."""
        prefixes = ["*"] if namespaces is None else [self._nodes(namespace) for namespace in namespaces]
        for prefix in prefixes:
            async for name in self._redis.scan_iter(match=f"agent:cache:{prefix}:*", count=_SCANNED):
                await self._redis.unlink(name)

    # A graph that a sync node invokes looks up its nodes in a thread of that node.

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """As `aget`; nothing is known to a caller in the event loop's own thread."""
        return self._wait(self.aget(keys)) or {}

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """As `aset`."""
        self._wait(self.aset(pairs))

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """As `aclear`."""
        self._wait(self.aclear(namespaces))

    def _wait(self, step: Coroutine[Any, Any, Any]) -> Any:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            step.close()
            return None
        return asyncio.run_coroutine_threadsafe(step, self._loop).result()

    def _name(self, namespace: Namespace, key: str) -> str:
        return f"agent:cache:{self._nodes(namespace)}:{_digest(key)}"

    def _nodes(self, namespace: Namespace) -> str:
        run = current_task.get()
        return _digest(run.payer.tenant if run else None, *self._scope, *namespace)


def code_version(graph: Pregel[Any, Any, Any, Any]) -> str:
    """Digest the source files in which the nodes of a graph are written."""
    functions = (getattr(node.bound, name, None) for node in graph.nodes.values() for name in ("func", "afunc"))
    files = {file for function in functions if function and (file := _source_of(function))}
    return _digest(*(_file_digest(file) for file in sorted(files)))


@cache
def _file_digest(file: str) -> str:
    """Digest a file as it was when the first graph was made of it: later changes are not what this process runs."""
    return xxh3_128_hexdigest(Path(file).read_bytes())


def _are_writes(value: Any) -> bool:
    """Whether it is what LangGraph caches of a node: its writes, (channel, value) each."""
    return isinstance(value, deque | tuple | list) and all(
        isinstance(one, tuple | list) and len(one) == 2 and isinstance(one[0], str) for one in value
    )


def _source_of(function: Callable[..., Any]) -> str | None:
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        return None
    return file if file and Path(file).is_file() else None


def _digest(*parts: str | None) -> str:
    return xxh3_128_hexdigest(json.dumps(parts).encode())
