"""Read and write the graphs' long-term memory: any worker answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langgraph_rq.producer.client.transport.requests import Requests
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.threads.requests import Operation

MOST_ITEMS = 1_000


class StoreItems:
    """The items that tasks of one tenant put into LangGraph's store and find there.

    A namespace is a list of labels, such as `["users", "ann"]`; no label is empty or holds a period, and the first is
    not `langgraph`. An item is a dict with `namespace`, `key`, `value`, `created_at` and `updated_at`.

    All raise:
        InvalidInputError: an argument is none that the store takes.
        ThreadRequestError: no worker answered in time; ask again.
        RedisUnavailableError: Redis cannot be reached.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def get(
        self, namespace: Sequence[str], key: str, *, refresh_ttl: bool | None = None
    ) -> dict[str, Any] | None:
        """Read an item; None: there is none.

        Args:
            namespace: Its namespace.
            key: Its key there.
            refresh_ttl: Whether its time to live begins anew; None: as langgraph.json says.
        """
        arguments = {**_name(namespace, key), "refresh_ttl": refresh_ttl}
        found: dict[str, Any] | None = await self._requests.ask_store(Operation.STORE_GET, arguments)
        return found

    async def put(
        self,
        namespace: Sequence[str],
        key: str,
        value: Mapping[str, Any],
        *,
        index: Literal[False] | Sequence[str] | None = None,
        ttl: float | None = None,
    ) -> None:
        """Write an item as a whole, in place of the one that is there.

        Args:
            namespace: Its namespace.
            key: Its key there.
            value: JSON.
            index: Paths of what is embedded for search by meaning; False: nothing; None: as langgraph.json says.
            ttl: Minutes after which it is deleted; None: as langgraph.json says.
        """
        if not isinstance(value, Mapping):
            raise InvalidInputError(Violation("value", "an object", repr(value)[:60]))
        arguments = {**_name(namespace, key), "value": value, "index": index, "ttl": ttl}
        await self._requests.ask_store(Operation.STORE_PUT, arguments)

    async def delete(self, namespace: Sequence[str], key: str) -> None:
        """Delete an item, if there is one."""
        await self._requests.ask_store(Operation.STORE_DELETE, _name(namespace, key))

    async def search(
        self,
        namespace_prefix: Sequence[str] = (),
        *,
        query: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Search below a namespace; items have a `score` besides, None without a query. The last put come first.

        Args:
            namespace_prefix: Where; empty: everywhere.
            query: Search by meaning, where langgraph.json has a `store.index`.
            filter: Field -> value, or operators such as `{"age": {"$gte": 21}}`.
            limit: At most so many, 1 to 1,000.
            offset: Without the first so many.
            refresh_ttl: As for `get`.
        """
        arguments = {
            "namespace_prefix": _labels("namespace_prefix", namespace_prefix),
            "query": query,
            "filter": filter,
            **_page(limit, offset),
            "refresh_ttl": refresh_ttl,
        }
        found: list[dict[str, Any]] = await self._requests.ask_store(Operation.STORE_SEARCH, arguments)
        return found

    async def list_namespaces(
        self,
        prefix: Sequence[str] | None = None,
        suffix: Sequence[str] | None = None,
        *,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[list[str]]:
        """List namespaces that have items, in the order of their labels.

        Args:
            prefix: What they begin with; `*` stands for any label.
            suffix: What they end with, likewise.
            max_depth: Cut them to so many labels, each once.
            limit: At most so many, 1 to 1,000.
            offset: Without the first so many.
        """
        arguments = {
            "prefix": prefix and _labels("prefix", prefix),
            "suffix": suffix and _labels("suffix", suffix),
            "max_depth": max_depth,
            **_page(limit, offset),
        }
        found: list[list[str]] = await self._requests.ask_store(Operation.STORE_NAMESPACES, arguments)
        return found


def _name(namespace: Sequence[str], key: str) -> dict[str, Any]:
    labels = _labels("namespace", namespace)
    if not labels or labels[0] == "langgraph":
        raise InvalidInputError(Violation("namespace", "labels of which the first is not langgraph", repr(labels)[:60]))
    if not isinstance(key, str) or not key:
        raise InvalidInputError(Violation("key", "text", repr(key)[:60]))
    return {"namespace": labels, "key": key}


def _labels(field: str, namespace: Sequence[str]) -> list[str]:
    if isinstance(namespace, str) or not all(isinstance(one, str) and one and "." not in one for one in namespace):
        raise InvalidInputError(Violation(field, "a list of labels without periods", repr(namespace)[:60]))
    return list(namespace)


def _page(limit: int, offset: int) -> dict[str, int]:
    if not 1 <= limit <= MOST_ITEMS:
        raise InvalidInputError(Violation("limit", f"1 to {MOST_ITEMS}", str(limit)))
    if offset < 0:
        raise InvalidInputError(Violation("offset", "0 or more", str(offset)))
    return {"limit": limit, "offset": offset}
