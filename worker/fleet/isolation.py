"""Run a task in its own child process after two workers crashed while running it, or one whose loop it blocked.

A crash does not show which of the tasks in flight caused it. Alone, a task that causes one crashes its own process and
ends as `poisoned`; one that blocks the event loop blocks its own, and ends as `graph_error`; every other task ends as
usual. The processes come from the worker's fork server, so they share none of the worker's memory.
"""

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from redis.exceptions import RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE, WORKER, Wait
from langgraph_rq.shared.settings import RedactionSettings, RedisSettings, WorkerSettings, load
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import configure, get_logger
from langgraph_rq.worker.fleet.fork_server import DIED, ForkServer
from langgraph_rq.worker.fleet.loop_watch import LOOK_S, LoopWatch
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.result import Ended, Result, usage_of, write_result
from langgraph_rq.worker.task.run import Released, run_task

ISOLATED_AFTER_CRASHES = 2
"""A task runs isolated after so many workers crashed while running it."""

_MOST_CHILDREN = 4
"""Isolated tasks of one worker at a time; the others wait."""
_GRACE_S = 5.0
"""A child that still runs so long after its deadline, and after the grace of its run, is ended."""
_START_AGAIN = Wait(WORKER, 1_000)
_POLL_S = 0.2
"""The thread that reads a child's messages checks this often whether they are still wanted."""

_log = get_logger(__name__)


def is_to_be_isolated(claimed: Claimed) -> bool:
    """Return whether a claimed task must not run beside others: it may be what ended its earlier workers."""
    return claimed.crashes >= ISOLATED_AFTER_CRASHES or (claimed.crashes > 0 and claimed.blocked_in != "")


@dataclass(frozen=True, slots=True)
class _Order:
    """The first message to a child: what to run, and with which settings."""

    claimed: Claimed
    worker: str
    settings: WorkerSettings
    redis: RedisSettings
    sent_at: float
    """On the monotonic clock, which is the same in all processes of a host."""


class Isolation:
    """Runs tasks in child processes, a few at a time.

    Args:
        fork_server: Forks the processes.
        settings: Of the worker; each child loads the graphs by them.
        redis: Where each child connects.
        result_bytes: Longest result document.
    """

    def __init__(
        self, fork_server: ForkServer, settings: WorkerSettings, redis: RedisSettings, result_bytes: int
    ) -> None:
        self.fork_server = fork_server
        self._settings = settings
        self._redis = redis
        self._result_bytes = result_bytes
        self._slots = asyncio.Semaphore(_MOST_CHILDREN)

    async def run(self, claimed: Claimed, worker: str) -> Ended | Released | None:
        """Run a task in a child process; returns what `run_task` returns. Cancelling it ends the process."""
        waiting_since = time.monotonic()
        try:
            async with asyncio.timeout((claimed.deadline_at_ms - claimed.claimed_at_ms) / 1000):
                await self._slots.acquire()
        except TimeoutError:
            return self._late(claimed, worker, waiting_since, "the deadline passed while other tasks ran isolated")
        try:
            return await self._run(_later(claimed, waiting_since), worker)
        finally:
            self._slots.release()

    async def _run(self, claimed: Claimed, worker: str) -> Ended | Released | None:
        try:
            connection = self.fork_server.fork()
            connection.send(_Order(claimed, worker, self._settings, self._redis, time.monotonic()))
        except OSError as error:  # too many processes or files: no fault of the task
            return Released(_START_AGAIN, f"its process could not be started: {error}")
        is_cancelled = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(
            None, self._read, connection, is_cancelled, claimed, worker
        )
        try:
            return await asyncio.shield(reading)
        finally:
            is_cancelled.set()  # the thread closes the connection, which ends the process

    def _read(
        self, connection: Connection, is_cancelled: threading.Event, claimed: Claimed, worker: str
    ) -> Ended | Released | None:
        """Read the child's messages until its outcome, its death or its deadline. Runs in a thread."""
        started = time.monotonic()
        remaining_s = max(0.0, (claimed.deadline_at_ms - claimed.claimed_at_ms) / 1000)
        give_up_at = started + remaining_s + self._settings.cancel_grace_s + _GRACE_S
        has_begun, node, exit_code = False, None, 0
        with connection, suppress(EOFError, OSError):
            while not is_cancelled.is_set() and time.monotonic() < give_up_at:
                if not connection.poll(_POLL_S):
                    continue
                kind, value = connection.recv()
                if kind == "ended":
                    return value  # type: ignore[no-any-return]
                if kind == DIED:
                    exit_code = value
                    break
                has_begun, node = True, value
        if is_cancelled.is_set():
            return None
        if time.monotonic() >= give_up_at:
            return self._late(claimed, worker, started, "the deadline passed in a process of its own")
        if not has_begun:
            return Released(_START_AGAIN, f"its process could not be started: {_death(exit_code)}")
        where = f"in node {node!r}" if node else "before its first node"
        message = f"the task ended {claimed.crashes + 1} processes, the last one its own, {where}: "
        _log.error("task.poisoned", task_id=claimed.id, node=node, exit_code=exit_code)
        poisoned = Result(State.ERROR, error=(ErrorType.POISONED, message + _death(exit_code)))
        return write_result(claimed, None, poisoned, worker, self._result_bytes, started)

    def _late(self, claimed: Claimed, worker: str, started: float, message: str) -> Ended:
        late = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, message))
        return write_result(claimed, None, late, worker, self._result_bytes, started)


def _later(claimed: Claimed, since: float) -> Claimed:
    """Count the time since an instant (monotonic) as part of the attempt, so that the deadline holds."""
    passed_ms = round((time.monotonic() - since) * 1000)
    return replace(claimed, claimed_at_ms=claimed.claimed_at_ms + passed_ms)


def _death(exit_code: int) -> str:
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


class _ChildMessages(BaseCallbackHandler):
    """A child's messages to the worker: each node that starts, so that a crash can be attributed to it; the outcome."""

    run_inline = True

    def __init__(self, sender: Connection) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._has_ended = False

    def on_chain_start(self, *_args: Any, metadata: dict[str, Any] | None = None, **_more: Any) -> None:
        """Send the node's name."""
        node = (metadata or {}).get("langgraph_node")
        if node:
            self._send("node", node)

    def begin(self) -> None:
        """Send that the graphs are loaded: from here on a crash is the task's."""
        self._send("node", None)

    def end(self, outcome: Ended | Released | None) -> None:
        """Send the outcome. It is the last message, also where a thread of a sync node still runs."""
        self._send("ended", outcome)

    def _send(self, kind: str, value: Any) -> None:
        with self._lock:
            if not self._has_ended:
                self._has_ended = kind == "ended"
                self._sender.send((kind, value))


def run_isolated(connection: Connection) -> None:
    """Run one task in a child process, as a worker would: what the fork server's children do.

    Ctrl-C, and systemd when it stops a service, signal all processes of a worker. The worker then drains, so a child
    ignores both signals and continues until the worker is gone; its death would be counted as the task's fault.
    """
    order: _Order = connection.recv()
    threading.Thread(target=_end_with_worker, args=(connection,), daemon=True).start()
    configure(order.settings.log_level, redactor=load(RedactionSettings).redactor())
    asyncio.run(_run(connection, order))


async def _run(sender: Connection, order: _Order) -> None:
    from langgraph_rq.worker.context import open_context  # noqa: PLC0415 - it imports the graphs' libraries, as the parent has

    messages = _ChildMessages(sender)
    async with open_context(order.settings, order.redis, callbacks=(messages,)) as context:
        messages.begin()
        attempt = Attempt.of(_later(order.claimed, order.sent_at), order.worker, context)
        attempt.enter()
        watch = LoopWatch(asyncio.get_running_loop())
        threading.Thread(target=_end_when_blocked, args=(watch, attempt, messages), daemon=True).start()
        outcome: Ended | Released | None
        try:
            outcome = await run_task(attempt)
        except RedisError as error:
            outcome = Released(AFTER_OUTAGE, f"Redis is away: {error}")
        with suppress(Exception):  # a record that cannot be written must not keep the task from ending
            if spans := attempt.spans_call(outcome if isinstance(outcome, Ended) else None):
                await scripts.run(context.redis, spans)
        messages.end(outcome)


def _end_when_blocked(watch: LoopWatch, attempt: Attempt, messages: _ChildMessages) -> None:
    """End the task when it blocks the loop for as long as would cost a worker its lease. Runs in a thread."""
    started = time.monotonic()
    while not watch.is_stuck:
        time.sleep(LOOK_S)
        try:
            watch.look()
        except RuntimeError:  # the loop is closed
            return
    attempt.is_over = True
    message = f"blocked the event loop in {watch.blocker().line}"
    result = Result(State.ERROR, error=(ErrorType.GRAPH_ERROR, message), metadata=usage_of(attempt))
    limit = attempt.context.result_bytes
    messages.end(write_result(attempt.claimed, attempt.task, result, attempt.worker, limit, started))


def _end_with_worker(connection: Connection) -> None:
    """End this process when the worker's end of the connection closes, which the kernel does even after kill -9."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
