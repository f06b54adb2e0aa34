"""Read LangGraph's own `langgraph.json`, so that a project runs here as it stands.

    {
      "graphs": {"support desk": "./agents/desk.py:graph", "other": {"path": "package.module:make_graph"}},
      "dependencies": [".", "./agents", "langchain-openai>=1"],
      "env": ".env",
      "store": {"index": {"embed": "openai:text-embedding-3-small", "dims": 1536, "fields": ["$"]}, "ttl": {...}}
    }

Paths are relative to the file. Its folder and the local dependencies go on the import path after everything else; other
dependencies are only checked. `env` is a file or a mapping, and never overrides what the environment says already. A
key that has no meaning here is named in a warning, never silently ignored.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from dotenv import dotenv_values
from packaging.requirements import InvalidRequirement, Requirement

from langgraph_rq.shared.errors import LanggraphRqError

_KEYS = frozenset({"graphs", "dependencies", "env", "store"})
_GRAPH_KEYS = frozenset({"path", "description"})
_STORE_KEYS = frozenset({"index", "ttl"})

T = TypeVar("T")


class GraphLoadError(LanggraphRqError):
    """A graph, or the file that names it, cannot be used; the message names both and what is wrong."""


@dataclass(frozen=True, slots=True)
class LanggraphJson:
    """What a langgraph.json says, with its paths resolved."""

    path: Path
    graphs: Mapping[str, str]
    """Name -> "path/to/file.py:attribute" or "package.module:attribute"."""
    folders: tuple[Path, ...]
    """What goes on the import path: the file's own folder, then the local dependencies."""
    environment: Mapping[str, str]
    store_index: Mapping[str, Any] | None = None
    """`dims`, `embed` and `fields` of the long-term memory's vector index."""
    store_ttl: Mapping[str, Any] | None = None
    """`default_ttl` (minutes) and `refresh_on_read` of the long-term memory."""
    warnings: tuple[str, ...] = field(default=())
    """What was found and has no effect, one sentence each."""

    @property
    def folder(self) -> Path:
        """The folder that every path in the file is relative to."""
        return self.path.parent

    def apply(self) -> None:
        """Set the environment variables that are not set yet, and put the folders behind the import path.

        Raises:
            GraphLoadError: a folder has a package with the name of one of ours, which would hide it.
        """
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        for folder in self.folders:
            add_to_import_path(folder)


def read_langgraph_json(path: Path) -> LanggraphJson:
    """Read the file; nothing is imported and nothing is changed.

    Raises:
        GraphLoadError: the file is missing or not what LangGraph's documentation describes.
    """
    path = path.resolve()
    document = _read_object(path)
    dependencies = _expect(path, "dependencies", document.get("dependencies", []), list, "a list of strings")
    store = _expect(path, "store", document.get("store") or {}, dict, "an object")
    environment, env_warnings = _read_env(path, document.get("env") or {})
    local = [str(entry) for entry in dependencies if _is_local(path.parent, str(entry))]
    return LanggraphJson(
        path=path,
        graphs=_read_graphs(path, document.get("graphs")),
        folders=tuple(dict.fromkeys(_folders(path, local))),
        environment=environment,
        store_index=store.get("index"),
        store_ttl=store.get("ttl"),
        warnings=(
            *_without_effect(path, document, store),
            *env_warnings,
            *_missing(path, (str(entry) for entry in dependencies if str(entry) not in local)),
        ),
    )


def add_to_import_path(folder: Path) -> None:
    """Put a folder behind everything on the import path, so that it can never replace an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphLoadError(
            f"{path}: expected a langgraph.json, got: {error.strerror}; name another file with --config"
        ) from None
    except ValueError as error:
        raise GraphLoadError(f"{path}: expected JSON, got: {error}") from None
    return _expect(path, "the file", document, dict, "an object")


def _read_graphs(path: Path, graphs: Any) -> dict[str, str]:
    expected = 'an object of names and "./file.py:attribute" or "package.module:attribute"'
    specs: dict[str, str] = {}
    for name, given in _expect(path, "graphs", graphs, dict, expected).items():
        spec = _expect(path, f"graphs.{name}", given.get("path") if isinstance(given, dict) else given, str, expected)
        module, _, attribute = spec.rpartition(":")
        if not module or not attribute:
            raise GraphLoadError(f"{path}: graphs.{name}: expected {expected}, got: {spec!r}")
        specs[name] = spec
    if not specs:
        raise GraphLoadError(f"{path}: graphs: expected at least one graph, got: none")
    return specs


def _read_env(path: Path, env: Any) -> tuple[dict[str, str], list[str]]:
    if isinstance(env, str):
        file = path.parent / env
        if not file.is_file():
            return {}, [f"{path}: env: there is no file {file}, so no variable was set from it"]
        return {name: value for name, value in dotenv_values(file).items() if value is not None}, []
    expected = "the path of an .env file or an object of names and strings"
    variables = _expect(path, "env", env, dict, expected)
    return {name: _expect(path, f"env.{name}", value, str, "a string") for name, value in variables.items()}, []


def _is_local(folder: Path, dependency: str) -> bool:
    return dependency.startswith(".") or (folder / dependency).is_dir()


def _folders(path: Path, local: Iterable[str]) -> Iterator[Path]:
    """Yield the file's folder and for each local dependency what makes its modules importable.

    A package is found from the folder above it, and one in the src layout from `src`, as if it had been installed.
    """
    yield path.parent
    for dependency in local:
        folder = (path.parent / dependency).resolve()
        if not folder.is_dir():
            raise GraphLoadError(f"{path}: dependencies: there is no folder {folder} for {dependency!r}")
        yield folder
        if (folder / "__init__.py").is_file():
            yield package_root(folder)
        if (folder / "src").is_dir():
            yield folder / "src"


def package_root(folder: Path) -> Path:
    """Find the folder that a package's absolute name starts from: the nearest one above that is no package."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _without_effect(path: Path, document: Mapping[str, Any], store: Mapping[str, Any]) -> list[str]:
    keys = [key for key in document if key not in _KEYS]
    keys += [f"store.{key}" for key in store if key not in _STORE_KEYS]
    for name, spec in document["graphs"].items():
        keys += [f"graphs.{name}.{key}" for key in spec if key not in _GRAPH_KEYS] if isinstance(spec, dict) else []
    return [f"{path}: these keys have no effect here: {', '.join(keys)}"] if keys else []


def _missing(path: Path, dependencies: Iterable[str]) -> list[str]:
    missing = [text for dependency in dependencies if (text := _lack(dependency))]
    return [f"{path}: dependencies that are not installed: {', '.join(missing)}"] if missing else []


def _lack(dependency: str) -> str | None:
    try:
        requirement = Requirement(dependency)
        installed = version(requirement.name)
    except InvalidRequirement:
        return f"{dependency} (cannot be checked)"
    except PackageNotFoundError:
        return dependency
    return None if requirement.specifier.contains(installed, prereleases=True) else f"{dependency} (found {installed})"


def _expect(path: Path, name: str, value: Any, kind: type[T], expected: str) -> T:
    if isinstance(value, kind):
        return value
    raise GraphLoadError(f"{path}: {name}: expected {expected}, got: {json.dumps(value)[:100]}")
