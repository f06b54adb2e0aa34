"""Wheel and sdist: what they hold, and that the same wheel comes out of each form of the sources."""

import re
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.distribution.environments import PACKAGES, build
from tests.installation import ROOT


def sources() -> set[str]:
    """Names under which the files of the checkout are in the wheel."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.*"))
    ours = {f"langgraph_rq/{file.relative_to(ROOT)}" for file in files if "__pycache__" not in file.parts}
    return ours | {"langgraph_rq/__init__.py", "langgraph_rq/py.typed"}


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def unpack(archive: Path, folder: Path) -> Path:
    if archive.suffix == ".zip":
        with ZipFile(archive) as packed:
            packed.extractall(folder)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


def test_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert shipped == sources()
    assert {".py", ".lua", ".json", ".html", ".css", ".js", ".svg"} <= {Path(name).suffix for name in shipped}


def test_only_top_level_name_of_the_wheel_is_ours(wheel):
    tops = {name.partition("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"langgraph_rq"}


def test_wheel_states_its_license_and_its_python(wheel):
    (metadata,) = (text.decode() for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    assert re.search(r"^License-Expression: MIT$", metadata, re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3.11$", metadata, re.MULTILINE)


def test_sdist_holds_the_real_folders_and_no_links(sdist):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if not member.isfile()] == []
    names = {member.name.partition("/")[2] for member in members}
    in_packages = {str(Path(name).relative_to("langgraph_rq")) for name in sources() if name.count("/") > 1}
    assert in_packages <= names
    assert {name for name in names if name.startswith("langgraph_rq/")} == {
        "langgraph_rq/__init__.py",
        "langgraph_rq/py.typed",
    }
    assert {"tests/conftest.py", "docs/configuration.md", "Makefile", "requirements.lock"} <= names


@pytest.mark.parametrize("form", ["sdist", "repository_zip"])
def test_wheel_built_from_an_archive_equals_the_one_built_from_the_checkout(form, wheel, request, tmp_path):
    source = unpack(request.getfixturevalue(form), tmp_path / "source")
    assert contents(build("wheel", source, tmp_path / "dist")) == contents(wheel)
