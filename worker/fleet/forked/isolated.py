"""What a child process does: run a group of tasks as a worker would, and send the worker how each one ended.

A task that ends the process ends it for the whole group, which the worker sees. One that blocks the event loop is found
and ends as `graph_error`; the others go back to the queue, since nothing can run in this process any more.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from redis.exceptions import RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE, AT_ONCE, keep_call
from langgraph_rq.shared.settings import RedactionSettings, RedisSettings, WorkerSettings, load
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import configure, get_logger
from langgraph_rq.shared.telemetry.tracer_provider import flush
from langgraph_rq.worker.fleet.forked.forks import kept_from_forks
from langgraph_rq.worker.fleet.loop_watch import LOOK_S, LoopWatch
from langgraph_rq.worker.fleet.node_threads import NodeThreads
from langgraph_rq.worker.fleet.processes import run_past_exits
from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.task.attempt import Attempt, error_of
from langgraph_rq.worker.task.result import Ended, Result, usage_of, write_result
from langgraph_rq.worker.task.run import Released, run_task
from langgraph_rq.worker.task.run_context import RunContext

BEGUN, NODE, ENDED = "begun", "node", "ended"
"""Messages to the worker, (kind, task id, value): the graphs are loaded; a node begins; a task's outcome."""
CANCEL = "cancel"
"""A message to the child, (kind, task id): the task is not this worker's any more, or was cancelled."""

_FLUSH_S = 2.0
"""How long a child exports its spans before it sends an outcome."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """The first message to a child: what to run, and with which settings."""

    tasks: Sequence[tuple[Claimed, str]]
    """Each with the name under which its worker claimed it."""
    settings: WorkerSettings
    redis: RedisSettings
    sent_at: float = field(default_factory=time.monotonic)
    """On the monotonic clock, which is the same in all processes of a host."""


class _Messages(BaseCallbackHandler):
    """The child's messages: each node that starts, so that a crash can be attributed to it; each task's outcome."""

    run_inline = True

    def __init__(self, sender: Connection) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._ended: set[str] = set()

    def on_chain_start(self, *_args: Any, metadata: dict[str, Any] | None = None, **_more: Any) -> None:
        """Send the node's name."""
        node, task = (metadata or {}).get("langgraph_node"), current_task.get()
        if node and task and task.task_id:
            self._send(NODE, task.task_id, node)

    def begin(self) -> None:
        """Send that the graphs are loaded: from here on a crash is a task's fault."""
        self._send(BEGUN, "", None)

    def end(self, task_id: str, outcome: Ended | Released | Exception | None) -> None:
        """Send an outcome. It is the task's last message, also where a thread of a sync node still runs."""
        self._send(ENDED, task_id, outcome)

    def _send(self, kind: str, task_id: str, value: Any) -> None:
        with self._lock:
            if task_id in self._ended:
                return
            if kind == ENDED:
                self._ended.add(task_id)
            self._sender.send((kind, task_id, value))


def run_isolated(connection: Connection, give_signs: Callable[[], None]) -> None:
    """Run a group of tasks in a child process: what the fork server's children do.

    Ctrl-C, and systemd when it stops a service, signal all processes of a worker. The worker then drains, so a child
    ignores both signals and continues until the worker is gone; its death would be counted as a task's fault.
    """
    order: Order = connection.recv()
    configure(order.settings.log_level, redactor=load(RedactionSettings).redactor())
    with asyncio.Runner() as runner:
        run_past_exits(runner.get_loop(), _run(connection, give_signs, order))


async def _run(connection: Connection, give_signs: Callable[[], None], order: Order) -> None:
    from langgraph_rq.worker.context import open_context  # noqa: PLC0415 - it imports the graphs' libraries, as the parent has

    loop, running = asyncio.get_running_loop(), dict[str, asyncio.Task[None] | None]()
    threading.Thread(target=_listen, args=(connection, loop, running), daemon=True).start()
    loop.set_default_executor(NodeThreads(len(order.tasks)))
    messages = _Messages(connection)
    async with open_context(order.settings, order.redis, callbacks=(messages,)) as context:
        messages.begin()
        give_signs()
        passed_ms = round((time.monotonic() - order.sent_at) * 1000)
        attempts = {
            claimed.id: Attempt.of(replace(claimed, claimed_at_ms=claimed.claimed_at_ms + passed_ms), worker, context)
            for claimed, worker in order.tasks
        }
        watch = LoopWatch(loop)
        threading.Thread(target=_end_when_blocked, args=(watch, attempts, messages), daemon=True).start()
        recorder = asyncio.create_task(_record_waits(attempts.values(), context))
        for task_id in attempts.keys() - running.keys():
            running[task_id] = asyncio.create_task(_run_one(attempts[task_id], messages))
        with kept_from_forks():
            await asyncio.gather(*filter(None, running.values()), return_exceptions=True)
        recorder.cancel()


async def _run_one(attempt: Attempt, messages: _Messages) -> None:
    attempt.enter()
    outcome: Ended | Released | Exception | None
    try:
        outcome = await run_task(attempt)
    except RedisError as error:
        outcome = Released(AFTER_OUTAGE, f"Redis is away: {error}")
    except Exception as error:  # the worker ends the task; an exception's own type may not be known there
        _log.exception("task.broken")
        outcome = RuntimeError(repr(error))
    ended = outcome if isinstance(outcome, Ended) else None
    attempt.leave_graph(ended)
    attempt.end(error_of(ended))
    await asyncio.to_thread(flush, _FLUSH_S)  # the last message ends this process
    messages.end(attempt.claimed.id, outcome)


async def _record_waits(attempts: Collection[Attempt], context: RunContext) -> None:
    """Record what attempts wait for in this process' memory, as a worker does; never ends."""
    loop, changed, recorded = asyncio.get_running_loop(), asyncio.Event(), dict[str, str]()
    context.guards.kept.on_change = partial(loop.call_soon_threadsafe, changed.set)
    while True:
        await changed.wait()
        changed.clear()
        for attempt in attempts:
            claimed, thing = attempt.claimed, attempt.waits.thing
            if thing != recorded.get(claimed.id, ""):
                with suppress(RedisError):  # it is only shown
                    await scripts.run(context.redis, keep_call(claimed.id, claimed.epoch, attempt.worker, thing))
                    recorded[claimed.id] = thing


def _end_when_blocked(watch: LoopWatch, attempts: dict[str, Attempt], messages: _Messages) -> None:
    """End the group when a task blocks the loop for as long as would cost a worker its lease. Runs in a thread."""
    started = time.monotonic()
    while not watch.is_stuck:
        time.sleep(LOOK_S)
        try:
            watch.look()
        except RuntimeError:  # the loop is closed
            return
    blocker = watch.blocker()
    attempt = attempts.get((blocker.task and blocker.task.task_id) or "")
    if attempt is None:
        if len(attempts) > 1:
            os._exit(1)  # smaller groups will show which one it was
        (attempt,) = attempts.values()
    for other in attempts.values():
        other.is_over = True
    result = Result(
        State.ERROR,
        error=(ErrorType.GRAPH_ERROR, f"blocked the event loop in {blocker.line}"),
        metadata=usage_of(attempt),
    )
    limit = attempt.context.result_bytes
    messages.end(
        attempt.claimed.id, write_result(attempt.claimed, attempt.task, result, attempt.worker, limit, started)
    )
    for task_id in attempts:
        messages.end(task_id, Released(AT_ONCE, "another task blocked the event loop of its process"))


def _listen(
    connection: Connection, loop: asyncio.AbstractEventLoop, running: dict[str, "asyncio.Task[None] | None"]
) -> None:
    """Cancel the tasks that the worker names. End this process when the worker's end of the connection closes.

    The kernel closes it even after kill -9.
    """
    with suppress(EOFError, OSError):
        while True:
            _kind, task_id = connection.recv()
            loop.call_soon_threadsafe(_cancel, running, task_id)
    os._exit(1)


def _cancel(running: dict[str, "asyncio.Task[None] | None"], task_id: str) -> None:
    if task := running.setdefault(task_id, None):  # None: it has not begun, and never will
        task.cancel()
