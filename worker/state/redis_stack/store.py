"""The store of `LGRQ_STATE=redis-stack`: langgraph-checkpoint-redis' store, configured by langgraph.json.

The library indexes namespace and key as full text, which folds case, drops stop words, splits at punctuation and
matches prefixes: a search in `("users", "1")` also finds the items of `("users", "10")`. `RedisStackStore` therefore
encodes both as single words without these ambiguities, and decodes them on reading.

A value is stored as the JSON that it is. What JSON cannot hold (messages, say), and all values where there is a key, is
one text of `StateSerializer`; a value of the user that looks like such a text becomes one too. The library builds what
these texts name. An embedding is not encrypted, as Redis searches by it.

Keys, which stay until a graph deletes them or `store.ttl` of langgraph.json expires them:
    store:<id>           JSON  an item
    store_vectors:<id>   JSON  an item's embedding
The search indexes `store` and `store_vectors` are permanent.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

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
)
from langgraph.store.redis.aio import AsyncRedisStore
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson
from langgraph_rq.worker.state.redis_stack.search_indexes import create_indexes
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.store_index import read_index

_MARK = "ns"
"""Prefix of every namespace, so that a search through all of them has a prefix to match."""
_NAMESPACES = 10_000
"""The most namespaces that a listing returns."""
_TEXT = {"__serde_type__", "__serde_data__"}
"""The fields of a value that is stored as a text of the serializer; the library's names."""


@asynccontextmanager
async def open_redis_stack_store(
    redis: AsyncRedis, config: LanggraphJson, serializer: StateSerializer | None = None
) -> AsyncIterator["RedisStackStore"]:
    """Open the store; without `store.index` in langgraph.json, search is by namespace and filter only.

    Args:
        redis: Where the items are.
        config: What langgraph.json says about the store.
        serializer: Writes and reads values that are not JSON; None: those of LangGraph's own types, not encrypted.

    Raises:
        GraphLoadError: `store.index` is invalid.
        SearchModuleError: this Redis has no search module.
    """
    config.apply()
    ttl = dict(config.store_ttl) if config.store_ttl is not None else None
    async with AsyncExitStack() as stack:
        try:
            index = await read_index(config, stack)
            store = RedisStackStore(redis, index, ttl, serializer or StateSerializer())
        except (ImportError, ValueError) as error:
            raise GraphLoadError(f"{config.path}: store.index: {error}") from error
        await stack.enter_async_context(store)
        await create_indexes(store.setup)
        yield store


class RedisStackStore(AsyncRedisStore):
    """The library's store with exact namespaces and keys.

    The library batches the operations of all tasks and runs them outside of their contexts. Here each operation runs in
    its caller's context, so that its embeddings are charged to the caller's task.
    """

    # BaseStore's own methods call `abatch` in the caller's context; the library's put the operation on its queue.
    aget, asearch, aput, adelete = BaseStore.aget, BaseStore.asearch, BaseStore.aput, BaseStore.adelete
    alist_namespaces = BaseStore.alist_namespaces

    def __init__(self, redis: AsyncRedis, index: Any, ttl: Any, serializer: StateSerializer) -> None:
        client: Any = _AnyClient(redis)
        super().__init__(redis_client=client, index=index, ttl=ttl)
        self._client = redis
        self._serializer = serializer

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations: listings here, all others in the library.

        Raises:
            RefusedStateError: an item holds a type that is not allowed, or was not written here with a known key.
        """
        ops = list(ops)
        items = iter(await super().abatch([_encode(op) for op in ops if not isinstance(op, ListNamespacesOp)]))
        return [
            await self._namespaces(op) if isinstance(op, ListNamespacesOp) else self._decode(op, next(items))
            for op in ops
        ]

    def _decode(self, op: Op, result: Result) -> Result:
        if isinstance(op, SearchOp) and isinstance(result, list):
            items = [self._decode_item(item) for item in result if isinstance(item, SearchItem)]
            return [item for item in items if _fits(item.value, op.filter or {})]
        return self._decode_item(result) if isinstance(result, Item) else result

    def _decode_item(self, item: Any) -> Any:
        item.namespace = _decode_namespace(item.namespace[0])
        item.key = _decode_name(item.key)
        item.value = self._read(item.namespace, item.key, item.value)
        return item

    # The library calls these two with a value alone, which is read where its namespace and key are known.

    def _serialize_value(self, value: Any) -> Any:
        return self._write(*value.place, dict(value)) if isinstance(value, _Placed) else value

    def _deserialize_value(self, value: Any) -> Any:
        return value

    def _write(self, namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> dict[str, Any]:
        if self._serializer.is_plain and _is_json(value) and value.keys() != _TEXT:
            return value
        kind, data = self._serializer.at(_place(namespace, key)).dumps_typed(value)
        return {"__serde_type__": kind, "__serde_data__": base64.b64encode(data).decode()}

    def _read(self, namespace: tuple[str, ...], key: str, value: Any) -> Any:
        serializer = self._serializer.at(_place(namespace, key))
        if not isinstance(value, dict) or value.keys() != _TEXT:
            serializer.check_plain()
            return value
        try:
            data = base64.b64decode(value["__serde_data__"], validate=True)
        except (TypeError, ValueError):
            data = b""
        read = serializer.loads_typed((str(value["__serde_type__"]), data))
        if not isinstance(read, dict):
            raise RefusedStateError("store: expected a value that a worker wrote, got: another text")
        return read

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        """List the namespaces of all items; the library reads only ten items."""
        aggregate = ("FT.AGGREGATE", "store", "*", "LOAD", 1, "@prefix", "GROUPBY", 1, "@prefix")
        reply = await self._client.execute_command(*aggregate, "LIMIT", 0, _NAMESPACES)
        found = [_decode_namespace(prefix) for prefix in _prefixes(reply)]
        conditions = op.match_conditions or ()
        matching = {one[: op.max_depth] for one in found if all(_matches(one, condition) for condition in conditions)}
        return sorted(matching)[op.offset : op.offset + op.limit]


class _AnyClient:
    """Hides a client's type.

    The library also creates a sync index, which it never uses, and redisvl >= 0.28 refuses an async client for it.
    """

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


class _Placed(dict[str, Any]):
    """A value that knows the namespace and the key that it is stored at."""

    place: tuple[tuple[str, ...], str]


def _encode(op: Op) -> Op:
    if isinstance(op, SearchOp):
        # The library would compare the filter with texts of the serializer.
        return op._replace(namespace_prefix=(_encode_namespace(op.namespace_prefix),), filter=None)
    assert isinstance(op, GetOp | PutOp)
    if isinstance(op, PutOp) and op.value is not None:
        value = _Placed(op.value)
        value.place = (op.namespace, op.key)
        op = op._replace(value=value)
    return op._replace(namespace=(_encode_namespace(op.namespace),), key=_encode_name(op.key))


def _place(namespace: tuple[str, ...], key: str) -> str:
    return "store:" + json.dumps([*namespace, key])


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _fits(value: Any, conditions: dict[str, Any]) -> bool:
    """Compare as the library does: a field is equal, or among the members of a list."""
    fields = value if isinstance(value, dict) else {}
    return all(
        fields.get(field) in wanted if isinstance(wanted, list) else fields.get(field) == wanted
        for field, wanted in conditions.items()
    )


def _encode_namespace(namespace: tuple[str, ...]) -> str:
    """Encode ("users", "Ada") as "nsuserszx41daz": each part ends with a z, so that no part is a prefix of another."""
    return _MARK + "".join(f"{_encode_name(part)}z" for part in namespace)


def _decode_namespace(text: str) -> tuple[str, ...]:
    return tuple(_decode_name(part) for part in text.removeprefix(_MARK).split("z")[:-1])


def _encode_name(name: str) -> str:
    """Encode a name: digits and the letters a to w as they are, any other byte as x and two hexadecimal digits."""
    return re.sub(rb"[^0-9a-w]", lambda match: b"x%02x" % ord(match[0]), name.encode()).decode()


def _decode_name(text: str) -> str:
    return re.sub(rb"x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()


def _prefixes(reply: Any) -> list[str]:
    """Parse the reply of FT.AGGREGATE: a map in RESP3, in RESP2 a list that begins with a count."""
    if isinstance(reply, dict):
        return [row[b"extra_attributes"][b"prefix"].decode() for row in reply[b"results"]]
    return [row[1].decode() for row in reply[1:]]


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(wanted in {"*", name} for name, wanted in zip(part, path, strict=True))
