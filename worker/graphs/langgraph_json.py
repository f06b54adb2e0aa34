"""Reader of LangGraph's `langgraph.json`, so that a project runs unchanged.

    {
      "graphs": {"support desk": "./agents/desk.py:graph", "other": {"path": "package.module:make_graph"}},
      "dependencies": [".", "./agents", "langchain-openai>=1"],
      "env": ".env",
      "store": {"index": {"embed": "openai:text-embedding-3-small", "dims": 1536, "fields": ["$"]}, "ttl": {...}}
    }

Paths are relative to the file. Its folder and the local dependencies are appended to the import path; other
dependencies are only checked for presence. `env` is a file or a mapping, and never overrides variables that are set
already. An unsupported key causes a warning.
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
    """A graph or its langgraph.json cannot be used; the message names both, and the reason."""


@dataclass(frozen=True, slots=True)
class LanggraphJson:
    """A langgraph.json, with its paths resolved."""

    path: Path
    graphs: Mapping[str, str]
    """Name -> "path/to/file.py:attribute" or "package.module:attribute"."""
    folders: tuple[Path, ...]
    """Additions to the import path: the file's own folder, then the local dependencies."""
    environment: Mapping[str, str]
    store_index: Mapping[str, Any] | None = None
    """`dims`, `embed` and `fields` of the long-term memory's vector index."""
    store_ttl: Mapping[str, Any] | None = None
    """`default_ttl` (minutes) and `refresh_on_read` of the long-term memory."""
    warnings: tuple[str, ...] = field(default=())
    """Unsupported keys and missing dependencies, one sentence each."""

    @property
    def folder(self) -> Path:
        """The folder of the file, to which its paths are relative."""
        return self.path.parent

    def apply(self) -> None:
        """Set the environment variables that are not set yet, and append the folders to the import path."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        for folder in self.folders:
            add_to_import_path(folder)


def read_langgraph_json(path: Path) -> LanggraphJson:
    """Read and validate the file, without importing anything or changing the process.

    Raises:
        GraphLoadError: the file is missing or does not follow LangGraph's documentation.
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
            *_unsupported(path, document, store),
            *env_warnings,
            *_missing(path, (str(entry) for entry in dependencies if str(entry) not in local)),
        ),
    )


def add_to_import_path(folder: Path) -> None:
    """Append a folder to the import path; last, so that it never shadows an installed module."""
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
    """Yield the import path entries: the file's folder, and those of each local dependency.

    A package is importable from its parent folder, and a project in the src layout from `src`, as if installed.
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
    """Return the nearest folder above that is not a package: absolute module names begin there."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _unsupported(path: Path, document: Mapping[str, Any], store: Mapping[str, Any]) -> list[str]:
    keys = [key for key in document if key not in _KEYS]
    keys += [f"store.{key}" for key in store if key not in _STORE_KEYS]
    for name, spec in document["graphs"].items():
        keys += [f"graphs.{name}.{key}" for key in spec if key not in _GRAPH_KEYS] if isinstance(spec, dict) else []
    return [f"{path}: these keys have no effect here: {', '.join(keys)}"] if keys else []


def _missing(path: Path, dependencies: Iterable[str]) -> list[str]:
    missing = [text for dependency in dependencies if (text := _missing_requirement(dependency))]
    return [f"{path}: dependencies that are not installed: {', '.join(missing)}"] if missing else []


def _missing_requirement(dependency: str) -> str | None:
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
