"""The wheel, installed away from the checkout: its data files, its commands, and how little a producer needs."""

import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.installation import ROOT, clean_environment

FOLDERS = ("producer", "worker", "shared")
LOAD_ALL_SCRIPTS = """
from pathlib import Path
import langgraph_rq
from langgraph_rq.shared.connections.scripts import load_script
root = Path(langgraph_rq.__file__).parent
for file in root.rglob("*.lua"):
    print(load_script(str(file.relative_to(root).with_suffix(""))).name)
"""
IMPORT_PRODUCER_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # to import None is an error
import langgraph_rq, langgraph_rq.producer.cli.main
print(langgraph_rq.Client("redis://127.0.0.1:1/0").parse({"input": {}}).graph)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a folder of its own; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


def run_installed(folder: Path, *arguments: str) -> str:
    environment = clean_environment({"PYTHONPATH": str(folder)})
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(pattern: str) -> set[str]:
    """Names under which the files of the checkout stand in the package."""
    found = (file for folder in FOLDERS for file in (ROOT / folder).rglob(pattern))
    return {f"langgraph_rq/{file.relative_to(ROOT)}" for file in found if "__pycache__" not in file.parts}


def test_wheel_holds_every_module_and_every_script(wheel):
    shipped = set(ZipFile(wheel).namelist())
    expected = sources("*.*") | {"langgraph_rq/__init__.py", "langgraph_rq/py.typed"}
    assert expected - shipped == set()


def test_only_top_level_name_of_the_wheel_is_ours(wheel):
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"langgraph_rq"}


def test_wheel_says_its_license_and_its_python(wheel):
    metadata = next(name for name in ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    text = ZipFile(wheel).read(metadata).decode()
    assert re.search(r"^License-Expression: MIT$", text, re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3.11$", text, re.MULTILINE)


def test_installed_package_finds_its_lua_scripts(installed):
    loaded = run_installed(installed, "-c", LOAD_ALL_SCRIPTS)
    assert len(loaded.splitlines()) == len(sources("*.lua")) > 10


def test_installed_package_is_the_one_that_was_run(installed):
    found = run_installed(installed, "-c", "import langgraph_rq; print(langgraph_rq.__file__)").strip()
    assert Path(found).is_relative_to(installed)


@pytest.mark.parametrize("command", ["langgraph-producer", "langgraph-worker"])
def test_installed_commands_explain_themselves(installed, command):
    shown = run_installed(installed, str(installed / "bin" / command), "--help")
    assert shown.startswith(f"Usage: {command} ")
    assert "Exit codes:" in shown


def test_producer_imports_no_langgraph_langchain_or_fastapi():
    heavy = "('langgraph.', 'langchain', 'fastapi')"
    check = f"import sys; from langgraph_rq import Client; sys.exit(any(m.startswith({heavy}) for m in sys.modules))"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_producer_works_with_what_the_base_install_brings_and_nothing_else(installed):
    base = base_install()
    others = [
        module
        for module, names in packages_distributions().items()
        if module != "langgraph_rq" and not base & {canonicalize_name(name) for name in names}
    ]
    assert {"langgraph", "fastapi", "orjson", "pytest"} <= set(others)
    assert run_installed(installed, "-c", IMPORT_PRODUCER_WITHOUT, *others) == "assistant\n"


def base_install() -> set[str]:
    """Names of the distributions that `pip install langgraph-rq` without extras brings."""
    found: set[str] = set()
    left = [("langgraph-rq", frozenset[str]())]
    while left:
        name, extras = left.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            applies = [requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in ("", *extras)]
            needed = canonicalize_name(requirement.name)
            if any(applies) and needed not in found:
                found.add(needed)
                left.append((needed, frozenset(requirement.extras)))
    return found
