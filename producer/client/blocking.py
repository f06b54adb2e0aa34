"""The parts of the synchronous client, and how they run coroutines over a transport that blocks."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from langgraph_rq.producer.client.store import StoreItems
from langgraph_rq.producer.client.threads import Threads

T = TypeVar("T")
P = ParamSpec("P")
Part = TypeVar("Part")


class _Blocking(Generic[Part]):
    """A part of the asynchronous client, whose coroutines are run over a connection that blocks."""

    def __init__(self, part: Part) -> None:
        self._part = part


def _blocking(
    method: Callable[Concatenate[Part, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking[Part], P], T]:
    """Make the method of the same arguments that blocks."""

    @wraps(method)
    def call(self: _Blocking[Part], /, *args: P.args, **fields: P.kwargs) -> T:
        return run(method(self._part, *args, **fields))

    return call


class BlockingThreads(_Blocking[Threads]):
    """`Threads`, with methods that block."""

    state = _blocking(Threads.state)
    states = _blocking(Threads.states)
    update = _blocking(Threads.update)
    update_in_steps = _blocking(Threads.update_in_steps)
    copy = _blocking(Threads.copy)
    prune = _blocking(Threads.prune)
    describe_graph = _blocking(Threads.describe_graph)
    storage = _blocking(Threads.storage)
    expire = _blocking(Threads.expire)
    delete = _blocking(Threads.delete)
    history = _blocking(Threads.history)


class BlockingStore(_Blocking[StoreItems]):
    """`StoreItems`, with methods that block."""

    get = _blocking(StoreItems.get)
    put = _blocking(StoreItems.put)
    delete = _blocking(StoreItems.delete)
    search = _blocking(StoreItems.search)
    list_namespaces = _blocking(StoreItems.list_namespaces)


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
