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

PACKAGES = ("producer", "worker", "shared")
LOAD_ALL_SCRIPTS = """
from importlib.resources import files
from shared.lua import load_script
for package in ("shared", "worker"):
    for file in files(package).iterdir():
        if file.name.endswith(".lua"):
            assert load_script(file.name.removesuffix(".lua"), package), file
            print(package, file.name)
"""
IMPORT_PRODUCER_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # to import None is an error
import producer, producer.cli
print(producer.Client("redis://127.0.0.1:1/0").parse({"input": {}}).graph)
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
    return {str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob(pattern)}


def test_wheel_holds_every_module_and_every_script(wheel):
    shipped = set(ZipFile(wheel).namelist())
    expected = sources("*.py") | sources("*.lua") | sources("py.typed") | {"worker/langgraph.json"}
    assert expected - shipped == set()


def test_wheel_holds_our_three_packages_and_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_says_its_license_and_its_python(wheel):
    metadata = next(name for name in ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    text = ZipFile(wheel).read(metadata).decode()
    assert re.search(r"^License-Expression: MIT$", text, re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3.11$", text, re.MULTILINE)


def test_installed_package_finds_its_lua_scripts(installed):
    loaded = run_installed(installed, "-c", LOAD_ALL_SCRIPTS)
    assert len(loaded.splitlines()) == len(sources("*.lua")) > 10


def test_installed_package_is_the_one_that_was_run(installed):
    found = run_installed(installed, "-c", "import shared; print(shared.__file__)").strip()
    assert Path(found).is_relative_to(installed)


@pytest.mark.parametrize("command", ["langgraph-producer", "langgraph-worker"])
def test_installed_commands_explain_themselves(installed, command):
    shown = run_installed(installed, str(installed / "bin" / command), "--help")
    assert shown.startswith(f"Usage: {command} ")
    assert "Exit codes:" in shown


def test_producer_imports_no_langgraph_langchain_or_fastapi():
    heavy = "('langgraph', 'langchain', 'fastapi')"
    check = f"import producer, sys; assert not any(name.startswith({heavy}) for name in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_producer_works_with_what_the_base_install_brings_and_nothing_else(installed):
    base = base_install()
    others = [
        module
        for module, names in packages_distributions().items()
        if module not in PACKAGES and not base & {canonicalize_name(name) for name in names}
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
