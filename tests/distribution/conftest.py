"""The archives of this checkout, each built once."""

import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.distribution.environments import PACKAGES, Environment, build
from tests.installation import ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def repository_zip(sdist, tmp_path_factory) -> Path:
    """GitHub's .zip of the repository as pip unpacks it: a link becomes a text file that holds the link's target."""
    archive = tmp_path_factory.mktemp("zip") / "langgraph-rq-main.zip"
    with tarfile.open(sdist) as packed, ZipFile(archive, "w") as target:
        for member in packed.getmembers():
            name = member.name.partition("/")[2]
            if name != "PKG-INFO":
                target.writestr(f"langgraph-rq-main/{name}", packed.extractfile(member).read())
        for package in PACKAGES:
            link = Path("langgraph_rq", package)
            target.writestr(f"langgraph-rq-main/{link}", str((ROOT / link).readlink()))
    return archive


@pytest.fixture(scope="session")
def installed_wheel(wheel, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(str(wheel))
    return environment
