"""What a person gets wrong on the command line: one clear line, a code that says so, and nothing is ignored."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.queue.keys import task_hash
from tests.installation import clean_environment
from tests.terminals import on_terminal

DEEP = "[" * 100_000 + "]" * 100_000
"""More than Python's parser takes. Since 3.12 it takes ten thousand levels, which a task refuses by its own limit."""
ASK = ("submit", "--input", "{}")


def said(done) -> str:
    """Return the last line of an error that a command ended with."""
    assert done.exit_code == 2, repr(done.exception)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "--input", DEEP),
        (*ASK, "--metadata", DEEP),
        ("resume", "t-1", DEEP),
        ("resume", "t-1", "--answer", f"q={DEEP}"),
    ],
    ids=["input", "metadata", "value", "answer"],
)
def test_json_that_is_nested_too_deeply_is_an_error(run, arguments):
    assert "expected JSON, got: maximum recursion depth exceeded" in said(run(*arguments))


@pytest.mark.parametrize("command", [("wait", "t-1"), (*ASK, "--wait")], ids=["wait", "submit"])
def test_timeout_that_is_no_number_is_an_error(run, command):
    assert said(run(*command, "--timeout", "nan")) == "error: timeout_s: expected a number of seconds, got: nan"


@pytest.mark.parametrize("command", [ASK, ("resume", "t-1"), ("continue", "t-1")], ids=["submit", "resume", "continue"])
def test_timeout_without_a_wait_is_refused(run, redis_client, command):
    assert said(run(*command, "--timeout", "5")) == "Error: --timeout is how long --wait waits: give both"
    assert not redis_client.keys()


def test_file_that_is_not_text_is_an_error_of_its_line(run, tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b'{"input": {}}\n\xff\xfe\n')
    assert said(run("submit", "--file", str(file))).startswith("error: line 2: task: expected JSON, got: ")


@pytest.mark.parametrize("lines", ['{"input": {}}\r\n', '{"input": {}}\r\n{"input": {}}\r\n'])
def test_file_of_a_windows_editor_is_read(run, redis_client, lines, tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    done = run("submit", "--file", str(file))
    assert done.exit_code == 0, done.stderr
    for task_id in done.stdout.split():
        assert redis_client.exists(task_hash(task_id))


def test_standard_input_is_read_as_a_file_is(run, redis_client):
    done = CliRunner().invoke(main, ["submit", "--file", "-"], input=b'\xef\xbb\xbf{"input": {}, "task_id": "t-1"}')
    assert (done.exit_code, done.stdout) == (0, "t-1\n")


@pytest.mark.parametrize(
    "command", [("usage",), ("budget", "show"), ("budget", "set", "tenant", "5")], ids=["usage", "show", "set"]
)
def test_tenant_that_cannot_be_is_refused(run, redis_client, command):
    assert said(run(*command, "--tenant", "ACME")) == (
        "error: --tenant: expected lower-case letters and digits, at most 32, got: 'ACME'"
    )
    assert not redis_client.keys()


def test_empty_user_is_not_the_whole_fleet(run):
    assert said(run("usage", "--user", "")) == "error: --user: expected 1 to 256 characters, got: ''"


def test_export_to_where_no_file_can_be_is_an_error_also_of_an_empty_log(run, tmp_path):
    assert "No such file or directory" in said(run("audit", "--export", str(tmp_path / "none" / "log.jsonl")))


def test_results_that_are_there_are_shown_beside_an_unknown_task(run, redis_client):
    run(*ASK, "--id", "t-1")
    run("cancel", "t-1")
    done = run("wait", "t-1", "t-2")
    assert done.exit_code == 4
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["task", "t-1"]
    as_json = run("wait", "t-1", "t-2", "--json")
    assert json.loads(as_json.stdout)["task_id"] == "t-1"


def test_wait_names_each_unknown_task_beside_the_one_that_has_not_ended_in_time(run):
    run(*ASK, "--id", "t-1")
    done = run("wait", "t-2", "t-1", "t-3", "--timeout", "0.1")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 5
    assert [re.search("task '?(t-.)", line).group(1) for line in errors] == ["t-1", "t-2", "t-3"]


def test_lines_end_with_their_last_character(run):
    run(*ASK, "--id", "t-1")
    for command in (("status", "t-1"), ("workers",), ("usage",)):
        lines = run(*command).stdout.splitlines()
        assert lines == [line.rstrip() for line in lines]


def test_full_disk_is_one_error(redis_url):
    program = [sys.executable, "-P", "-m", "langgraph_rq.producer", "submit", "--input", "{}"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            program,
            env=clean_environment({"REDIS_URL": redis_url}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: what was done cannot be written: No space left on device"


def test_wait_that_is_interrupted_says_which_tasks_go_on(run, redis_url, tmp_path):
    run(*ASK, "--id", "t-1")
    with on_terminal(["langgraph_rq.producer", "wait", "t-1"], {"REDIS_URL": redis_url}, tmp_path) as terminal:
        terminal.wait_for("task t-1: no worker is alive")
        terminal.press_ctrl_c()
        terminal.wait_for("task t-1 goes on: `wait` waits again, `cancel` stops a task")
        assert terminal.process.wait(10) == 130
        assert not terminal.with_text("Aborted")


def test_command_on_a_terminal_says_that_redis_does_not_answer_before_it_gives_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0"
        with on_terminal(["langgraph_rq.producer", "status", "t-1"], {"REDIS_URL": url}, tmp_path) as terminal:
            terminal.wait_for("waiting for Redis, which does not answer: redis://***@127.0.0.1:")
            assert terminal.process.poll() is None
            assert not terminal.with_text("error")


def test_text_that_stdout_cannot_encode_is_escaped_and_the_same_value(run, redis_url):
    run(*ASK, "--id", "t-1", "--user", "Zoë 🙂")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "langgraph_rq.producer", "status", "t-1", "--json"],
        env=clean_environment({"REDIS_URL": redis_url, "PYTHONIOENCODING": "ascii"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["user_id"] == "Zoë 🙂"
