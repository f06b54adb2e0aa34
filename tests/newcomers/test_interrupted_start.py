"""Ctrl-C before a command has begun: it ends with 130, and not with a traceback through the libraries it imports."""

import json
import subprocess
import sys

import pytest

from tests.installation import START_TIMEOUT_S, clean_environment, start_worker

PRESS = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


def run(program: str, library: str, folder, *before: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that gets SIGINT when it imports a library, and does not go on after that."""
    (folder / f"{library}.py").write_text(PRESS + "print('imported', flush=True)\nos._exit(0)\n")
    return subprocess.run(
        [*before, sys.executable, "-P", "-m", f"langgraph_rq.{program}"],
        env=clean_environment({"PYTHONPATH": str(folder)}),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "library"),
    [("producer", "click"), ("producer", "redis"), ("worker", "click"), ("worker", "pydantic"), ("worker", "uvloop")],
)
def test_ctrl_c_while_a_library_is_imported_ends_the_command_quietly(program, library, tmp_path):
    done = run(program, library, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_command_goes_on_where_the_signal_is_ignored(tmp_path):
    done = run("producer", "click", tmp_path, "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


def test_ctrl_c_while_graphs_are_loaded_ends_the_worker_quietly(redis_url, tmp_path):
    (tmp_path / "slow.py").write_text(PRESS)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"g": "./slow.py:graph"}}))
    with start_worker(tmp_path, {"REDIS_URL": redis_url, "OPENAI_API_KEY": "unused"}) as worker:
        assert worker.process.wait(START_TIMEOUT_S) == 130
        assert not worker.said()
