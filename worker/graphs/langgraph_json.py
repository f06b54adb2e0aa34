"""Reader of LangGraph's `langgraph.json`, so that a project runs unchanged.

    {
      "graphs": {"support desk": "./agents/desk.py:graph", "other": {"path": "package.module:make_graph"}},
      "dependencies": [".", "./agents", "langchain-openai>=1"],
      "env": ".env",
      "store": {"index": {"embed": "openai:text-embedding-3-small", "dims": 1536, "fields": ["$"]}, "ttl": {...}},
      "checkpointer": {"path": "./state.py:make_checkpointer"}
    }

Paths are relative to the file. Its folder and the local dependencies are appended to the import path; other
dependencies are only checked for presence. `env` is a file or a mapping, and never overrides variables that are set
already. A key without effect causes a warning, unless it is only about building an image (`BUILD_KEYS`).
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import TypeAdapter, ValidationError

from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.explaining import EXPECTED
from langgraph_rq.shared.settings.environment import read_variables
from langgraph_rq.shared.tasks import GraphName

_NAME: TypeAdapter[str] = TypeAdapter(GraphName)
_KEYS = frozenset({"graphs", "dependencies", "env", "store", "checkpointer"})
_GRAPH_KEYS = frozenset({"path"})
_STORE_KEYS = frozenset({"path", "index", "ttl"})

BUILD_KEYS = frozenset(
    {
        "$schema",
        "_INTERNAL_docker_tag",
        "api_version",
        "base_image",
        "dockerfile_lines",
        "image_distro",
        "keep_pkg_tools",
        "node_version",
        "pip_config_file",
        "pip_installer",
        "python_version",
        "source",
    }
)
"""Keys about building LangGraph's image, which mean nothing to a process that runs."""

INSTEAD = {
    "auth": "the gateway runs no user code: name users by API keys (docs/http.md)",
    "http": "the gateway runs no user code: serve routes beside it; for cors set LGRQ_CORS_ORIGINS (docs/http.md)",
    "webhooks": "nothing is posted at a run's end: wait for the result, or read the events (docs/tasks.md)",
    "ui": "no components are served: serve them from your front end",
    "encryption": "set LGRQ_STATE_KEY, which encrypts checkpoints and store (docs/state.md)",
    "priority": "give tasks a priority (docs/tasks.md)",
    "checkpointer.ttl": "set LGRQ_THREAD_TTL_S",
    "checkpointer.serde": "set LGRQ_STATE_TYPES (docs/state.md)",
}
"""Keys that this project does not read -> what to do instead."""

_SPEC = '"./file.py:attribute" or "package.module:attribute"'

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
    store_path: str | None = None
    """A store of the project, as the value of a graph; it has its own index and TTL."""
    checkpointer_path: str | None = None
    """A checkpointer of the project, as the value of a graph."""
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


def read_langgraph_json(path: Path, *, requires_auth: bool = False) -> LanggraphJson:
    """Read and validate the file, without importing anything or changing the process.

    Args:
        path: The file.
        requires_auth: Whether a project that relies on LangGraph's `auth` is refused instead of warned.

    Raises:
        GraphLoadError: the file is missing or does not follow LangGraph's documentation, or has `auth`.
    """
    path = path.resolve()
    document, repeated = _read_object(path)
    if requires_auth and "auth" in document:
        raise GraphLoadError(f"{path}: expected no auth with LGRQ_REQUIRE_AUTH=true, got one: {INSTEAD['auth']}")
    dependencies = _expect(path, "dependencies", document.get("dependencies", []), list, "a list of strings")
    store = _expect(path, "store", document.get("store") or {}, dict, "an object")
    checkpointer = _expect(path, "checkpointer", document.get("checkpointer") or {}, dict, "an object")
    environment, env_warnings = _read_env(path, document.get("env") or {})
    local = [str(entry) for entry in dependencies if _is_local(path.parent, str(entry))]
    return LanggraphJson(
        path=path,
        graphs=_read_graphs(path, document.get("graphs")),
        folders=tuple(dict.fromkeys(_folders(path, local))),
        environment=environment,
        store_index=store.get("index"),
        store_ttl=store.get("ttl"),
        store_path=_read_path(path, "store.path", store.get("path")),
        checkpointer_path=_read_path(path, "checkpointer.path", checkpointer.get("path")),
        warnings=(
            *(f"{path}: {key!r} is there more than once in one object; the last one counts" for key in repeated),
            *_instead(path, document, checkpointer),
            *_unsupported(path, document, store, checkpointer),
            *env_warnings,
            *_missing(path, (str(entry) for entry in dependencies if str(entry) not in local)),
        ),
    )


def add_to_import_path(folder: Path) -> None:
    """Append a folder to the import path; last, so that it never shadows an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _read_object(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read the file; also return the keys that an object in it has more than once."""
    repeated: list[str] = []

    def last_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=last_counts)
    except OSError as error:
        raise GraphLoadError(
            f"{path}: expected a langgraph.json, got: {error.strerror}; name another file with --config"
        ) from None
    except ValueError as error:
        raise GraphLoadError(f"{path}: expected JSON, got: {error}") from None
    return _expect(path, "the file", document, dict, "an object"), repeated


def _read_graphs(path: Path, graphs: Any) -> dict[str, str]:
    specs: dict[str, str] = {}
    for name, given in _expect(path, "graphs", graphs, dict, f"an object of names and {_SPEC}").items():
        if not _can_be_named(name):
            raise GraphLoadError(f"{path}: graphs: expected {EXPECTED['graph']}, got: {name[:60]!r}")
        specs[name] = _read_spec(path, f"graphs.{name}", given.get("path") if isinstance(given, dict) else given)
    if not specs:
        raise GraphLoadError(f"{path}: graphs: expected at least one graph, got: none")
    return specs


def _can_be_named(graph: str) -> bool:
    """Whether a task can name the graph."""
    try:
        _NAME.validate_python(graph)
    except ValidationError:
        return False
    return True


def _read_path(path: Path, name: str, spec: Any) -> str | None:
    return None if spec is None else _read_spec(path, name, spec)


def _read_spec(path: Path, name: str, spec: Any) -> str:
    module, _, attribute = _expect(path, name, spec, str, _SPEC).rpartition(":")
    if not module or not attribute:
        raise GraphLoadError(f"{path}: {name}: expected {_SPEC}, got: {spec!r}")
    return f"{module}:{attribute}"


def _read_env(path: Path, env: Any) -> tuple[dict[str, str], list[str]]:
    if isinstance(env, str):
        file = path.parent / env
        if not file.is_file():
            return {}, [f"{path}: env: there is no file {file}, so no variable was set from it"]
        return {name: value for name, value in read_variables(file).items() if value is not None}, []
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


def _instead(path: Path, document: Mapping[str, Any], checkpointer: Mapping[str, Any]) -> Iterator[str]:
    given = [*document, *(f"checkpointer.{key}" for key in checkpointer)]
    yield from (f"{path}: {key} has no effect here: {INSTEAD[key]}" for key in given if key in INSTEAD)


def _unsupported(
    path: Path, document: Mapping[str, Any], store: Mapping[str, Any], checkpointer: Mapping[str, Any]
) -> list[str]:
    keys = [key for key in document if key not in _KEYS | BUILD_KEYS]
    keys += [f"store.{key}" for key in store if key not in _STORE_KEYS or (key != "path" and "path" in store)]
    keys += [f"checkpointer.{key}" for key in checkpointer if key != "path"]
    for name, spec in document["graphs"].items():
        keys += [f"graphs.{name}.{key}" for key in spec if key not in _GRAPH_KEYS] if isinstance(spec, dict) else []
    keys = [key for key in keys if key not in INSTEAD]
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
