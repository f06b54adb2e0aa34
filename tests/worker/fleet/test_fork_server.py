"""The processes that a worker forks end when they should, whatever a node does in them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.queue.keys import WORKERS
from langgraph_rq.worker.fleet import loop_watch
from langgraph_rq.worker.fleet.forked import fork_server
from langgraph_rq.worker.fleet.forked.fork_server import ForkServer
from tests.fleet import one_node_graph, worker
from tests.waiting import until, until_sync


def test_fork_server_outlives_signals_that_come_as_soon_as_it_is_forked(monkeypatch):
    fork, test = os.fork, os.getpid()

    def fork_and_signal() -> int:
        pid = fork()
        if pid == 0 and os.getppid() == test:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        return pid

    monkeypatch.setattr(os, "fork", fork_and_signal)
    server = ForkServer.start(lambda connection, _: connection.send("alive"))
    with server.fork() as connection:
        assert connection.poll(60)
        assert connection.recv() == "alive"
    server.close()


def test_fork_server_outlives_a_library_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("raise TypeError('of another version')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fork_server, "_LIBRARIES", ["broken_library"])
    server = ForkServer.start(lambda connection, _: connection.send("alive"))
    with server.fork() as connection:
        assert connection.recv() == "alive"
    server.close()


HOLD_THE_LOCK = 're.match("(a+)+$", "a" * 60 + "b")'
"""What a node may do, and no thread runs beside it: a regular expression that backtracks."""


def test_child_that_does_not_see_the_end_of_its_connection_is_killed(monkeypatch):
    monkeypatch.setattr(fork_server, "_LEAVE_S", 0.1)

    def hang(connection: Connection, _give_signs: Callable[[], None]) -> None:
        connection.send(os.getpid())
        exec(HOLD_THE_LOCK, {"re": re})

    server = ForkServer.start(hang)
    with server.fork() as connection:
        child = psutil.Process(connection.recv())
    until_sync(lambda: not child.is_running(), 30)
    server.close()


PROGRAM = """
import os, re, signal, sys
from langgraph_rq.worker.fleet.forked import fork_server

fork_server._SILENT_S, fork_server._SIGN_S = 2.0, 0.1
"""

WITH_CHILD = f"""
def run(_connection, give_signs):
    give_signs()
    {HOLD_THE_LOCK}

with fork_server.ForkServer.start(run).fork() as connection:
    print(connection.recv())
"""

STOPPED_WORKER = f"""
fork_server.ForkServer.start(None).give_signs(lambda: False)
os.kill(os.getpid(), signal.SIGSTOP)
{HOLD_THE_LOCK}
"""

STUCK_WORKER = """
fork_server.ForkServer.start(None).give_signs(lambda: True)
signal.pause()
"""

STARTING_WORKER = """
server = fork_server.ForkServer.start(None)
signal.pause()
"""

STARTING_CHILD = f"""
def run(connection, give_signs):
    connection.send(os.getpid())
    {HOLD_THE_LOCK}

with fork_server.ForkServer.start(run).fork() as connection:
    print(connection.recv(), flush=True)
    signal.pause()
"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM + program], stdout=subprocess.PIPE, text=True)


def wait_until_it_has_looked(watcher: psutil.Process) -> None:
    """Wait for as many looks as it takes to kill a silent process, and some more."""

    def waits() -> int:
        threads = Path(f"/proc/{watcher.pid}/task").glob("*/status")
        return sum(int(re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", one.read_text())[1]) for one in threads)

    before = waits()
    until_sync(lambda: waits() > before + 25, 60)


def test_child_none_of_whose_threads_runs_is_killed():
    told, _ = start(WITH_CHILD).communicate(timeout=60)
    assert told.splitlines()[-1] == str((fork_server.DIED, -signal.SIGKILL))


def test_worker_none_of_whose_threads_runs_is_killed_but_not_one_that_was_stopped():
    with start(STOPPED_WORKER) as process:
        worker = psutil.Process(process.pid)
        until_sync(lambda: worker.status() == psutil.STATUS_STOPPED, 60)
        (server,) = worker.children()
        wait_until_it_has_looked(server)
        assert worker.status() == psutil.STATUS_STOPPED
        worker.resume()
        assert process.wait(60) == -signal.SIGKILL


def test_worker_that_is_stuck_is_killed():
    with start(STUCK_WORKER) as process:
        assert process.wait(60) == -signal.SIGKILL


def test_worker_and_child_that_have_not_begun_may_be_silent():
    with start(STARTING_WORKER) as starting, start(STARTING_CHILD) as parent:
        worker, child = psutil.Process(starting.pid), psutil.Process(int(parent.stdout.readline()))
        try:
            until_sync(worker.children, 30)
            for watcher in (worker.children()[0], child.parent()):
                wait_until_it_has_looked(watcher)
            assert psutil.STATUS_ZOMBIE not in (worker.status(), child.status())
        finally:
            for process in (worker, child, parent):
                process.kill()


def test_silence_while_its_watcher_did_not_run_is_no_reason_to_kill():
    with subprocess.Popen(["sleep", "60"]) as process:
        silence = fork_server._Silence(process.pid)
        for _ in range(2):
            silence.end()
            for _ in range(round(fork_server._SILENT_S / fork_server._SIGN_S) - 1):
                silence.go_on()
        assert process.poll() is None
        silence.go_on()
        assert process.wait(60) == -signal.SIGKILL


def test_process_that_cannot_be_killed_is_logged_once_for_each_silence(lines):
    """SIGKILL has no effect on a process that ended and was not waited for, as on process 1 of a container."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        silence = fork_server._Silence(process.pid)
        for _ in range(2):
            silence.end()
            for _ in range(3 * round(fork_server._SILENT_S / fork_server._SIGN_S)):
                silence.go_on()
    assert len(lines.named("process.killed")) == 2


@pytest.mark.parametrize("loses_lease", [False, True], ids=["with_lease", "that_it_loses_meanwhile"])
async def test_worker_is_stuck_while_a_node_blocks_its_loop(redis_url, monkeypatch, loses_lease):
    monkeypatch.setattr(loop_watch, "STUCK_S", 3.0 if loses_lease else 0.5)
    asked = []
    isolation = SimpleNamespace(fork_server=SimpleNamespace(is_gone=False, give_signs=asked.append))
    found = []

    async def block(_state):
        if loses_lease:
            with Redis.from_url(redis_url) as redis:
                redis.delete(WORKERS)
        with ThreadPoolExecutor() as thread:  # which is waited for here
            thread.submit(until_sync, asked[0], 30)
        found.append(asked[0]())
        return {}

    with Client(redis_url) as client:
        async with worker(redis_url, {"g": one_node_graph(block)}, isolation=isolation):
            await until(lambda: asked and not asked[0](), 30)
            client.submit({}, graph="g")
            await until(lambda: found[:1] == [True], 30)
            await until(lambda: not asked[0](), 30)
