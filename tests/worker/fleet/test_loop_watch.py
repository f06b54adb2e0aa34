"""A node that blocks the event loop is reported, and known by its line when it costs the worker its lease."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TypedDict

from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.worker.fleet import loop_watch
from langgraph_rq.worker.fleet.loop_watch import BLOCKED_S, LOOK_S, LoopWatch
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from tests.fleet import one_node_graph, worker
from tests.installation import ROOT, clean_environment
from tests.terminals import on_terminal
from tests.waiting import until

HERE = "tests/worker/fleet/test_loop_watch.py"


class Block(TypedDict, total=False):
    seconds: float


def line_of(text: str) -> str:
    source = Path(__file__).read_text().splitlines()
    return f"{HERE}:{next(i for i, line in enumerate(source, 1) if text in line)}"


async def block(state: Block) -> Block:
    time.sleep(state["seconds"])  # noqa: ASYNC251 - the node at fault
    return {}


async def test_node_that_blocks_the_event_loop_is_logged_with_its_line_and_counted(redis_url, lines):
    metrics = WorkerMetrics(lambda: 0)
    with metrics.listen(), Client(redis_url) as client:
        async with worker(redis_url, {"blocking": one_node_graph(block, Block)}):
            task_id = client.submit({"seconds": BLOCKED_S + 4 * LOOK_S}, graph="blocking").task_id
            assert (await asyncio.to_thread(client.wait, task_id, 30)).status is State.SUCCESS
    (blocked,) = lines.named("loop.blocked")
    assert blocked["line"] == line_of("the node at fault")
    assert (blocked["task_id"], blocked["graph"], blocked["node"]) == (task_id, "blocking", "node")
    labels = {"graph": "blocking", "node": "node"}
    assert metrics.registry.get_sample_value("agent_loop_blocked_total", labels) == 1


async def test_task_that_blocks_is_marked_before_its_worker_gives_up_its_lease(redis_url, monkeypatch, lines):
    monkeypatch.setattr(loop_watch, "STUCK_S", 6.0)
    with Client(redis_url) as client, Redis.from_url(redis_url, decode_responses=True) as raw:

        async def block_until_marked(_state: Block) -> Block:
            give_up_at = time.monotonic() + 20
            while not raw.hget(task_hash(task_id), "blocked_in") and time.monotonic() < give_up_at:
                time.sleep(0.01)  # noqa: ASYNC251 - blocks until the mark is there
            return {}

        graphs = {"blocking": one_node_graph(block_until_marked, Block), "other": one_node_graph(lambda _state: {})}
        async with worker(redis_url, graphs, times=QueueTimes(lease_ms=2_000)):
            other_id = client.submit({}, graph="other").task_id
            task_id = client.submit({}, graph="blocking").task_id
            await asyncio.to_thread(client.wait, task_id, 40)
        marked = raw.hget(task_hash(task_id), "blocked_in")
        assert marked.startswith(HERE)
        assert not lines.named("worker.stuck")
        assert not raw.hget(task_hash(other_id), "blocked_in")


STOPPED = "tests.programs.debugged_loop"


def test_loop_at_a_breakpoint_that_is_debugged_on_a_terminal_is_not_silent(tmp_path):
    with on_terminal([STOPPED], {"PYTHONPATH": str(ROOT)}, tmp_path) as terminal:
        terminal.wait_for("looked")
        os.write(terminal.keyboard, b"continue\n")
        terminal.wait_for("stuck: False")


def test_loop_at_a_breakpoint_without_a_terminal_is_silent(tmp_path):
    command = [sys.executable, "-P", "-m", STOPPED]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=clean_environment({"PYTHONPATH": str(ROOT)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert any("looked" in line for line in program.stdout)
        program.stdin.write("continue\n")
        program.stdin.close()
        assert program.stdout.read().strip() == "stuck: True"


async def test_worker_that_is_stuck_is_logged_once_however_long_it_lasts(redis_url, monkeypatch, lines):
    monkeypatch.setattr(loop_watch, "STUCK_S", 1.0)
    with Client(redis_url) as client:
        async with worker(redis_url, {"blocking": one_node_graph(block, Block)}, times=QueueTimes(lease_ms=1_000)):
            task_id = client.submit({"seconds": 3.0}, graph="blocking").task_id  # eight renewals after it is stuck
            await asyncio.to_thread(client.wait, task_id, 30)
    (stuck,) = lines.named("worker.stuck")
    assert stuck["line"] == line_of("the node at fault")


async def test_silence_while_the_watching_thread_was_held_up_too_is_not_counted(monkeypatch):
    now = 0.0
    watch = LoopWatch(asyncio.get_running_loop())
    monkeypatch.setattr(loop_watch.time, "monotonic", lambda: now)
    watch.look()
    now += 100.0
    watch.look()
    assert watch.silent_s <= 2 * LOOK_S


async def test_loop_that_runs_again_is_not_silent_any_more():
    watch = LoopWatch(asyncio.get_running_loop())
    looking = threading.Thread(target=lambda: [(watch.look(), time.sleep(LOOK_S)) for _ in range(4)])
    looking.start()
    looking.join()
    assert watch.silent_s > 0
    await until(lambda: watch.look() or watch.silent_s == 0)


async def test_line_of_the_graph_is_named_and_not_that_of_the_library_in_which_it_blocks():
    watch, found = LoopWatch(asyncio.get_running_loop()), []
    looking = threading.Timer(LOOK_S, lambda: found.append(watch.blocker()))
    looking.start()
    looking.join()  # blocks in threading.py
    assert [one.line for one in found] == [line_of("blocks in threading.py")]
