"""What a user installs into: the archives, built from this checkout, and virtual environments without it."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Literal

from tests.installation import clean_environment

PACKAGES = ("producer", "shared", "worker")
"""The folders at the top of the checkout that become packages inside langgraph_rq."""


def build(target: Literal["wheel", "sdist"], source: Path, folder: Path) -> Path:
    """Build an archive from the files in `source`, offline."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


class Environment:
    """A virtual environment that sees the dependencies of the one that runs the tests, but not the checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        # Python reads no .pth files in a folder that it knows from a .pth file: so the checkout stays out of the path.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def install(self, *source: str) -> None:
        """Install our package and nothing else, without a package index."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
        subprocess.run([*pip, *options, *source], check=True, env=clean_environment({}))

    def run(self, command: str, *arguments: str) -> str:
        """Run one of the environment's commands away from the checkout and return what it prints."""
        done = self.attempt(command, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the environment's commands away from the checkout."""
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.bin,
            env=clean_environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
