"""The graphs that a worker serves: listed in langgraph.json, imported and compiled once at boot.

An entry may name a compiled graph, a `StateGraph`, or a factory of either (factories). A factory that takes nothing is
called once, at boot; one that takes a config or a runtime is called for each run, and at boot for its schemas.
A graph that brings no checkpointer and store of its own gets the worker's (brought_state).

Sync nodes run in the event loop's default executor, which the worker sizes to its concurrency.
"""

import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any
from zlib import crc32

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from langgraph_rq.shared.graphs.description import GraphDescription
from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.worker.graphs.brought_state import Adopt, GraphState, replacements
from langgraph_rq.worker.graphs.description import describe
from langgraph_rq.worker.graphs.factories import Factory, Run, enter
from langgraph_rq.worker.graphs.input_keys import graph_input
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson, add_to_import_path, package_root

__all__ = ["GraphLoadError", "GraphPerRun", "Graphs", "LoadedGraph", "load_graphs"]

AnyGraph = Pregel[Any, Any, Any, Any]

_UNNAMED = "LangGraph"
"""LangGraph's name for a graph without a name."""


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph that is ready to run."""

    name: str
    graph: AnyGraph
    input: GraphInput
    """What the graph takes, by which producers judge inputs."""
    own_checkpointer: Any = None
    """What `adopt` made of the one that it was compiled with; None: it has the worker's."""

    @asynccontextmanager
    async def open(self, run: Run) -> AsyncIterator["LoadedGraph"]:
        """Return itself: all runs share the graph."""
        del run
        yield self

    def describe(self) -> GraphDescription:
        """Draw it, and write its schemas."""
        return describe(self.graph)


@dataclass(frozen=True, slots=True)
class GraphPerRun:
    """A factory that makes a graph for each run."""

    name: str
    input: GraphInput
    """What the graph takes that it makes without a run; nothing is known of it if it made none."""
    make: Callable[[Run], AbstractAsyncContextManager[AnyGraph]]
    description: GraphDescription | None = None
    """Of the graph that it makes without a run; None: it made none."""

    @asynccontextmanager
    async def open(self, run: Run) -> AsyncIterator[LoadedGraph]:
        """Make the graph of a run; a context manager is left at the end of the block."""
        async with self.make(run) as graph:
            yield LoadedGraph(self.name, graph, self.input)

    def describe(self) -> GraphDescription | None:
        """Return the drawing and the schemas of a graph that it made without a run; None: it made none."""
        return self.description


@dataclass(frozen=True, slots=True)
class Graphs:
    """All graphs of this worker by name, and warnings for its operator."""

    by_name: Mapping[str, LoadedGraph | GraphPerRun]
    warnings: tuple[str, ...]


@asynccontextmanager
async def load_graphs(
    config: LanggraphJson,
    *,
    checkpointer: BaseCheckpointSaver[Any] | None,
    store: BaseStore | None = None,
    adopt: Adopt | None = None,
    keeps_stores: bool = True,
    prepare: Callable[[AnyGraph], None] = lambda graph: None,  # noqa: ARG005
) -> AsyncIterator[Graphs]:
    """Import and compile every graph of `config`; on exit, close the factories that are context managers.

    Args:
        config: From `read_langgraph_json`; its environment variables and import paths are applied here.
        checkpointer: Of graphs that have none; None: no checkpoints.
        store: Of graphs that have none; None: a graph keeps its own.
        adopt: Decides on a graph's own checkpointer; None: it is replaced.
        keeps_stores: Whether a graph keeps its own store.
        prepare: Called with each graph before it runs, also with those that are made for one run.

    Raises:
        GraphLoadError: one line with the graph, its location and the reason.
    """
    config.apply()
    loader = _Loader(GraphState(checkpointer, store, adopt, keeps_stores), prepare)
    warnings = list(config.warnings)
    by_name = {}
    async with AsyncExitStack() as stack:
        for name, spec in config.graphs.items():
            where = f"graph {name!r} ({spec})"
            by_name[name], problem = await loader.load(name, where, load_attribute(config, spec, where), stack)
            warnings += [f"{where}: {problem}"] if problem else []
        yield Graphs(by_name, (*warnings, *replacements(loader.replaced)))


@dataclass(frozen=True, slots=True)
class _Loader:
    state: GraphState
    prepare: Callable[[AnyGraph], None]
    replaced: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """(what was replaced, why) -> names of graphs."""

    async def load(
        self, name: str, where: str, attribute: Any, stack: AsyncExitStack
    ) -> tuple[LoadedGraph | GraphPerRun, str | None]:
        """Make one graph, and the warning about it."""
        try:
            factory = Factory.of(attribute)
        except GraphLoadError as error:
            raise GraphLoadError(f"{where}: {error}") from None
        if factory is not None and factory.is_per_run:
            return await self._load_per_run(factory, name, where)
        try:
            made = await (
                stack.enter_async_context(factory.make(None, self.state.store)) if factory else enter(attribute, stack)
            )
        except (Exception, SystemExit) as error:
            raise GraphLoadError(f"{where}: its factory failed: {one_line(error)}") from error
        graph = self._compile(made, where)
        try:
            checkpointer = await self._state(graph, name, is_per_run=False)
        except Exception as error:
            raise GraphLoadError(f"{where}: its checkpointer cannot be read: {one_line(error)}") from error
        own = checkpointer if checkpointer is not self.state.checkpointer else None
        graph = self._ready(graph, name, checkpointer)
        takes, problem = _input(graph)
        return LoadedGraph(name, graph, takes, own), problem

    async def _load_per_run(self, factory: Factory, name: str, where: str) -> tuple[GraphPerRun, str | None]:
        """Call the factory once, to know its graph's input. It may fail: there is no run yet whose config it wants."""

        @asynccontextmanager
        async def make(run: Run | None) -> AsyncIterator[AnyGraph]:
            async with factory.make(run, self.state.store) as made:
                yield self._ready(self._compile(made, where), name, self.state.checkpointer)

        takes, problem, description = None, None, None
        try:
            async with factory.make(None, self.state.store) as made:
                graph = self._compile(made, where)
                await self._state(graph, name, is_per_run=True)
                takes, problem = _input(graph)
                description = describe(graph)
        except GraphLoadError:
            raise
        except (Exception, SystemExit) as error:
            what = (
                "cannot be left" if takes else "failed without a run, so that its input cannot be checked at the door"
            )
            problem = f"its factory {what}: {one_line(error)}"
        return GraphPerRun(name, takes or GraphInput(), make, description), problem

    async def _state(self, graph: AnyGraph, name: str, *, is_per_run: bool) -> BaseCheckpointSaver[Any] | None:
        """Choose a graph's checkpointer, and note what is replaced."""
        checkpointer, why = await self.state.choose_checkpointer(graph.checkpointer, is_per_run=is_per_run)
        for own, reason in ((graph.checkpointer, why), (graph.store, self.state.choose_store(graph.store)[1])):
            if reason:
                kind = "checkpointer" if own is graph.checkpointer else "store"
                self.replaced.setdefault((f"{kind} {type(own).__name__}", reason), []).append(name)
        return checkpointer

    def _compile(self, made: Any, where: str) -> AnyGraph:
        if isinstance(made, StateGraph):
            try:
                made = made.compile()
            except Exception as error:
                raise GraphLoadError(f"{where}: could not be compiled: {one_line(error)}") from error
        if not isinstance(made, Pregel):
            raise GraphLoadError(
                f"{where}: expected a compiled graph, a StateGraph or a factory of either, got: {type(made).__name__}"
            )
        return made

    def _ready(self, graph: AnyGraph, name: str, checkpointer: BaseCheckpointSaver[Any] | None) -> AnyGraph:
        """Return a copy with its checkpointer, its store and a name."""
        update: dict[str, Any] = {"checkpointer": checkpointer, "store": self.state.choose_store(graph.store)[0]}
        if graph.name == _UNNAMED:
            update["name"] = name
        graph = graph.copy(update)
        self.prepare(graph)
        return graph


def load_attribute(config: LanggraphJson, spec: str, where: str) -> Any:
    """Import `spec`: "./file.py:attribute", relative to langgraph.json, or "package.module:attribute".

    Raises:
        GraphLoadError: the import failed; the message begins with `where`.
    """
    source, _, attribute = spec.rpartition(":")
    is_file = "/" in source or source.endswith(".py")
    try:
        module = _import_file(config.folder, source) if is_file else importlib.import_module(source)
    except GraphLoadError as error:
        raise GraphLoadError(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:
        raise GraphLoadError(f"{where}: could not be imported: {one_line(error)}") from error
    if not hasattr(module, attribute):
        raise GraphLoadError(f"{where}: {source} has no {attribute!r}{_suggestion(module, attribute)}")
    return getattr(module, attribute)


def _import_file(folder: Path, source: str) -> ModuleType:
    file = (folder / source).resolve()
    if not file.is_file():
        raise GraphLoadError(f"there is no file {file}")
    if file.suffix != ".py":
        raise GraphLoadError(f"expected a Python file, got: {file.name}")
    return _import_from_package(file) if (file.parent / "__init__.py").is_file() else _import_alone(folder, file)


def _import_from_package(file: Path) -> ModuleType:
    """Import a package's module by its full name, so that relative imports work and no module is loaded twice."""
    root = package_root(file.parent)
    add_to_import_path(root)
    name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    if module.__file__ is None or not file.samefile(module.__file__):
        raise GraphLoadError(f"its module {name!r} is hidden by another one of this name: {module.__file__}")
    return module


def _import_alone(folder: Path, file: Path) -> ModuleType:
    """Import a file outside of any package, under a module name that is the same in every worker.

    Checkpoints refer to a dataclass in the state by its module, which other workers must be able to import.
    """
    name = f"graph_{file.stem}_{crc32(os.path.relpath(file, folder).encode()):08x}"
    known = sys.modules.get(name)
    if known and known.__file__ == str(file):
        return known
    spec = spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _input(graph: AnyGraph) -> tuple[GraphInput, str | None]:
    try:
        return graph_input(graph), None
    except Exception as error:  # a graph of an unusual class still runs
        return GraphInput(), f"its input cannot be checked at the door: {one_line(error)}"


def _suggestion(module: ModuleType, attribute: str) -> str:
    names = [name for name in vars(module) if not name.startswith("_")]
    graphs = [name for name in names if isinstance(vars(module)[name], Pregel | StateGraph)]
    close = get_close_matches(attribute, names, n=1) or graphs
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def one_line(error: BaseException) -> str:
    """Describe an error in one line, with the file and line that raised it."""
    frames = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames[1:] else ""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}{'' if isinstance(error, SyntaxError) else place}"
