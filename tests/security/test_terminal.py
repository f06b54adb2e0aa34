"""Commands, on a terminal and in a pipe, against data that would control the reader's terminal."""

import ast
import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from typing import TypedDict

import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.control_characters import visible_json
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.telemetry.audit import STREAM
from langgraph_rq.worker.task.result import TASK_METADATA
from tests.fleet import one_node_graph, worker
from tests.installation import ROOT, clean_environment
from tests.newcomers.programs import produce

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\x90q\x9c\u202elive\u2066\r\x08\x7f\u2028\u2029"
    "[link=https://evil.example]here[/link] [red]\x1b[31m"
)
"""Title, clear screen, colours, a device control string, overrides of the direction, and markup of rich."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
OWN_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r(?=\n)")
"""What rich writes on a terminal, and what the terminal makes of a line feed."""


class Data(TypedDict, total=False):
    data: str
    answer: str
    task_metadata: dict


@pytest.fixture(params=["hostile answer", "hostile error"])
async def task_id(request, redis_url) -> str:
    def run(state: Data) -> Data:
        if request.param == "hostile error":
            raise ValueError(HOSTILE)
        return {"answer": f"first\n{HOSTILE}\n\tlast", TASK_METADATA: {"complexity": HOSTILE, "model": HOSTILE}}

    with Client(redis_url) as client:
        async with worker(redis_url, {"g": one_node_graph(run, Data)}, times=QueueTimes(lease_ms=2_000)):
            task_id = client.submit({"data": HOSTILE}, graph="g", stream=["values", "updates"]).task_id
            await asyncio.to_thread(client.wait, task_id, timeout_s=30)
    return task_id


def run_on_terminal(redis_url: str, *arguments: str) -> str:
    """Run a command on a terminal; returns what the terminal gets."""
    ours, theirs = pty.openpty()
    environment = clean_environment({"REDIS_URL": redis_url, "TERM": "xterm-256color", "PYTHONUTF8": "1"})
    process = subprocess.Popen(
        [sys.executable, "-m", "langgraph_rq.producer", *arguments], env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    got = b""
    while piece := _read(ours):
        got += piece
    process.wait(60)
    os.close(ours)
    return got.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.parametrize("command", ["result", "wait", "status", "events"])
def test_nothing_of_a_task_reaches_the_terminal_as_a_control_character(command, task_id, redis_url):
    done = produce(command, task_id, REDIS_URL=redis_url)
    assert "Traceback" not in done.stderr
    assert not CONTROL.search(done.stdout + done.stderr)
    if command != "status":
        assert "[link=https://evil.example]here[/link] [red]" in " ".join(done.stdout.split())
        assert r"\x1b" in done.stdout or r"\u001b" in done.stdout


def test_a_terminal_gets_the_colours_of_the_command_and_nothing_of_the_data(task_id, redis_url):
    got = run_on_terminal(redis_url, "result", task_id)
    assert OWN_COLOURS.search(got)
    rest = OWN_COLOURS.sub("", got)
    assert not CONTROL.search(rest)
    assert r"\x1b]0;owned" in rest.replace("\n", "")


def test_tables_of_many_results_are_safe_too(task_id, redis_url):
    done = produce("wait", task_id, task_id, REDIS_URL=redis_url)
    assert not CONTROL.search(done.stdout + done.stderr)


@pytest.mark.parametrize("command", ["result", "events"])
def test_json_means_the_same_and_has_no_control_character(command, task_id, redis_url):
    done = produce(command, task_id, "--json", REDIS_URL=redis_url)
    assert not CONTROL.search(done.stdout)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(HOSTILE in text for text in texts_of(documents))


def texts_of(value):
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts_of(item)


def test_entry_of_the_audit_log_cannot_forge_a_line_or_control_the_terminal(redis_url):
    with Redis.from_url(redis_url) as redis:
        details = json.dumps({"actor": HOSTILE, "note": "a\nb"})
        entry = {"at": "1", "seq": "1", "writer": f"w{HOSTILE}\nevery chain is whole", "action": HOSTILE}
        redis.xadd(STREAM, {**entry, "task": HOSTILE, "details": details, "mac": "x"})
    shown = produce("audit", REDIS_URL=redis_url)
    assert shown.code == 0, shown.stderr
    assert not CONTROL.search(shown.stdout)
    as_json = produce("audit", "--json", REDIS_URL=redis_url)
    assert not CONTROL.search(as_json.stdout)
    assert json.loads(as_json.stdout)["actor"] == HOSTILE


def test_error_is_one_line_whatever_was_given(redis_url):
    done = produce("breaker", "--reset", f"g{HOSTILE}\nerror: fake", REDIS_URL=redis_url)
    assert done.code == 4, done
    assert "error: fake" in done.stderr
    assert not CONTROL.search(done.stderr)
    assert done.stderr.count("\n") == 1


def test_one_module_only_writes_to_the_terminal():
    writers = re.compile(r"(click\.s?echo|(\w+\.)?Console|print|console\.print|sys\.std(out|err)\.write)\(")
    files = [file for folder in ("producer", "shared", "worker") for file in (ROOT / folder).rglob("*.py")]
    ours = [file for file in files if "dev" not in file.parts and file != ROOT / "shared/terminal.py"]
    calls = {
        f"{file.relative_to(ROOT)}: {ast.unparse(node)}"
        for file in ours
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and writers.match(ast.unparse(node))
    }
    assert calls == set()


def test_events_that_are_no_json_stay_on_their_line(redis_url):
    assert visible_json('{"a": "\x9b31m\u202e"}\n{"forged": 1}') == '{"a": "\\u009b31m\\u202e"}\\u000a{"forged": 1}'
