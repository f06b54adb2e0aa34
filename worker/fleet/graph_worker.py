"""The RQ worker that runs graphs: it joins the fleet, claims tasks while it has free slots, drains, and leaves.

It is registered as any RQ worker. It differs where stock RQ loses or doubles work: one event loop keeps up to
`concurrency` tasks in flight, and every change of a task's state is one script, fenced by (task id, epoch, worker).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from redis.exceptions import RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.background import BackgroundTasks, end
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.queue.answers import Lease
from langgraph_rq.shared.queue.keys import SIDE_QUEUES, commands_channel
from langgraph_rq.shared.queue.verbs import cancel_call
from langgraph_rq.shared.tasks import State, own_thread
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.fleet.claiming import BLOCK_S, OUTAGE_WAIT_S, Claimer
from langgraph_rq.worker.fleet.commands import SHUTDOWN, listen
from langgraph_rq.worker.fleet.forked.isolation import Isolation
from langgraph_rq.worker.fleet.lease import LeaseKeeper
from langgraph_rq.worker.fleet.node_threads import NodeThreads
from langgraph_rq.worker.fleet.outcomes import OutcomeWriter
from langgraph_rq.worker.fleet.rq_registration import RegisteredWorker
from langgraph_rq.worker.fleet.running import RunningTasks
from langgraph_rq.worker.fleet.state_places import compare_places
from langgraph_rq.worker.task.run_context import RunContext
from langgraph_rq.worker.threads.requests import ThreadRequests

_log = get_logger(__name__)

_LAST_S = 2.0
"""How long leaving waits for each kind of what was begun for tasks that have ended."""


class GraphWorker(RegisteredWorker):
    """Runs the tasks of `queues`, `concurrency` at a time, in the event loop that calls `run`.

    Args:
        queues: RQ queues, the most urgent first.
        redis_url: Redis; connections of its own are opened for blocking, for the lease, and for RQ's registers.
        context: What the tasks share.
        concurrency: Tasks in flight, without those that keep their memory while they wait.
        input_bytes: Nothing is claimed while the inputs of the tasks in flight are larger than this.
        drain_s: How long a worker that was asked to end waits for running tasks before it releases them.
        checkpoint_ttl_s: How long the checkpoints of a task without thread outlive it.
        isolation: Runs tasks under which workers crashed; None runs them here as any other.
        node_threads: Where sync nodes run. When half as many nodes as `concurrency` are stuck in tasks that have ended,
            the worker drains and ends, for another to be started.
    """

    def __init__(
        self,
        queues: Sequence[str],
        redis_url: str,
        context: RunContext,
        *,
        concurrency: int = 100,
        input_bytes: int = 256_000_000,
        drain_s: float = 30.0,
        checkpoint_ttl_s: float = 60.0,
        isolation: Isolation | None = None,
        node_threads: NodeThreads | None = None,
    ) -> None:
        super().__init__(queues, redis_url, context.times.lease_ms)
        self._redis_url = redis_url
        self._context = context
        self._concurrency = concurrency
        self._input_bytes = input_bytes
        self._drain_s = drain_s
        self._node_threads = node_threads
        self._blocking = open_async(redis_url, connections=len(queues) + 3, timeout_s=BLOCK_S * 2)
        self._changed = asyncio.Event()
        """Set when there may be something to do: a slot is free, work has come, the worker is to stop or to rejoin."""
        self._outage = Outage()
        self._outcomes = OutcomeWriter(context, checkpoint_ttl_s)
        self._isolation = isolation
        self._running = RunningTasks(context, self._outcomes, isolation, self._changed.set)
        self._claimer = Claimer(
            context.redis,
            self._blocking,
            queues,
            context.graphs,
            context.times,
            self._running,
            self._outage,
            on_work=self._changed.set,
            has_room=lambda: not self._stopping and self._free_slots() > 0,
        )
        self._background = BackgroundTasks()
        self._requests = ThreadRequests(context, self._blocking, self._outage)
        self._lease: LeaseKeeper | None = None
        self._unknown: frozenset[str] = frozenset()
        """Tasks that Redis listed as this worker's at the last renewal, and that do not run here."""
        self._stopping = False
        self._is_fenced = False
        self.is_broken = False
        """Whether it stops because another process should take its place."""
        described = {name: loaded.describe() for name, loaded in context.graphs.items()}
        self._descriptions = {name: one for name, one in described.items() if one is not None}

    @property
    def is_held(self) -> bool:
        """Whether the lease surely holds, so that a model call may start."""
        return self._lease is not None and self._lease.is_held

    @property
    def is_fenced(self) -> bool:
        """Whether another worker has reaped this one, so that nothing of it may be written."""
        return self._is_fenced

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end, so that it claims no further task."""
        return self._stopping

    @property
    def in_flight(self) -> int:
        """How many tasks run now."""
        return len(self._running)

    @property
    def abandoned(self) -> int:
        """How many runs of ended tasks still run, because a node does not let itself be cancelled."""
        return len(self._context.abandoned)

    def work(self, burst: bool = False, *_args: object, **_options: object) -> bool:
        """Run as RQ's workers do, in an event loop of its own; returns whether any task was run."""
        return asyncio.run(self.run(burst=burst)) > 0

    async def run(self, *, burst: bool = False) -> int:
        """Work until `stop` (or, with `burst`, until the queues are empty); returns how many tasks were started."""
        self._join()
        if self._isolation:
            self._isolation.fork_server.give_signs(lambda: self._lease is not None and self._lease.is_stuck)
        watchers = [asyncio.create_task(self._claimer.watch(name)) for name in self.queue_names()]
        watchers.append(asyncio.create_task(self._claimer.wait_for_work()))
        watchers.append(asyncio.create_task(self._requests.serve()))
        self._listen()
        try:
            started = await self._serve(burst=burst)
            await self._drain()
        finally:
            await end([*watchers, self._listening])
            await self._leave()
        return started

    def stop(self) -> None:
        """Stop claiming; running tasks get `drain_s` to end. A second call releases them at once."""
        if self._stopping:
            self._drain_s = 0.0
            _log.warning("drain.shortened", worker=self.name, tasks=self.in_flight)
        else:
            tasks = "1 task" if self.in_flight == 1 else f"{self.in_flight} tasks"
            _log.info(
                "drain.started",
                worker=self.name,
                waits_for=f"{tasks}, at most {self._drain_s:g} s" if self.in_flight else "nothing",
                second_signal="returns what runs to the queue" if self.in_flight else None,
            )
        self._stopping = True
        self._changed.set()

    def _join(self) -> None:
        self.register()
        self._context.guards.is_held = lambda: self.is_held
        self._context.guards.kept.on_change = partial(_call_in, asyncio.get_running_loop(), self._note_waits)
        inputs = {name: loaded.input.announcement() for name, loaded in self._context.graphs.items()}
        self._lease = LeaseKeeper(
            self._redis_url,
            self.name,
            self._context.times,
            self.queue_names(),
            inputs,
            self._descriptions,
            asyncio.get_running_loop(),
            self._reconcile,
            self._stand_down,
            self._forget_checkpoints,
            self._context.guards.budget,
            self._outage,
            self._context.anchors,
            self._context.keys,
            self._context.audit,
        )
        self._lease.start()
        compare_places(self.connection, self.name, self.key, inputs, self._context.state_kept)
        _log.info("worker.started", worker=self.name, queues=self.queue_names(), graphs=list(inputs))

    async def _serve(self, *, burst: bool) -> int:
        started = 0
        while not self._stopping:
            self._changed.clear()
            if self._is_fenced:
                await self._rejoin()
            free = self._free_slots() if self._claimer.may_find_work else 0
            if free <= 0:
                await self._changed.wait()
                continue
            claim = await self._claimer.claim(self.name, free)
            if claim:
                started += len(claim.tasks)
            if self._claimer.may_find_work:
                continue
            if burst and not self._running:
                break
            self._claimer.may_find_work = burst  # running tasks may be released, or submit others
            await self._changed.wait()
        return started

    def _free_slots(self) -> int:
        """Count the tasks that may be claimed; none while those in flight hold too much memory."""
        if self._running.input_bytes > self._input_bytes:
            return 0
        return self._concurrency - self._running.slots

    async def _drain(self) -> None:
        """Wait for running tasks, then release those that are left; those that only wait are released at once."""
        deadline = time.monotonic() + self._drain_s
        while self._running and (left_s := min(deadline - time.monotonic(), self._drain_s)) > 0:
            self._changed.clear()
            self._running.release_waiting()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)
        await self._running.release(self._context.times.lease_ms / 1000 + self._context.cancel_grace_s)

    async def _leave(self) -> None:
        await self._requests.close()
        await self._outcomes.close()
        if self._lease:
            with ThreadPoolExecutor(1) as thread:  # the loop's own may all be stuck in sync nodes
                await asyncio.get_running_loop().run_in_executor(thread, self._lease.stop)
        await self._background.close(_LAST_S)  # after the lease, which starts them
        await self._context.events.aclose(_LAST_S)
        if self._context.checkpointer:
            await self._context.checkpointer.finish(_LAST_S)
        self.deregister()
        self.connection.close()
        await self._blocking.aclose()
        _log.info("worker.stopped", worker=self.name)

    def _reconcile(self, lease: Lease, asked_at: float) -> None:
        """Compare what Redis says this worker owns with what it runs: a lost reply leaves one without the other."""
        unknown = lease.own - self._running.ids
        for task_id in unknown & self._unknown:
            self._background.start(self._claimer.give_back(self.name, task_id))
        self._unknown = unknown
        self._claimer.read_side_queues(lease.side_queues, asked_at)
        self._outcomes.repeat_audit_entries()
        self._running.reconcile(lease, asked_at)
        self._stop_when_broken()

    def _forget_checkpoints(self, task_ids: Sequence[str]) -> None:
        threads = map(own_thread, task_ids)
        self._background.start(self._outcomes.expire_checkpoints(threads, State.CANCELLED))

    def _note_waits(self) -> None:
        self._running.record_waits()
        self._changed.set()

    def _stop_when_broken(self) -> None:
        """Stop if too many threads are stuck in nodes, or no suspect can be run any more."""
        if self._stopping:
            return
        stuck = self.abandoned + (self._node_threads.abandoned if self._node_threads else 0)
        if stuck > self._concurrency // 2:
            _log.error("worker.threads_stuck", worker=self.name, threads=stuck)
        elif self._isolation and self._isolation.fork_server.is_gone:
            _log.error("worker.fork_server_gone", worker=self.name)
        else:
            return
        self.is_broken = True
        self.stop()

    def _stand_down(self) -> None:
        """Abandon all tasks: another worker has reaped this one and owns them now."""
        _log.warning("worker.fenced", worker=self.name)
        self._is_fenced = True
        self._running.abandon()
        self._changed.set()

    async def _rejoin(self) -> None:
        """Join again under a new name."""
        await self._running.end(self._drain_s)
        self._is_fenced, self._unknown = False, frozenset()
        self.take_new_name()
        await end([self._listening])
        self._listen()
        try:
            self._join()
            self._outage.passed("join")
        except RedisError as error:
            log = _log.debug if self._outage.covers("join", error) else _log.warning
            log("worker.not_rejoined", worker=self.name, error=str(error))
            self._is_fenced = True
            self._claimer.look_again_in(OUTAGE_WAIT_S)

    def _listen(self) -> None:
        channels = (self.pubsub_channel_name, commands_channel(self.name))
        self._listening = asyncio.create_task(
            listen(
                self._blocking,
                channels,
                self._obey,
                SIDE_QUEUES,
                self._claimer.add_side_queue,
                lambda: self._lease.renew_soon() if self._lease else None,
            )
        )

    def _obey(self, command: str, task_id: str | None) -> None:
        """Obey a command from one of this worker's channels: RQ's own, or the one on which `cancel` publishes."""
        if command == SHUTDOWN:
            self.stop()
        elif task_id and task_id in self._running.ids:
            self._background.start(self._cancel_for_good(task_id))

    async def _cancel_for_good(self, task_id: str) -> None:
        """Cancel in Redis too: RQ's stop command leaves no trace there, and this worker may die before the end."""
        call = cancel_call(task_id, State.CANCELLED, b"", self._context.times)
        with suppress(RedisError):
            if (await scripts.run(self._context.redis, call)).state is not State.RUNNING:
                return
        self._running.cancel(task_id)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(function)
