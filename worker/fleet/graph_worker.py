"""The RQ worker that runs graphs: it claims tasks, keeps its lease, runs many at once, and drains when asked to end.

It registers as any RQ worker, so that rq-dashboard and `rq info` show it. It differs where stock RQ loses or doubles
work: one event loop keeps up to `concurrency` tasks in flight, and every change of a task's state is one fenced script.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async, open_sync
from langgraph_rq.shared.connections.held import Line
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.task_queue import (
    Claim,
    Claimed,
    Finished,
    Lease,
    cancel_call,
    claim_call,
    commands_channel,
    finish_call,
    queue_key,
    release_call,
    task_hash,
)
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.fleet.commands import listen
from langgraph_rq.worker.fleet.isolation import SUSPECT_CRASHES, Suspects
from langgraph_rq.worker.fleet.lease import LeaseKeeper
from langgraph_rq.worker.fleet.node_threads import NodeThreads
from langgraph_rq.worker.state.checkpoints import CheckpointOutageError
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.commits import Commits
from langgraph_rq.worker.task.result import Ended, Result, write_result
from langgraph_rq.worker.task.run import Released, run_task
from langgraph_rq.worker.task.run_context import RunContext

_CLAIM_BATCH = 16
"""Tasks taken at once: few enough that idle processes beside this one get their share."""
_BLOCK_S = 5
_OUTAGE_WAIT_S = 0.25
_SUSPENDED_WAIT_S = 1.0
_CANCEL_AGAIN_S = 0.2
_NOT_RUNNABLE_MS = 1_000
_SETTLE_S = 2.0
"""How long a worker that ends waits for records to be written that nobody else waits for."""

_log = get_logger(__name__)


@dataclass(slots=True)
class _Running:
    attempt: Attempt
    claimed_at: float
    task: "asyncio.Task[None]"
    is_committing: bool = False


class GraphWorker(BaseWorker):
    """Runs the tasks of `queues`, `concurrency` at a time, in the event loop that calls `run`.

    Args:
        queues: RQ queues, the most urgent first.
        redis_url: Redis; connections of its own are opened for blocking, for the lease, and for RQ's registers.
        context: What the tasks share.
        concurrency: Tasks in flight.
        drain_s: How long a worker that was asked to end waits for what runs, before it hands it back.
        checkpoint_ttl_s: How long the checkpoints of a task without thread outlive it.
        suspects: Runs tasks beside which workers died; None runs them here as any other.
        node_threads: Where sync nodes run. When half of them are stuck in tasks that have ended, the worker drains and
            ends, for another to be started.
    """

    def __init__(
        self,
        queues: Sequence[str],
        redis_url: str,
        context: RunContext,
        *,
        concurrency: int = 100,
        drain_s: float = 30.0,
        checkpoint_ttl_s: float = 60.0,
        suspects: Suspects | None = None,
        node_threads: NodeThreads | None = None,
    ) -> None:
        self._lease_ms = context.times.lease_ms
        super().__init__(
            list(queues),
            name=_new_name(),
            connection=open_sync(redis_url, connections=2),
            serializer=JSONSerializer,
            worker_ttl=self._lease_ms // 100,
        )
        self._redis_url = redis_url
        self._context = context
        self._concurrency = concurrency
        self._drain_s = drain_s
        self._checkpoint_ttl_s = checkpoint_ttl_s
        self._suspects = suspects
        self._node_threads = node_threads
        self._running: dict[tuple[str, int], _Running] = {}
        self._unknown: frozenset[str] = frozenset()
        self._claiming = asyncio.Lock()
        self._claims = Line(context.redis)
        self._commits = Commits(context.redis)
        self._blocking = open_async(redis_url, connections=len(self.queues) + 1, timeout_s=_BLOCK_S * 2)
        self._idle = asyncio.Event()
        self._changed = asyncio.Event()
        self._may_have_work = True
        self._stopping = False
        self.has_stuck_threads = False
        self._is_lost = False
        self._is_suspended = False
        self._lease: LeaseKeeper | None = None

    def _set_connection(self, connection: Redis) -> Redis:
        """Keep our timeouts; RQ would wait for seven minutes on a dead connection."""
        return connection

    def work(self, burst: bool = False, *_args: object, **_options: object) -> bool:
        """Run as RQ's workers do, in an event loop of its own; answers whether any task was run."""
        return asyncio.run(self.run(burst=burst)) > 0

    async def run(self, *, burst: bool = False) -> int:
        """Work until `stop` (or, with `burst`, until the queues are empty); answers how many tasks were started."""
        self._join()
        helpers = [asyncio.create_task(self._watch(queue_key(name))) for name in self.queue_names()]
        self._listen()
        try:
            started = await self._serve(burst=burst)
            await self._drain()
        finally:
            await _end([*helpers, self._listening])
            await self._leave()
        return started

    @property
    def is_held(self) -> bool:
        """Whether the lease surely holds, so that a model call may start."""
        return self._lease is not None and self._lease.is_held

    @property
    def is_fenced(self) -> bool:
        """Whether another worker has reaped this one, so that nothing of it may be written."""
        return self._is_lost

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end, so that it takes no further task."""
        return self._stopping

    @property
    def in_flight(self) -> int:
        """How many tasks run now."""
        return len(self._running)

    def stop(self) -> None:
        """Stop claiming; what runs gets `drain_s` to end. A second call hands everything back at once."""
        if self._stopping:
            self._drain_s = 0.0
        self._stopping = True
        self._changed.set()

    def _join(self) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state("idle")
        self._context.guards.is_held = lambda: self.is_held
        schemas = {name: json.dumps(loaded.input_schema) for name, loaded in self._context.graphs.items()}
        loop = asyncio.get_running_loop()
        self._lease = LeaseKeeper(
            self._redis_url,
            self.name,
            self._context.times,
            schemas,
            loop,
            self._reconcile,
            self._give_up,
            self._context.guards.budget,
        )
        self._lease.start()
        _log.info("worker.started", worker=self.name, queues=self.queue_names(), graphs=list(schemas))

    async def _leave(self) -> None:
        if self._context.audit:
            self._commits.send(*self._context.audit.unacknowledged(is_last=True))
        await self._commits.settle(_SETTLE_S)
        if self._lease:
            with ThreadPoolExecutor(1) as thread:  # the loop's own may all be stuck in sync nodes
                await asyncio.get_running_loop().run_in_executor(thread, self._lease.stop)
        with suppress(RedisError):
            self.register_death()  # type: ignore[no-untyped-call]
        self.connection.close()
        await self._blocking.aclose()
        _log.info("worker.stopped", worker=self.name)

    async def _serve(self, *, burst: bool) -> int:
        started = 0
        while not self._stopping:
            self._changed.clear()
            if self._is_lost:
                await self._rejoin()
            n = min(self._concurrency - len(self._running), _CLAIM_BATCH)
            if not self._may_have_work or n <= 0:
                await self._changed.wait()
                continue
            claim = await self._claim(n)
            started += len(claim.tasks) if claim else 0
            if claim and (claim.dropped or len(claim.tasks) == n):
                continue
            if burst and not self._running:
                break
            self._may_have_work = burst
            if claim is None:
                self._look_again_in(_OUTAGE_WAIT_S)
            elif claim.is_suspended or not claim.has_lease:
                self._look_again_in(_SUSPENDED_WAIT_S)
            else:
                self._idle.set()
            await self._changed.wait()
        return started

    async def _claim(self, n: int) -> Claim | None:
        """Claim and start up to `n` tasks; None: Redis is away."""
        async with self._claiming:
            try:
                claim = await scripts.run(
                    self._claims, claim_call(self.name, n, self.queue_names(), self._context.times)
                )
            except RedisError as error:
                _log.warning("claim.failed", worker=self.name, error=str(error))
                return None
            for claimed in claim.tasks:
                self._start(claimed)
        for task_id in claim.dropped:
            _log.warning("job.dropped", job_id=task_id, reason="no pending task stands behind this id")
        await self._show_suspension(is_suspended=claim.is_suspended)
        return claim

    async def _show_suspension(self, *, is_suspended: bool) -> None:
        if is_suspended != self._is_suspended:
            with suppress(RedisError):
                await self._context.redis.hset(self.key, "state", "suspended" if is_suspended else "idle")
                self._is_suspended = is_suspended

    def _look_again_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._may_have_work = True
        self._changed.set()

    async def _watch(self, queue: str) -> None:
        """Tell when there may be work, by blocking on the queue without taking anything from it.

        Moving the head of a list to its own head blocks while the list is empty and changes nothing else: no task is
        ever on its way to a worker that might die, and jobs of stock RQ wake us up too.
        """
        while True:
            await self._idle.wait()
            try:
                head = await self._blocking.blmove(queue, queue, _BLOCK_S, "LEFT", "LEFT")
            except RedisError as error:
                _log.warning("queue.not_watched", queue=queue, error=str(error))
                await asyncio.sleep(_OUTAGE_WAIT_S)
                head = b"perhaps"
            if head is not None:
                self._idle.clear()
                self._look_again()

    def _start(self, claimed: Claimed) -> None:
        key = (claimed.id, claimed.epoch)
        attempt = Attempt.of(claimed, self.name, self._context)
        task = asyncio.create_task(self._run_one(attempt))
        self._running[key] = _Running(attempt, time.monotonic(), task)
        task.add_done_callback(lambda _task: self._forget(key))

    def _forget(self, key: tuple[str, int]) -> None:
        self._running.pop(key, None)
        self._changed.set()

    async def _run_one(self, attempt: Attempt) -> None:
        claimed = attempt.claimed
        attempt.enter()
        running = self._running[claimed.id, claimed.epoch]
        try:
            outcome = await self._run_apart_or_here(attempt)
        except asyncio.CancelledError:
            outcome = Released(0, "the worker ends") if self._stopping else None
        except RedisError as error:
            outcome = Released(_NOT_RUNNABLE_MS, f"Redis is away: {error}")
        except Exception as error:  # a fault of ours must not let the task run again and again
            _log.exception("task.broken")
            broken = Result(State.ERROR, error=(ErrorType.GRAPH_ERROR, f"the worker failed: {error!r}"))
            outcome = write_result(claimed, None, broken, self.name, self._context.result_bytes, running.claimed_at)
        if outcome is None:
            _log.warning("task.lost", reason="another worker owns it")
            return
        running.is_committing = True
        if isinstance(outcome, Released):
            await self._release(claimed, outcome, attempt)
        else:
            await self._finish(claimed, outcome, attempt)

    async def _run_apart_or_here(self, attempt: Attempt) -> Ended | Released | None:
        claimed = attempt.claimed
        try:
            if self._suspects is None or claimed.crashes < SUSPECT_CRASHES or claimed.is_cancelled:
                return await run_task(attempt)
            _log.warning("task.isolated", crashes=claimed.crashes)
            return await self._suspects.run(claimed, attempt.worker)
        except asyncio.CancelledError:
            if not attempt.is_cancelled:
                raise
            return await run_task(attempt)

    async def _release(self, claimed: Claimed, released: Released, attempt: Attempt) -> None:
        self._send_records(attempt, None)
        call = release_call(
            claimed.id, claimed.epoch, claimed.queue, self.name, released.delay_ms, failed=released.failed
        )
        if await self._commits.commit(call):
            # A failed graph's own words may quote a prompt.
            reason = "the graph failed" if released.failed else released.reason
            _log.info("task.released", reason=reason, delay_ms=released.delay_ms)

    async def _finish(self, claimed: Claimed, ended: Ended, attempt: Attempt) -> None:
        self._send_records(attempt, ended)
        call = finish_call(
            claimed,
            self.name,
            ended.state,
            ended.document,
            self._context.times,
            failure=ended.failure,
            run_s=ended.run_s,
        )
        try:
            finished = await self._commits.commit(call)
        except Exception:
            self._commits.send(attempt.fenced_call())
            raise
        if finished is Finished.FENCED:
            self._commits.send(attempt.fenced_call())
            _log.warning("task.fenced", state=ended.state)
            return
        attempt.log_end(ended)
        if ended.spent_thread and self._context.checkpointer:
            try:
                await self._context.checkpointer.expire_thread(ended.spent_thread, self._checkpoint_ttl_s)
            except (RedisError, CheckpointOutageError) as error:  # they keep the longer TTL that they were written with
                _log.warning("checkpoints.not_expired", error=str(error))

    def _send_records(self, attempt: Attempt, ended: Ended | None) -> None:
        """Write what is told about an attempt in the round trip of its commit; None for `ended`: it is given back."""
        for record in (attempt.spans_call, attempt.audit_call):
            try:
                self._commits.send(record(ended))
            except Exception as error:  # whatever cannot be told, the task must end
                _log.warning("record.refused", error=type(error).__name__)

    async def _drain(self) -> None:
        """Wait for what runs, then cancel the rest, which hands itself back."""
        deadline = time.monotonic() + self._drain_s
        while self._running and (left_s := min(deadline - time.monotonic(), self._drain_s)) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)
        await self._cancel_all(self._lease_ms / 1000)

    async def _cancel_all(self, timeout_s: float) -> None:
        """Cancel what runs and wait for it to end; what is being written down is left to end by itself."""
        give_up_at = time.monotonic() + timeout_s
        await asyncio.sleep(0)  # one that was cancelled before its first step would not hand itself back
        while self._running and time.monotonic() < give_up_at:
            for running in self._running.values():
                if not running.is_committing:
                    running.task.cancel()
            await asyncio.wait([running.task for running in self._running.values()], timeout=_CANCEL_AGAIN_S)

    def _reconcile(self, lease: Lease, asked_at: float) -> None:
        """Compare what Redis says we own with what we run; a reply that was lost left one without the other."""
        here = {running.attempt.claimed.id for running in self._running.values()}
        unknown = lease.own - here
        for task_id in unknown & self._unknown:
            asyncio.get_running_loop().create_task(self._give_back(task_id))
        self._unknown = unknown
        if self._context.audit:
            self._commits.send(*self._context.audit.overdue())
        for running in self._running.values():
            gone = running.attempt.claimed.id not in lease.own and running.claimed_at < asked_at
            if gone and not running.is_committing:
                _log.warning("task.lost", task_id=running.attempt.claimed.id)
                running.task.cancel()
            elif running.attempt.claimed.id in lease.cancelled:
                self._cancel(running)
        self._end_when_threads_are_stuck()

    def _cancel(self, running: _Running) -> None:
        """Stop a task whose user cancelled it: async calls are cancelled, a sync node is left alone with its thread."""
        if not (running.is_committing or running.attempt.is_cancelled):
            running.attempt.is_cancelled = True
            running.task.cancel()

    def _end_when_threads_are_stuck(self) -> None:
        stuck = self._node_threads.abandoned if self._node_threads else 0
        if stuck > self._concurrency // 2 and not self._stopping:
            _log.error("worker.threads_stuck", worker=self.name, threads=stuck)
            self.has_stuck_threads = True
            self.stop()

    async def _give_back(self, task_id: str) -> None:
        """Release a task that a claim gave us without our hearing of it."""
        async with self._claiming:  # after a claim whose reply was only late we do know it
            if any(running.attempt.claimed.id == task_id for running in self._running.values()):
                return
            with suppress(RedisError):  # it is found again at the next renewals
                fields: Any = await self._context.redis.hmget(task_hash(task_id), "epoch", "queue")
                if None not in fields:
                    epoch, queue = int(fields[0]), fields[1].decode()
                    await scripts.run(self._context.redis, release_call(task_id, epoch, queue, self.name))
                    _log.warning("task.released", task_id=task_id, reason="the reply of its claim was lost", delay_ms=0)

    def _give_up(self) -> None:
        """Another worker has reaped this one: nothing that runs here is ours any more."""
        _log.warning("worker.fenced", worker=self.name)
        self._is_lost = True
        for running in self._running.values():
            running.task.cancel()
        self._changed.set()

    async def _rejoin(self) -> None:
        """Start again under a new name, so that nothing of the old one can be taken for ours."""
        await self._cancel_all(self._drain_s)
        self._is_lost, self._unknown = False, frozenset()
        with suppress(RedisError):
            self.register_death()  # type: ignore[no-untyped-call]
        self.name = _new_name()
        await _end([self._listening])
        self._listen()
        try:
            self._join()
        except RedisError as error:
            _log.warning("worker.not_rejoined", worker=self.name, error=str(error))
            self._is_lost = True
            self._look_again_in(_OUTAGE_WAIT_S)

    def _listen(self) -> None:
        channels = (self.pubsub_channel_name, commands_channel(self.name))
        self._listening = asyncio.create_task(listen(self._blocking, channels, self._obey))

    def _obey(self, command: str, task_id: str | None) -> None:
        """Do what was asked for on one of our channels: RQ's own, or the one on which `cancel` publishes."""
        if command == "shutdown":
            self.stop()
        elif command == "stop-job" and task_id:
            for running in self._running.values():
                if running.attempt.claimed.id == task_id:
                    asyncio.get_running_loop().create_task(self._flag_and_cancel(running))
        else:
            _log.warning("command.ignored", command=command[:64])

    async def _flag_and_cancel(self, running: _Running) -> None:
        """Cancel for good: RQ's stop command leaves no trace in Redis, and this worker may die before the task ends."""
        call = cancel_call(running.attempt.claimed.id, State.CANCELLED, b"", self._context.times)
        with suppress(RedisError):
            if await scripts.run(self._context.redis, call) is not State.RUNNING:
                return
        self._cancel(running)


async def _end(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel until all have ended: redis-py may swallow a cancel that comes while it connects."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
