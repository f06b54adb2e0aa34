"""The parts of the synchronous client, and how they run coroutines over a transport that blocks."""

from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack

from langgraph_rq.producer.client.store import StoreItems
from langgraph_rq.producer.client.threads import Checkpoint, HistoryFields, StateFields, Threads
from langgraph_rq.shared.graph_description import GraphDescription
from langgraph_rq.shared.tasks import DEFAULT_GRAPH

T = TypeVar("T")


class BlockingThreads:
    """`Threads`, whose coroutines it runs over a connection that blocks."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def state(self, thread_id: str, **fields: Unpack[StateFields]) -> dict[str, Any]:
        """Read the state of a thread, as `Threads.state` does."""
        return run(self._threads.state(thread_id, **fields))

    def states(self, thread_ids: Sequence[str], *, graph: str = DEFAULT_GRAPH) -> dict[str, dict[str, Any]]:
        """Read the newest states of up to 100 threads, as `Threads.states` does."""
        return run(self._threads.states(thread_ids, graph=graph))

    def update(
        self,
        thread_id: str,
        values: Any,
        *,
        graph: str = DEFAULT_GRAPH,
        as_node: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, Any]:
        """Write to the state of a thread that no task uses, as `Threads.update` does."""
        return run(self._threads.update(thread_id, values, graph=graph, as_node=as_node, checkpoint=checkpoint))

    def update_in_steps(
        self, thread_id: str, supersteps: Sequence[Sequence[Mapping[str, Any]]], *, graph: str = DEFAULT_GRAPH
    ) -> dict[str, Any]:
        """Write to the state of a thread in several supersteps, as `Threads.update_in_steps` does."""
        return run(self._threads.update_in_steps(thread_id, supersteps, graph=graph))

    def copy(self, thread_id: str, target_id: str | None = None, *, graph: str = DEFAULT_GRAPH) -> str:
        """Copy a thread, as `Threads.copy` does."""
        return run(self._threads.copy(thread_id, target_id, graph=graph))

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["delete", "keep_latest"] = "delete",
        graph: str = DEFAULT_GRAPH,
    ) -> list[str]:
        """Delete the older checkpoints of threads, or all, as `Threads.prune` does."""
        return run(self._threads.prune(thread_ids, strategy=strategy, graph=graph))

    def describe_graph(self, graph: str = DEFAULT_GRAPH) -> GraphDescription:
        """Read what workers have announced of a graph, as `Threads.describe_graph` does."""
        return run(self._threads.describe_graph(graph))

    def storage(self, thread_id: str, *, graph: str = DEFAULT_GRAPH) -> dict[str, Any]:
        """Measure the bytes that the checkpoints of a thread take, as `Threads.storage` does."""
        return run(self._threads.storage(thread_id, graph=graph))

    def expire(self, thread_id: str, *, graph: str = DEFAULT_GRAPH) -> None:
        """Let the checkpoints of a thread go with its row, as `Threads.expire` does."""
        run(self._threads.expire(thread_id, graph=graph))

    def delete(self, thread_id: str, *, graph: str = DEFAULT_GRAPH, force: bool = False) -> None:
        """Delete the checkpoints of a thread, as `Threads.delete` does."""
        run(self._threads.delete(thread_id, graph=graph, force=force))

    def history(self, thread_id: str, **fields: Unpack[HistoryFields]) -> list[dict[str, Any]]:
        """Read the states of a thread, the newest first, as `Threads.history` does."""
        return run(self._threads.history(thread_id, **fields))


class BlockingStore:
    """`StoreItems`, whose coroutines it runs over a connection that blocks."""

    def __init__(self, store: StoreItems) -> None:
        self._store = store

    def get(self, namespace: Sequence[str], key: str, *, refresh_ttl: bool | None = None) -> dict[str, Any] | None:
        """Read an item, as `StoreItems.get` does."""
        return run(self._store.get(namespace, key, refresh_ttl=refresh_ttl))

    def put(
        self,
        namespace: Sequence[str],
        key: str,
        value: Mapping[str, Any],
        *,
        index: Literal[False] | Sequence[str] | None = None,
        ttl: float | None = None,
    ) -> None:
        """Write an item, as `StoreItems.put` does."""
        run(self._store.put(namespace, key, value, index=index, ttl=ttl))

    def delete(self, namespace: Sequence[str], key: str) -> None:
        """Delete an item, as `StoreItems.delete` does."""
        run(self._store.delete(namespace, key))

    def search(
        self,
        namespace_prefix: Sequence[str] = (),
        *,
        query: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Search below a namespace, as `StoreItems.search` does."""
        return run(
            self._store.search(
                namespace_prefix, query=query, filter=filter, limit=limit, offset=offset, refresh_ttl=refresh_ttl
            )
        )

    def list_namespaces(
        self,
        prefix: Sequence[str] | None = None,
        suffix: Sequence[str] | None = None,
        *,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[list[str]]:
        """List namespaces, as `StoreItems.list_namespaces` does."""
        return run(self._store.list_namespaces(prefix, suffix, max_depth=max_depth, limit=limit, offset=offset))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends: its transport blocks instead."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        value: T = returned.value
        return value
    coroutine.close()
    raise AssertionError("a coroutine over a blocking transport was suspended")


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an asynchronous generator that never suspends."""
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
