"""What a user installs into: the archives, built from this checkout, and virtual environments without it."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from shutil import which
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.installation import ROOT, clean_environment

PACKAGES = ("producer", "shared", "worker")
"""The folders at the top of the checkout that become packages inside langgraph_rq."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def brought_by(*extras: str) -> set[str]:
    """Names of the distributions that `pip install 'langgraph-rq[EXTRAS]'` brings, itself excluded."""
    found: set[str] = set()
    left = [("langgraph-rq", frozenset(extras))]
    while left:
        name, wanted = left.pop()
        for line in required_by(name):
            requirement = Requirement(line)
            applies = [requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in ("", *wanted)]
            needed = canonicalize_name(requirement.name)
            if any(applies) and needed not in found:
                found.add(needed)
                left.append((needed, frozenset(requirement.extras)))
    return found


def required_by(name: str) -> list[str]:
    if name != "langgraph-rq":
        return distribution(name).requires or []
    # As pyproject.toml says now: what is installed may be older.
    of_extras = [
        f"{line}{' and' if ';' in line else ';'} extra == '{extra}'"
        for extra, lines in EXTRAS.items()
        for line in lines
    ]
    return [*PROJECT["dependencies"], *of_extras]


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


class BareEnvironment:
    """A virtual environment of its own Python, into which the index's client installs the wheel as a user would.

    Args:
        python: The interpreter.
        folder: Where the environment is made.
        wheel: What is installed, with the extra `worker`, at the versions that requirements.lock names.
    """

    def __init__(self, python: Path, folder: Path, wheel: Path) -> None:
        subprocess.run([python, "-m", "venv", folder], check=True, env=clean_environment({}))
        self.bin = folder / "bin"
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(self.bin / "python")]
        locked = ["--constraints", str(ROOT / "requirements.lock")]
        subprocess.run([*uv, *locked, f"langgraph-rq[worker] @ {wheel.as_uri()}"], check=True, cwd=folder)


def find_python(version: str) -> Path | None:
    """Find an interpreter of this version, on the path or beside pyenv's; None: this machine has none."""
    on_path = which(f"python{version}")
    candidates = [*([on_path] if on_path else []), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    return next((Path(one) for one in candidates if is_version(one, version)), None)


def is_version(python: str | Path, version: str) -> bool:
    """Say whether it starts (a shim may not) and is of this version."""
    command = "import sys; sys.exit('{}.{}'.format(*sys.version_info) != sys.argv[1])"
    return subprocess.run([python, "-c", command, version], capture_output=True, check=False).returncode == 0
