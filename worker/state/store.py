"""The graphs' long-term memory, LangGraph's `store`: langgraph-checkpoint-redis' store as langgraph.json describes it.

The library keeps namespace and key in fields of a text search, which folds case, drops stop words, splits at
punctuation and matches by the beginning of a word: `("users", "1")` would also find what belongs to `("users", "10")`.
So `Store` writes both in an alphabet in which only equal names are equal, and reads them back.

Keys, which belong to the graphs' users and stay until a graph deletes them or langgraph.json's `store.ttl` ends them:
    store:<id>           JSON  an item
    store_vectors:<id>   JSON  an item's embedding
The search indexes `store` and `store_vectors` are no keys and stay.
"""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    ensure_embeddings,
)
from langgraph.store.redis.aio import AsyncRedisStore
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.worker.graphs.graphs import load_attribute
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson
from langgraph_rq.worker.guards.guarded_embeddings import guarded_embeddings
from langgraph_rq.worker.state.search_indexes import create_indexes

_OPENAI = "openai:"
_MARK = "ns"
"""What every namespace begins with, so that a search through all of them has a beginning to look for."""
_NAMESPACES = 10_000
"""Most namespaces that are listed."""


@asynccontextmanager
async def open_store(redis: AsyncRedis, config: LanggraphJson) -> AsyncIterator["Store"]:
    """Open the store; without `store.index` in langgraph.json it finds items by namespace and filter only.

    Raises:
        GraphLoadError: the index cannot be made from what langgraph.json says.
        SearchModuleError: this Redis has no search module.
    """
    config.apply()
    ttl = dict(config.store_ttl) if config.store_ttl is not None else None
    async with AsyncExitStack() as stack:
        try:
            index = await _index(config, stack) if config.store_index is not None else None
            store = Store(redis, index, ttl)
        except (ImportError, ValueError) as error:
            raise GraphLoadError(f"{config.path}: store.index: {error}") from error
        await stack.enter_async_context(store)
        await create_indexes(store.setup)
        yield store


class Store(AsyncRedisStore):
    """The library's store, in which a namespace and a key are found exactly.

    The library gathers operations of all tasks and runs them in nobody's context. Here each runs in its caller's own,
    so that the task that stores or searches pays for the embeddings.
    """

    aget, asearch, aput, adelete = BaseStore.aget, BaseStore.asearch, BaseStore.aput, BaseStore.adelete
    alist_namespaces = BaseStore.alist_namespaces

    def __init__(self, redis: AsyncRedis, index: Any, ttl: Any) -> None:
        client: Any = _AnyClient(redis)
        super().__init__(redis_client=client, index=index, ttl=ttl)
        self._client = redis

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations, of which those on items go to the library."""
        ops = list(ops)
        items = iter(await super().abatch([_encode(op) for op in ops if not isinstance(op, ListNamespacesOp)]))
        return [
            await self._namespaces(op) if isinstance(op, ListNamespacesOp) else _decode(op, next(items)) for op in ops
        ]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        """List namespaces over all items; the library looks at ten of them only."""
        aggregate = ("FT.AGGREGATE", "store", "*", "LOAD", 1, "@prefix", "GROUPBY", 1, "@prefix")
        reply = await self._client.execute_command(*aggregate, "LIMIT", 0, _NAMESPACES)
        found = [_decode_namespace(prefix) for prefix in _prefixes(reply)]
        conditions = op.match_conditions or ()
        matching = {one[: op.max_depth] for one in found if all(_matches(one, condition) for condition in conditions)}
        return sorted(matching)[op.offset : op.offset + op.limit]


class _AnyClient:
    """Hides what kind of client it is.

    The library also makes a sync index, which it never uses, and to which redisvl >= 0.28 refuses an async client.
    """

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


def _encode(op: Op) -> Op:
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(_encode_namespace(op.namespace_prefix),))
    assert isinstance(op, GetOp | PutOp)
    return op._replace(namespace=(_encode_namespace(op.namespace),), key=_encode_name(op.key))


def _decode(op: Op, result: Result) -> Result:
    if isinstance(op, SearchOp) and isinstance(result, list):
        return [_decode_item(item) for item in result if isinstance(item, SearchItem)]
    return _decode_item(result) if isinstance(result, Item) else result


def _decode_item(item: Any) -> Any:
    item.namespace = _decode_namespace(item.namespace[0])
    item.key = _decode_name(item.key)
    return item


def _encode_namespace(namespace: tuple[str, ...]) -> str:
    """Write ("users", "Ada") as "nsuserszx41daz": each part ends with a z, so that no part is another's beginning."""
    return _MARK + "".join(f"{_encode_name(part)}z" for part in namespace)


def _decode_namespace(text: str) -> tuple[str, ...]:
    return tuple(_decode_name(part) for part in text.removeprefix(_MARK).split("z")[:-1])


def _encode_name(name: str) -> str:
    """Keep digits and the letters a to w; every other byte becomes an x and two hexadecimal digits."""
    return re.sub(rb"[^0-9a-w]", lambda match: b"x%02x" % ord(match[0]), name.encode()).decode()


def _decode_name(text: str) -> str:
    return re.sub(rb"x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()


def _prefixes(reply: Any) -> list[str]:
    """Read an aggregation: RESP3 answers with a map, RESP2 with a list that begins with a count."""
    if isinstance(reply, dict):
        return [row[b"extra_attributes"][b"prefix"].decode() for row in reply[b"results"]]
    return [row[1].decode() for row in reply[1:]]


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(wanted in {"*", name} for name, wanted in zip(part, path, strict=True))


async def _index(config: LanggraphJson, stack: AsyncExitStack) -> dict[str, Any]:
    index = dict(config.store_index or {})
    if not {"dims", "embed"} <= index.keys():
        raise GraphLoadError(f"{config.path}: store.index: expected dims and embed, got: {', '.join(index) or 'none'}")
    embed = str(index["embed"])
    if embed.startswith(_OPENAI):
        made: Any = await _openai(embed.removeprefix(_OPENAI), stack)
    elif "/" in embed:
        made = load_attribute(config, embed, f"store.index.embed ({embed})")
    else:
        made = ensure_embeddings(embed)
    # A function may call a model or not: only whoever wrote it knows, and can guard it.
    index["embed"] = guarded_embeddings(made) if isinstance(made, Embeddings) else made
    return index


async def _openai(model: str, stack: AsyncExitStack) -> Embeddings:
    # A second of boot time that few graphs need.
    from langchain_openai import OpenAIEmbeddings  # noqa: PLC0415
    from openai import DefaultAsyncHttpxClient  # noqa: PLC0415

    http = await stack.enter_async_context(DefaultAsyncHttpxClient())
    # Counting tokens would download tables at the first use; too long a text is the provider's to refuse.
    return OpenAIEmbeddings(model=model, check_embedding_ctx_length=False, http_async_client=http)
