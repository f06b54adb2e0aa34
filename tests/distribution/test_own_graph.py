"""The lines of README.md that make a graph of one's own and run it: typed as printed, with the installed wheel."""

import re

import pytest

from tests.installation import ROOT
from tests.newcomers.user import REDIS_RUNS, WORKER_RUNS, User

LINES = re.findall(
    r"^```(sh|console) own_graph\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def user(tmp_path_factory, installed_wheel):
    somebody = User(tmp_path_factory.mktemp("u"), installed_wheel.bin)
    yield somebody
    somebody.leave()


def test_graph_of_ones_own_runs_with_the_lines_of_the_readme(user, tmp_path):
    (_, making), (_, running) = LINES
    assert len(list(filter(None, making.splitlines()))) <= 10
    user.run(making, tmp_path)
    redis, worker, submit = (line.removeprefix("$ ") for line in running.splitlines())
    user.start(redis, tmp_path / "hello", REDIS_RUNS)
    user.start(worker, tmp_path / "hello", WORKER_RUNS)
    assert "Hello, Ada!" in user.run(submit, tmp_path / "hello")
