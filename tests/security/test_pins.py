"""What is fetched to build and to run has a version: the same tomorrow as today."""

import re

import pytest
import yaml

from tests.installation import ROOT

SERVICES = yaml.safe_load(ROOT.joinpath("compose.yaml").read_text())["services"]
IMAGES = sorted({service["image"] for service in SERVICES.values() if "image" in service})
VERSIONED = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?")


@pytest.mark.parametrize("image", [image for image in IMAGES if not image.startswith("langgraph-rq:")])
def test_image_of_a_service_names_its_version(image):
    assert VERSIONED.fullmatch(image)


def test_base_image_and_installer_name_their_versions():
    dockerfile, makefile = (ROOT.joinpath(name).read_text() for name in ("Dockerfile", "Makefile"))
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(set(bases)) == 1
    assert VERSIONED.fullmatch(bases[0])
    installers = re.findall(r"install .*\buv(\S*)$", f"{dockerfile}\n{makefile}", re.MULTILINE)
    assert len(installers) == 2
    assert re.fullmatch(r"==\d+\.\d+\.\d+", installers[0])
    assert set(installers) == {installers[0]}


def test_every_library_is_locked_with_its_hashes():
    lock = ROOT.joinpath("requirements.lock").read_text().replace("\\\n", " ").splitlines()
    assert len(lock) > 100
    assert [line for line in lock if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
