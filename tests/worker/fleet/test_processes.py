"""What the parent of several worker processes makes of the ways in which they end."""

import asyncio
import subprocess
import sys

import pytest

from langgraph_rq.worker.fleet.processes import run_past_exits
from tests.installation import clean_environment

PROCESSES = """
import os, sys
from pathlib import Path
from langgraph_rq.worker.fleet import processes

def run():
    begun = sum(1 for one in Path.cwd().iterdir())
    Path(str(os.getpid())).touch()
    if begun < 2:
        {end}
    return 0

processes._RESTART_WAIT_S = 0.0
sys.exit(processes.run_processes(2, run))
"""


@pytest.fixture
def supervised(tmp_path):
    """Run two processes of which each of the first two ends so; returns the exit code and how many there were."""

    def run(end):
        program = [sys.executable, "-c", PROCESSES.format(end=end)]
        done = subprocess.run(program, cwd=tmp_path, env=clean_environment({}), timeout=60, check=False)
        return done.returncode, sum(1 for _ in tmp_path.iterdir())

    return run


@pytest.mark.parametrize("code", [0, 2, 3, 9])
def test_process_that_a_node_ends_is_replaced_whatever_its_code(supervised, code):
    ended, started = supervised(f"os._exit({code})")
    assert (ended, started >= 3) == (0, True)


@pytest.mark.parametrize("code", [2, 3])
def test_start_that_fails_ends_all_with_its_code(supervised, code):
    assert supervised(f"return {code}")[0] == code


def test_loop_that_a_node_stops_runs_on():
    with asyncio.Runner() as runner:

        async def main():
            runner.get_loop().stop()
            await asyncio.sleep(0)
            return "the end"

        assert run_past_exits(runner.get_loop(), main()) == "the end"
