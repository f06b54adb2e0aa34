"""Graph factories: functions of langgraph.json's `graphs` that make a graph, called as LangGraph Server calls them.

    def make() -> Graph                                  once, at boot; kept until the worker ends
    def make(config: RunnableConfig) -> Graph            for each run, with the run's config
    def make(runtime: ServerRuntime) -> Graph            for each run, with the store, the user and the context
    def make(config, runtime: ServerRuntime) -> Graph    for each run; in either order

Each may also be async, or a sync or async context manager, which is left after the run. A runtime is known by its
annotation, `langgraph_sdk.runtime.ServerRuntime`; any other parameter is the config. More of them need defaults.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._config import ensure_config
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph_sdk.runtime import ServerRuntime, _ExecutionRuntime, _ReadRuntime
from pydantic import BaseModel

from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError

_RUNTIME = "__pregel_runtime"
"""Key of a config's `configurable` in which `get_store` and `get_runtime` look; LangGraph's name."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_NAMES = {"ServerRuntime": ServerRuntime, "RunnableConfig": RunnableConfig}
"""For annotations whose import stands below `if TYPE_CHECKING`."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a factory may look at of the run that it makes a graph for.

    Args:
        config: The run's.
        context: The task's, as submitted.
        user_id: Who submitted the task; None where there is none.
    """

    config: RunnableConfig
    context: Mapping[str, Any] | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """The user of a task, as an authenticated user of LangGraph Server."""

    identity: str
    is_authenticated: bool = True
    permissions: tuple[str, ...] = ()

    @property
    def display_name(self) -> str:
        """The identity."""
        return self.identity

    def __getitem__(self, key: str) -> Any:
        """Return a field by its name."""
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a field."""
        return key in {"identity", "is_authenticated", "permissions", "display_name"}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the fields."""
        return iter(("identity", "is_authenticated", "permissions", "display_name"))


@dataclass(frozen=True, slots=True)
class Factory:
    """A function that makes a graph, and which of its parameters is what."""

    function: Callable[..., Any]
    config: str | None
    """Name of the parameter that takes the config."""
    runtime: str | None
    """Name of the parameter that takes the runtime."""
    context_type: type | None = None
    """MyContext of an annotation `ServerRuntime[MyContext]`."""

    @classmethod
    def of(cls, attribute: Any) -> "Factory | None":
        """Read the signature; None: `attribute` is no function.

        Raises:
            GraphLoadError: it needs other arguments.
        """
        if isinstance(attribute, Pregel | StateGraph):
            return None
        try:
            parameters = inspect.signature(attribute).parameters.values()
        except (TypeError, ValueError):
            return None
        hints = _hints(attribute)
        taken = {one.name: one for one in parameters if one.kind not in _VARIADIC}
        runtimes = [name for name in taken if _is_runtime(hints.get(name))]
        others = [name for name in taken if name not in runtimes]
        if len(others) > 1:
            others = [name for name in others if taken[name].default is inspect.Parameter.empty]
        if len(runtimes) > 1 or len(others) > 1:
            raise GraphLoadError(
                "expected a factory to take nothing, a config, a runtime: ServerRuntime, or both, "
                f"got: ({', '.join([*others, *(f'{name}: ServerRuntime' for name in runtimes)])})"
            )
        runtime = next(iter(runtimes), None)
        return cls(attribute, next(iter(others), None), runtime, _context_type(hints.get(runtime or "")))

    @property
    def is_per_run(self) -> bool:
        """Whether it is called for each run; else once."""
        return self.config is not None or self.runtime is not None

    @asynccontextmanager
    async def make(self, run: Run | None, store: BaseStore | None) -> AsyncIterator[Any]:
        """Make what the function makes, and leave it afterwards if it is a context manager.

        It runs in the event loop, and `get_config`, `get_store` and `get_runtime` work in it.

        Args:
            run: None: no graph will run, only its schemas are read.
            store: The long-term memory that its graph will get.
        """
        config = ensure_config({**run.config} if run else {"configurable": {}})
        arguments = {}
        if self.config:
            arguments[self.config] = config
        if self.runtime:
            arguments[self.runtime] = self._runtime_of(run, store)
        signature = inspect.BoundArguments(inspect.signature(self.function), arguments)
        async with AsyncExitStack() as stack:
            with _current(config, store):
                made = self.function(*signature.args, **signature.kwargs)
                made = await enter(made, stack)
            yield made

    def _runtime_of(self, run: Run | None, store: Any) -> Any:
        if run is None:
            return _ReadRuntime(access_context="assistants.read", store=store)
        user = User(run.user_id) if run.user_id else None
        context: Any = {**(run.context or {})}
        if self.context_type:
            context = self.context_type(**context)
        return _ExecutionRuntime(access_context="threads.create_run", user=user, store=store, context=context)


async def enter(made: Any, stack: AsyncExitStack) -> Any:
    """Return what is inside a coroutine or a context manager, which `stack` leaves."""
    if inspect.isawaitable(made):
        made = await made
    if isinstance(made, AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    if isinstance(made, AbstractContextManager):
        return stack.enter_context(made)
    return made


@contextmanager
def _current(config: RunnableConfig, store: BaseStore | None) -> Iterator[None]:
    """Let LangGraph's `get_config` and `get_store` find the run. Not while its graph runs: it would be a subgraph."""
    runtime: Any = Runtime(store=store)
    found: RunnableConfig = {**config, "configurable": {**config["configurable"], _RUNTIME: runtime}}
    token = var_child_runnable_config.set(found)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _hints(function: Any) -> Mapping[str, Any]:
    target = getattr(function, "func", function)  # of a partial
    if not inspect.isroutine(target) and not isinstance(target, type):
        target = type(target).__call__
    try:
        return get_type_hints(target, localns=_NAMES)
    except Exception:  # an annotation may name what does not exist
        return getattr(target, "__annotations__", {})


def _is_runtime(hint: Any) -> bool:
    """Recognise `ServerRuntime`, `ServerRuntime[MyContext]`, its classes, and each of them in `Annotated`."""
    if hint is ServerRuntime or get_origin(hint) is ServerRuntime:
        return True
    if isinstance(hint, type):
        return issubclass(hint, _ExecutionRuntime | _ReadRuntime)
    arguments = get_args(hint)
    return bool(arguments) and _is_runtime(arguments[0])


def _context_type(hint: Any) -> type | None:
    """Return MyContext of `ServerRuntime[MyContext]`, if it is a class that a context can be given to as fields."""
    arguments = get_args(hint)
    found = arguments[0] if arguments else None
    if found is not None and _is_runtime(found):
        return _context_type(found)
    is_model = isinstance(found, type) and (is_dataclass(found) or issubclass(found, BaseModel))
    return found if is_model else None
