"""What `pip install langgraph-rq` brings and what a client imports; and that extras hold what is used, nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import distribution, packages_distributions
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.distribution.environments import EXTRAS, PACKAGES, PROJECT, brought_by, names
from tests.installation import ROOT

MEGABYTE = 10**6
BLOCK = 512
"""Bytes per unit of `st_blocks`."""
HEAVY = (
    "fastapi", "flask", "genai_prices", "langchain_core", "langgraph", "openai", "opentelemetry.proto", "phonenumbers",
    "prometheus_client", "pygments", "re2", "rich", "rq", "structlog",
)  # fmt: skip
"""What a program that only submits never loads. redis loads OpenTelemetry's SDK, where that is installed."""
IMPORT_CLIENT = "import sys; from langgraph_rq import Client, AsyncClient; print(*sys.modules)"

GUARD_WITHOUT_LANGCHAIN = """
import sys
sys.modules["langchain_core"] = None  # as if it were not installed
try:
    from langgraph_rq import guarded
except ImportError as error:
    print(error)
"""

NEEDED_BY_OTHERS = {
    "httptools": "uvicorn's parser",
    "six": "rq-dashboard forgets to depend on it",
}
"""Requirements whose import is not written as `import NAME` of ours, with the reason that they are there."""


def files_of(name: str) -> Iterator[Path]:
    return (Path(str(file.locate())) for file in distribution(name).files or ())


def disk_bytes(files: Iterable[Path]) -> int:
    """Return what files take on disk, with the bytecode that pip writes beside them."""
    all_files = {one for file in files for one in (file, bytecode(file)) if one.is_file()}
    return sum(file.stat().st_blocks * BLOCK for file in all_files)


def bytecode(file: Path) -> Path:
    return Path(cache_from_source(str(file))) if file.suffix == ".py" else file


def test_client_and_command_line_take_less_than_45_megabytes(installed_wheel):
    installed_wheel.run("python", "-m", "compileall", "-q", str(installed_wheel.packages / "langgraph_rq"))
    ours = disk_bytes((installed_wheel.packages / "langgraph_rq").rglob("*"))
    others = {name: disk_bytes(files_of(name)) for name in brought_by()}
    assert ours + sum(others.values()) < 45 * MEGABYTE, others
    assert ours > MEGABYTE
    assert others["pydantic-core"] > MEGABYTE


def test_guard_without_its_libraries_names_the_extra():
    done = subprocess.run([sys.executable, "-c", GUARD_WITHOUT_LANGCHAIN], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("guarded: expected the extra `worker`, got: no module langchain_core")
    assert done.stdout.endswith("; pip install 'langgraph-rq[worker]'\n")


def test_client_and_command_line_are_less_than_25_distributions():
    brought = brought_by()
    assert {"redis", "hiredis", "pydantic", "annotated-types"} <= brought  # of requirements of requirements, too
    assert len(brought) + 1 < 25, brought


@pytest.mark.parametrize("extra", ["worker", "api", "dashboard"])
def test_what_masks_comes_only_with_programs_that_do(extra):
    assert {"phonenumbers", "google-re2"} <= brought_by(extra)
    assert {"phonenumbers", "genai-prices", "rq"}.isdisjoint(brought_by())
    assert ("genai-prices" in brought_by(extra)) == (extra == "worker")


def test_importing_the_client_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", IMPORT_CLIENT], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "redis" in loaded
    assert [name for name in loaded if any(f"{name}.".startswith(f"{heavy}.") for heavy in HEAVY)] == []


@cache
def imported(folder: str) -> frozenset[str]:
    """Names of the distributions that the modules of a folder import, at their top or at their first use."""
    modules = {module for file in (ROOT / folder).rglob("*.py") for module in imports_of(file)}
    known = packages_distributions()
    owners = {module: known.get(module.split(".")[0], []) for module in modules}
    return frozenset(canonicalize_name(name) for found in owners.values() for name in found) - NOT_IMPORTED


NOT_IMPORTED = {"langgraph-rq", "langgraph-checkpoint-conformance", "langgraph-checkpoint-sqlite"}
"""Ourselves, and what only tests import: their modules lie in LangGraph's namespace, and only that is compared."""


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


FOLDERS = {
    "producer/client": (), "producer/cli": (), "producer/doctor": (), "producer/gateway": ("api", "otel", "otel-grpc"),
    "producer/dashboard": ("dashboard",), "shared": ("worker", "otel", "otel-grpc"),
    "worker": ("worker", "otel", "otel-grpc", "encryption", "postgres"),
}  # fmt: skip
"""What is installed where the modules of a folder run."""


@pytest.mark.parametrize(("folder", "extras"), FOLDERS.items(), ids=FOLDERS)
def test_each_part_imports_only_what_its_extra_brings(folder, extras):
    used = imported(folder)
    assert len(used) > 1
    assert used - brought_by(*extras) == set()


@pytest.mark.parametrize("extra", ["", "worker", "api", "dashboard", "encryption", "postgres"])
def test_each_requirement_is_imported_by_some_module(extra):
    used = {name for folder in PACKAGES for name in imported(folder)} | NEEDED_BY_OTHERS.keys()
    assert names(EXTRAS[extra] if extra else PROJECT["dependencies"]) - used == set()
