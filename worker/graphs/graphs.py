"""The graphs that a worker serves: listed in langgraph.json, imported and compiled once at boot.

An entry may name a compiled graph, a `StateGraph`, or a factory of either: a sync or async function or context
manager, without parameters or with one for the config. A factory is called once, at boot, in the worker's event loop.
The worker's checkpointer and store replace a graph's own, as in LangGraph Server.

Sync nodes run in the event loop's default executor, which the worker sizes to its concurrency.
"""

import importlib
import inspect
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
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

from langgraph_rq.shared.graph_input import GraphInput
from langgraph_rq.worker.graphs.input_keys import graph_input
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson, add_to_import_path, package_root

__all__ = ["GraphLoadError", "Graphs", "LoadedGraph", "load_graphs"]

AnyGraph = Pregel[Any, Any, Any, Any]

_UNNAMED = "LangGraph"
"""LangGraph's name for a graph without a name."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph that is ready to run."""

    name: str
    graph: AnyGraph
    input: GraphInput
    """What the graph takes, by which producers judge inputs."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """All graphs of this worker by name, and warnings for its operator."""

    by_name: Mapping[str, LoadedGraph]
    warnings: tuple[str, ...]


@asynccontextmanager
async def load_graphs(
    config: LanggraphJson, *, checkpointer: BaseCheckpointSaver[Any] | None, store: BaseStore | None = None
) -> AsyncIterator[Graphs]:
    """Import and compile every graph of `config`; on exit, close the factories that are context managers.

    Args:
        config: From `read_langgraph_json`; its environment variables and import paths are applied here.
        checkpointer: Replaces every graph's own; None: no checkpoints.
        store: Replaces every graph's own; None: a graph keeps its own.

    Raises:
        GraphLoadError: one line with the graph, its location and the reason.
    """
    config.apply()
    warnings = list(config.warnings)
    by_name = {}
    async with AsyncExitStack() as stack:
        for name, spec in config.graphs.items():
            where = f"graph {name!r} ({spec})"
            made = await _make(load_attribute(config, spec, where), where, stack)
            graph = _compile(made, name, where, checkpointer, store)
            takes, problem = _input(graph)
            warnings += [f"{where}: its input cannot be checked at the door: {problem}"] if problem else []
            by_name[name] = LoadedGraph(name, graph, takes)
        yield Graphs(by_name, tuple(warnings))


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
        raise GraphLoadError(f"{where}: could not be imported: {_one_line(error)}") from error
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


async def _make(attribute: Any, where: str, stack: AsyncExitStack) -> Any:
    """Make the graph: call a factory, await its coroutine, enter its context manager."""
    required = _required_parameters(attribute)
    if required is None:
        return attribute
    if len(required) > 1:
        raise GraphLoadError(f"{where}: expected a factory to take nothing or a config, got: ({', '.join(required)})")
    try:
        made = attribute(*({"configurable": {}} for _ in required))
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(made)
        elif isinstance(made, AbstractContextManager):
            made = stack.enter_context(made)
    except Exception as error:
        raise GraphLoadError(f"{where}: its factory failed: {_one_line(error)}") from error
    return made


def _required_parameters(attribute: Any) -> list[str] | None:
    """Return the names of the parameters without a default; None: the attribute is not callable."""
    try:
        parameters = inspect.signature(attribute).parameters.values()
    except (TypeError, ValueError):
        return None
    return [one.name for one in parameters if one.default is one.empty and one.kind not in _VARIADIC]


def _compile(
    made: Any, name: str, where: str, checkpointer: BaseCheckpointSaver[Any] | None, store: BaseStore | None
) -> AnyGraph:
    if isinstance(made, StateGraph):
        try:
            made = made.compile()
        except Exception as error:
            raise GraphLoadError(f"{where}: could not be compiled: {_one_line(error)}") from error
    if not isinstance(made, Pregel):
        raise GraphLoadError(
            f"{where}: expected a compiled graph, a StateGraph or a factory of either, got: {type(made).__name__}"
        )
    update: dict[str, Any] = {"checkpointer": checkpointer}
    if store is not None:
        update["store"] = store
    if made.name == _UNNAMED:
        update["name"] = name
    return made.copy(update)


def _input(graph: AnyGraph) -> tuple[GraphInput, str | None]:
    try:
        return graph_input(graph), None
    except Exception as error:  # a graph of an unusual class still runs
        return GraphInput(), _one_line(error)


def _suggestion(module: ModuleType, attribute: str) -> str:
    names = [name for name in vars(module) if not name.startswith("_")]
    graphs = [name for name in names if isinstance(vars(module)[name], Pregel | StateGraph)]
    close = get_close_matches(attribute, names, n=1) or graphs
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _one_line(error: BaseException) -> str:
    """Describe an error in one line, with the file and line that raised it."""
    frames = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames[1:] else ""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}{'' if isinstance(error, SyntaxError) else place}"
