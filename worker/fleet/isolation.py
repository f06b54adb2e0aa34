"""Run a suspect, a task beside which workers have died twice, in a process of its own.

A crash makes suspects of all that ran beside it. Apart from them it shows whose fault it was: a task that ends its own
process too is `poisoned`, every other one ends as it would have ended anyway. The processes are forked from the
worker's nursery; nothing of the worker's own memory gets into them.
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
from langgraph_rq.shared.queue.task_queue import Claimed
from langgraph_rq.shared.settings import RedactionSettings, RedisSettings, WorkerSettings, load
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import configure, get_logger
from langgraph_rq.worker.fleet.fork_server import DIED, Nursery
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.result import Ended, Result, write_result
from langgraph_rq.worker.task.run import Released, run_task

SUSPECT_CRASHES = 2
"""Workers that died under a task before it is run apart."""

_AT_ONCE = 4
_START_S = 60.0
_LATE_S = 5.0
"""After its deadline a suspect that has not ended by itself gets so long."""
_NOT_STARTED_MS = 1_000
_LISTEN_S = 0.2

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Order:
    """What the process is to run, and with what."""

    claimed: Claimed
    worker: str
    settings: WorkerSettings
    redis: RedisSettings


class Suspects:
    """Runs suspects for one worker process, a few at once."""

    def __init__(self, nursery: Nursery, settings: WorkerSettings, redis: RedisSettings, result_bytes: int) -> None:
        self.nursery = nursery
        self._settings = settings
        self._redis = redis
        self._result_bytes = result_bytes
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def run(self, claimed: Claimed, worker: str) -> Ended | Released | None:
        """Run the suspect and answer as `run_task` does. Cancelled, it ends the process."""
        waiting_since = time.monotonic()
        async with self._turns:
            waited_ms = round((time.monotonic() - waiting_since) * 1000)
            claimed = replace(claimed, claimed_at_ms=claimed.claimed_at_ms + waited_ms)
            try:
                connection = self.nursery.fork()
                connection.send(_Order(claimed, worker, self._settings, self._redis))
            except OSError as error:  # too many processes or files: not the task's fault
                return Released(_NOT_STARTED_MS, f"its process could not be started: {error}")
            is_over = threading.Event()
            listening = asyncio.get_running_loop().run_in_executor(
                None, self._listen, connection, is_over, claimed, worker
            )
            try:
                return await asyncio.shield(listening)
            finally:
                is_over.set()  # the thread closes the connection, which ends the process

    def _listen(
        self, connection: Connection, is_over: threading.Event, claimed: Claimed, worker: str
    ) -> Ended | Released | None:
        """Wait for the process' answer or its death; says which node it was in."""
        started = time.monotonic()
        give_up_at = started + _START_S + (claimed.deadline_at_ms - claimed.claimed_at_ms) / 1000 + _LATE_S
        has_begun, node, exit_code = False, None, 0
        with connection, suppress(EOFError, OSError):
            while not is_over.is_set() and time.monotonic() < give_up_at:
                if not connection.poll(_LISTEN_S):
                    continue
                kind, value = connection.recv()
                if kind == "ended":
                    return value  # type: ignore[no-any-return]
                if kind == DIED:
                    exit_code = value
                    break
                has_begun, node = True, value
        if is_over.is_set():  # nobody waits for it any more
            return None
        if time.monotonic() >= give_up_at:
            late = Result(State.TIMEOUT, error=(ErrorType.TIMEOUT, "the deadline passed in a process of its own"))
            return write_result(claimed, None, late, worker, self._result_bytes, started)
        if not has_begun:
            return Released(_NOT_STARTED_MS, f"its process could not be started: {_death(exit_code)}")
        where = f"in node {node!r}" if node else "before its first node"
        message = f"the task ended {claimed.crashes + 1} processes, the last one its own, {where}: "
        _log.error("task.poisoned", task_id=claimed.id, node=node, exit_code=exit_code)
        poisoned = Result(State.ERROR, error=(ErrorType.POISONED, message + _death(exit_code)))
        return write_result(claimed, None, poisoned, worker, self._result_bytes, started)


def _death(exit_code: int) -> str:
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


class _NodeTeller(BaseCallbackHandler):
    """Tells the worker which node starts, so that it can name the one that ended the process."""

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

    def end(self, outcome: Ended | Released | None) -> None:
        """Send how the task ended; whatever thread a sync node left behind is not heard any more."""
        self._send("ended", outcome)

    def _send(self, kind: str, value: Any) -> None:
        with self._lock:
            if not self._has_ended:
                self._has_ended = kind == "ended"
                self._sender.send((kind, value))


def run_suspect(connection: Connection) -> None:
    """Do in the process of its own what the worker does with any task.

    Ctrl-C, and systemd when it stops a service, signal all processes of a worker. The worker drains, so this one, which
    ignores both, goes on until the worker is gone: its end would be taken for the task's fault.
    """
    order: _Order = connection.recv()
    threading.Thread(target=_end_with_worker, args=(connection,), daemon=True).start()
    configure(order.settings.log_level, redactor=load(RedactionSettings).redactor())
    asyncio.run(_run(connection, order))


async def _run(sender: Connection, order: _Order) -> None:
    from langgraph_rq.worker.context import open_context  # noqa: PLC0415 - it imports the graphs' libraries, as the parent has

    teller = _NodeTeller(sender)
    async with open_context(order.settings, order.redis, callbacks=(teller,)) as context:
        sender.send(("node", None))
        attempt = Attempt.of(order.claimed, order.worker, context)
        attempt.enter()
        outcome: Ended | Released | None
        try:
            outcome = await run_task(attempt)
        except RedisError as error:
            outcome = Released(_NOT_STARTED_MS, f"Redis is away: {error}")
        with suppress(Exception):  # whatever cannot be told, the task must end
            if spans := attempt.spans_call(outcome if isinstance(outcome, Ended) else None):
                await scripts.run(context.redis, spans)
        teller.end(outcome)


def _end_with_worker(connection: Connection) -> None:
    """Wait for the worker's end of the connection to close, which the kernel sees to even after kill -9."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
