"""The lines of README.md that make a graph of one's own and run it: typed as printed, with the installed wheel."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.distribution.environments import BareEnvironment, find_python
from tests.installation import ROOT
from tests.newcomers.user import REDIS_RUNS, WORKER_RUNS, User

LINES = re.findall(
    r"^```(sh|console) own_graph\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


def build_graph_and_ask_it(user: User, folder: Path) -> str:
    """Type the lines; returns what the last one prints."""
    (_, making), (_, running) = LINES
    user.run(making, folder)
    redis, worker, submit = (line.removeprefix("$ ") for line in running.splitlines())
    user.start(redis, folder / "hello", REDIS_RUNS)
    user.start(worker, folder / "hello", WORKER_RUNS)
    return user.run(submit, folder / "hello")


@contextmanager
def newcomer(home: Path, commands: Path) -> Iterator[User]:
    somebody = User(home, commands)
    try:
        yield somebody
    finally:
        somebody.leave()


def test_graph_of_ones_own_runs_with_the_lines_of_the_readme(installed_wheel, tmp_path_factory, tmp_path):
    assert len(list(filter(None, LINES[0][1].splitlines()))) <= 10
    with newcomer(tmp_path_factory.mktemp("u"), installed_wheel.bin) as user:
        assert "Hello, Ada!" in build_graph_and_ask_it(user, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_lines_of_the_readme_work_with_the_wheel_on_a_bare_python(version, wheel, tmp_path_factory, tmp_path):
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    environment = BareEnvironment(python, tmp_path_factory.mktemp("bare"), wheel)
    with newcomer(tmp_path_factory.mktemp("u"), environment.bin) as user:
        assert "Hello, Ada!" in build_graph_and_ask_it(user, tmp_path)
