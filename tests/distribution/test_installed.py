"""The installed package: its names, its data files, its commands, and how little a producer needs."""

from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.distribution.environments import PACKAGES, Environment, brought_by
from tests.installation import ROOT

COMMANDS = ("langgraph-producer", "langgraph-worker")
LIST_NAMES = """
from importlib.metadata import distribution
for file in distribution("langgraph-rq").files:
    print(file.parts[0])
"""
LIST_FILES = """
from pathlib import Path
import langgraph_rq
root = Path(langgraph_rq.__file__).parent
for file in root.rglob("*.*"):
    if "__pycache__" not in file.parts:
        print(file.relative_to(root))
"""
IMPORT_ALL_MODULES = """
from importlib import import_module
from pkgutil import walk_packages
import langgraph_rq
for module in walk_packages(langgraph_rq.__path__, "langgraph_rq."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
"""
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


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("sdist", "repository_zip")]


@pytest.fixture(scope="module", params=["checkout", *SLOW])
def installed(request, tmp_path_factory) -> Environment:
    """The package, installed by pip from each form in which its sources are handed on."""
    source = ROOT if request.param == "checkout" else request.getfixturevalue(request.param)
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(str(source))
    return environment


@pytest.fixture(scope="module")
def editable(tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install("--editable", str(ROOT))
    return environment


def files(pattern: str) -> set[str]:
    """Paths of the checkout's files inside the package."""
    found = (file for package in PACKAGES for file in (ROOT / package).rglob(pattern))
    return {str(file.relative_to(ROOT)) for file in found if "__pycache__" not in file.parts}


def test_only_top_level_name_is_ours(installed):
    tops = set(installed.run("python", "-c", LIST_NAMES).split())
    assert {top for top in tops if top != ".." and not top.endswith(".dist-info")} == {"langgraph_rq"}


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_of_the_checkout_are_no_packages_of_their_own(installed, package):
    done = installed.attempt("python", "-c", f"import {package}")
    assert f"ModuleNotFoundError: No module named '{package}'" in done.stderr


def test_package_is_complete_and_is_the_installed_one(installed):
    found = installed.run("python", "-c", "import langgraph_rq; print(langgraph_rq.__file__)").strip()
    assert Path(found).is_relative_to(installed.packages)
    listed = set(installed.run("python", "-c", LIST_FILES).splitlines())
    assert listed == files("*.*") | {"__init__.py", "py.typed"}


def test_every_module_can_be_imported(installed_wheel):
    installed_wheel.run("python", "-c", IMPORT_ALL_MODULES)


def test_package_finds_its_lua_scripts(installed_wheel):
    loaded = installed_wheel.run("python", "-c", LOAD_ALL_SCRIPTS)
    assert len(loaded.splitlines()) == len(files("*.lua")) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_explain_themselves(installed, command):
    explained(installed, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_an_editable_installation_explain_themselves(editable, command):
    explained(editable, command)


def explained(environment: Environment, command: str) -> None:
    assert environment.run(command, "--version").startswith(f"{command}, version ")
    shown = environment.run(command, "--help")
    assert shown.startswith(f"Usage: {command} ")
    assert "Exit codes:" in shown


def test_editable_installation_runs_the_checkout_under_one_name(editable):
    found = editable.run("python", "-c", "import langgraph_rq.shared as s; print(s.__file__)").strip()
    assert Path(found) == ROOT / "langgraph_rq/shared/__init__.py"
    listed = set(editable.run("python", "-c", LIST_NAMES).split())
    assert {name for name in listed if name != ".." and not name.endswith(".dist-info")} == {"_langgraph_rq.pth"}


def test_producer_works_with_what_the_base_install_brings_and_nothing_else(installed_wheel):
    base = brought_by()
    others = [
        module
        for module, names in packages_distributions().items()
        if module != "langgraph_rq" and not base & {canonicalize_name(name) for name in names}
    ]
    assert {"langgraph", "fastapi", "orjson", "rq", "pytest"} <= set(others)
    assert installed_wheel.run("python", "-c", IMPORT_PRODUCER_WITHOUT, *others) == "assistant\n"
