"""Wheel and sdist: what they hold, and that the same wheel comes out of each form of the sources."""

import re
import tarfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from readme_renderer import markdown

from tests.distribution.environments import PACKAGES, PROJECT, build
from tests.installation import ROOT

README = (ROOT / "README.md").read_text()
REPOSITORY = PROJECT["urls"]["Source"]


def sources() -> set[str]:
    """Names under which the files of the checkout are in the wheel."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.*"))
    ours = {f"langgraph_rq/{file.relative_to(ROOT)}" for file in files if "__pycache__" not in file.parts}
    return ours | {"langgraph_rq/__init__.py", "langgraph_rq/py.typed"}


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    (text,) = (text for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(text)


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


def test_wheel_says_what_an_index_shows_of_it(wheel):
    shown = metadata(wheel)
    assert (shown["License-Expression"], shown["Requires-Python"]) == ("MIT", ">=3.11")
    pythons = [one.rpartition(" :: ")[2] for one in shown.get_all("Classifier") if "Python :: 3." in one]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    links = dict(line.split(", ", 1) for line in shown.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} == links.keys()
    pages = [ROOT / url.partition("/blob/main/")[2] for url in links.values() if "/blob/main/" in url]
    assert [page for page in pages if not page.is_file()] == []


def test_readme_renders_on_an_index_with_links_that_lead_into_the_repository(wheel):
    shown = metadata(wheel)
    assert shown["Description-Content-Type"] == "text/markdown"
    html = markdown.render(shown.get_payload())  # None: it would be shown as plain text
    assert html
    assert all(heading in html for heading in re.findall(r"^## (.+)$", README, re.MULTILINE))
    targets = re.findall(r'href="([^"]+)"', html)
    relative = re.findall(r"\]\(([\w./#-]+)\)", README)
    assert len(relative) > 5
    assert [one for one in relative if f"{REPOSITORY}/blob/main/{one}" not in targets] == []
    assert [one for one in targets if not one.startswith(("https://", "#"))] == []


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
