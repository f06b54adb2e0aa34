"""`make demo`, as a newcomer runs it: it shows what it promises and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from re import MULTILINE

import psutil
import pytest

from examples.demo import QUESTIONS
from tests.installation import ROOT, clean_environment
from tests.waiting import until_sync


@pytest.fixture
def demo(tmp_path):
    """Run the demo in a terminal's process group, with a temporary folder of its own; that ends empty."""

    @contextmanager
    def run(**environment: str):
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo"],
            cwd=ROOT,
            env=clean_environment({"TMPDIR": str(tmp_path), **environment}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    yield run
    assert list(tmp_path.iterdir()) == []


def started_by(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def worker_of(process) -> list[psutil.Process]:
    found = []
    for one in started_by(process):
        with suppress(psutil.Error):  # a process that has just ended has no command line any more
            if one.cmdline()[1:3] == ["-m", "langgraph_rq.worker"]:
                found.append(one)
    return found


def test_demo_answers_all_questions_and_says_what_it_cost(demo):
    with demo() as process:
        until_sync(lambda: worker_of(process), 30)
        children = started_by(process)
        printed, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    first, header, *rows = printed.splitlines()
    assert first == "Model: an offline server, as OPENAI_API_KEY is not set: canned answers, real prices."
    assert header.split() == ["task", "complexity", "model", "tokens", "cost", "$", "time", "s", "status"]
    assert sum(row.rstrip().endswith("success") for row in rows) == 20
    assert [row.startswith(f"{question}  ") for row, question in zip(rows, QUESTIONS, strict=False)] == [True] * 20
    assert {row.split()[-6] for row in rows[:20]} == {"simple", "medium", "complex"}
    assert re.search(
        r"^20 of 20 succeeded in [\d.]+ s; [\d,]+ tokens would have cost \$0\.\d{4}\.$", printed, MULTILINE
    )
    assert all_gone(children)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_demo_ends_all_that_it_started(demo, number):
    with demo() as process:
        until_sync(lambda: worker_of(process), 30)
        children = started_by(process)
        os.killpg(process.pid, number)
        printed, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    assert printed.endswith("interrupted: everything that was started has been ended\n")
    assert all_gone(children)


def test_killed_demo_leaves_no_process_behind(demo):
    with demo() as process:
        until_sync(lambda: worker_of(process), 30)
        children = started_by(process)
        process.kill()
        until_sync(lambda: all_gone(children), 30)


def test_demo_with_a_wrong_setting_says_so_and_starts_nothing(demo):
    with demo(LGRQ_LEASE="8") as process:
        printed, errors = process.communicate()
    assert (process.returncode, printed) == (2, "")
    assert errors.startswith("error: LGRQ_LEASE: unknown setting")
