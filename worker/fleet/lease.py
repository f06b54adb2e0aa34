"""The worker's lease, renewed by a thread of its own, so that a busy event loop does not lose its tasks.

The thread has its own connection. It passes the tasks that Redis lists as this worker's to the loop and reaps dead
workers. It also watches the loop, and stops renewing when that is stuck: a stuck worker must lose its tasks, and the
task that blocks it is marked, so that it does not block the next worker.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from langgraph_rq.shared.budget.token_budget import BudgetLimits, expire_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import has_moved, is_outage, open_sync
from langgraph_rq.shared.connections.script_cache import load_missing
from langgraph_rq.shared.graphs.description import GraphDescription
from langgraph_rq.shared.queue.answers import Lease
from langgraph_rq.shared.queue.attempts import block_call
from langgraph_rq.shared.queue.upkeep import leave_call, reap_call, renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.telemetry.anchors import AnchorWriter
from langgraph_rq.shared.telemetry.audit import Audit
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.calls.announced_models import announcement
from langgraph_rq.worker.fleet.loop_watch import LOOK_S, LoopWatch
from langgraph_rq.worker.fleet.sweeper import Sweeper
from langgraph_rq.worker.graphs.description import publish
from langgraph_rq.worker.guards.admission import expire_and_wake_call
from langgraph_rq.worker.guards.events import emit_alerts

_EXPIRY_BATCH = 100
"""Reservations expired by one script."""
STEP_S = 0.5
"""The server's clock may advance by so much more than ours between two renewals; else it was set, or is another's."""
MARGIN_S = 1.0
"""No model call starts this shortly before the lease may end (self-fencing)."""

_log = get_logger(__name__)


class LeaseKeeper:
    """Keeps one worker's lease from `start` to `stop`.

    Args:
        url: Redis, where the thread opens a connection of its own.
        worker: The worker's name.
        times: How long the lease lasts, which is renewed four times in that time, and how long ended tasks are kept.
        queues: The worker's queues.
        graphs: The graphs that it serves -> what each takes as input, as in shared/graphs/input.py.
        descriptions: The graphs that it serves -> what it says of them to those who draw them.
        loop: The loop that runs the tasks; the callbacks are called in it.
        on_renewed: Called with the reply to each renewal and the time at which it was sent (monotonic).
        on_lost: Called once when another worker has reaped this one.
        on_spent: Called with ids of ended tasks whose checkpoints may go.
        budget: Limits under which reservations of dead callers are charged.
        outage: Told when Redis does not answer a renewal.
        keys: Sign the results of tasks that end without having run; None: results are not signed.
        audit: Records how those ended; None: there is no audit log.
        anchors: Signs the audit log after each renewal, and once more at the end; None: there is no audit log.
    """

    def __init__(
        self,
        url: str,
        worker: str,
        times: QueueTimes,
        queues: Sequence[str],
        graphs: Mapping[str, str],
        descriptions: Mapping[str, GraphDescription],
        loop: asyncio.AbstractEventLoop,
        on_renewed: Callable[[Lease, float], None],
        on_lost: Callable[[], None],
        on_spent: Callable[[Sequence[str]], None],
        budget: BudgetLimits,
        outage: Outage,
        anchors: AnchorWriter | None = None,
        keys: TaskKeys | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.worker = worker
        self._redis = open_sync(url, connections=1, timeout_s=max(1.0, times.lease_ms / 4000))
        self._times = times
        self._lease_s = times.lease_ms / 1000
        self._queues = queues
        self._graphs = graphs
        self._descriptions = descriptions
        self._loop = loop
        self._on_renewed = on_renewed
        self._on_lost = on_lost
        self._on_spent = on_spent
        self._budget = budget
        self._outage = outage
        self._anchors = anchors
        self._sweeper = Sweeper(self._redis, worker, times, keys, audit, self._pass_spent)
        self._next_due_ms: int | None = None
        """Until a waiting task is due or free, by the last reaping."""
        self._stopping = threading.Event()
        self._is_asked = False
        """Whether the next renewal should not wait for its time."""
        self._renewed_at = self._unbroken_since = time.monotonic()
        self._ends_ms = 0
        """When the lease ends by the server's clock; 0: the last renewal was not answered, or another server did."""
        self._watch = LoopWatch(loop)
        self._is_stuck_logged = False
        """Whether the log has it that the loop is stuck now."""
        self._thread = threading.Thread(target=self._keep, name=f"lease of {worker}", daemon=True)

    def start(self) -> None:
        """Join the fleet, then renew in the background. Raises what Redis raises when it cannot be reached."""
        self._load_scripts()
        self._describe(anew=True)
        asked_at = time.monotonic()
        lease = scripts.run_sync(self._redis, self._renewal(join=True))
        self._renewed_at, self._unbroken_since = asked_at, time.monotonic()
        if lease:
            self._ends_ms = lease.ends_ms
            self._on_renewed(lease, asked_at)
        self._thread.start()

    @property
    def is_held(self) -> bool:
        """Whether the lease surely holds by this worker's own clock, so that a model call may start."""
        return time.monotonic() - self._renewed_at < self._lease_s - MARGIN_S

    @property
    def is_stuck(self) -> bool:
        """Whether the loop has not run for so long that the lease is not renewed any more."""
        return self._watch.is_stuck

    def renew_soon(self) -> None:
        """Renew within moments: Redis may have news that no message told."""
        self._is_asked = True

    def _pass_spent(self, task_ids: Sequence[str]) -> None:
        self._loop.call_soon_threadsafe(self._on_spent, task_ids)

    def stop(self) -> int:
        """Stop renewing and leave; returns how many tasks Redis still holds for this worker."""
        self._stopping.set()
        self._thread.join(timeout=self._lease_s)
        try:
            self._anchor_batch(is_last=True)
            return scripts.run_sync(self._redis, leave_call(self.worker))
        except (RedisError, OSError) as error:
            _log.warning("worker.leave_failed", worker=self.worker, error=str(error))
            return 0
        finally:
            self._redis.close()

    def _renewal(self, *, join: bool) -> scripts.Call[Lease | None]:
        lease_ms, models = self._times.lease_ms, announcement()
        return renew_call(self.worker, lease_ms, self._queues, self._graphs, join=join, models=models)

    def _keep(self) -> None:
        wait_s = self._lease_s / 4
        while self._wait(wait_s):
            try:
                if self._watch.is_suspect:
                    self._mark_blocker()
                if self._watch.is_stuck:
                    wait_s = self._lease_s / 4
                    continue
                if not self._renew():
                    self._outage.passed("renew")
                    self._pass_loss()
                    return
                if has_moved(self._redis):
                    _log.warning("redis.moved", worker=self.worker)
                    wait_s, self._ends_ms = 0.0, 0
                    continue
                wait_s = self._reap()
                self._outage.passed("renew")
            except Exception as error:  # malformed data in Redis must not end the lease of every worker that reads it
                wait_s = min(0.5, self._lease_s / 8)
                if self._outage.covers("renew", error):
                    self._ends_ms = 0
                    _log.debug("lease.not_renewed", worker=self.worker, error=str(error))
                else:
                    _log.exception("worker.broken", worker=self.worker)

    def _pass_loss(self) -> None:
        """Pass on that the lease is lost, and watch the loop until it has taken notice: it may be stuck by now."""
        is_noticed = threading.Event()

        def notice() -> None:
            self._on_lost()
            is_noticed.set()

        self._loop.call_soon_threadsafe(notice)
        while not is_noticed.is_set() and self._wait(LOOK_S):
            pass

    def _wait(self, seconds: float) -> bool:
        """Wait, and watch the loop meanwhile; False: the lease is not kept any longer."""
        until = time.monotonic() + seconds
        while not self._loop.is_closed():
            left_s = max(0.0, until - time.monotonic())
            if self._stopping.wait(min(left_s, LOOK_S)):
                return False
            self._watch.look()
            if left_s <= LOOK_S or self._is_asked:
                self._is_asked = False
                return True
        return False

    def _mark_blocker(self) -> None:
        """Record in Redis which task keeps the loop from running; repeated while it does, in case a reply is lost."""
        blocker = self._watch.blocker()
        if self._watch.is_stuck and not self._is_stuck_logged:
            _log.error("worker.stuck", worker=self.worker, seconds=round(self._watch.silent_s), line=blocker.line)
        self._is_stuck_logged = self._watch.is_stuck
        task = blocker.task
        if task and task.task_id:
            scripts.run_sync(self._redis, block_call(task.task_id, task.epoch, self.worker, blocker.line))

    def _renew(self) -> bool:
        asked_at = time.monotonic()
        lease = scripts.run_sync(self._redis, self._renewal(join=False))
        if lease is None:
            return False
        took_s = time.monotonic() - self._renewed_at
        is_late = not self._ends_ms or asked_at - self._renewed_at > self._lease_s
        if is_late or self._is_of_another_time(lease, took_s):
            # Not since it was asked for: what delayed the answer may delay the others' renewals too.
            self._unbroken_since = time.monotonic()
        self._renewed_at, self._ends_ms = asked_at, lease.ends_ms
        self._loop.call_soon_threadsafe(self._on_renewed, lease, asked_at)
        self._load_scripts()
        self._describe(anew=False)
        return True

    def _is_of_another_time(self, lease: Lease, took_s: float) -> bool:
        """Whether Redis forgot our last renewal, or its clock went ahead, since `took_s`: a replica was promoted.

        The leases of the others then seem older than they are, until they are renewed too.
        """
        went_s = (lease.ends_ms - self._ends_ms) / 1000
        if lease.ends_before_ms == self._ends_ms and went_s <= took_s + STEP_S:
            return False
        _log.warning("lease.time_changed", worker=self.worker, ahead_s=round(went_s - took_s, 3))
        return True

    def _load_scripts(self) -> None:
        """Load what producers call and may not load; a Redis that was restarted or replaced has none of it."""
        try:
            loaded = load_missing(self._redis)
        except NoPermissionError:  # of a user of one's own: then `load-scripts` is a step of the deployment
            return
        if loaded:
            _log.info("scripts.loaded", worker=self.worker, count=loaded)

    def _describe(self, *, anew: bool) -> None:
        try:
            publish(self._redis, self._descriptions, anew=anew)
        except ResponseError as error:  # a key of another type, or a Redis user of an earlier version: tasks still run
            _log.warning("graphs.not_described", worker=self.worker, error=str(error))

    def _reap(self) -> float:
        """Reap dead workers, expired reservations and lost tasks; returns the seconds to wait before the next renewal.

        Only after a full lease without a gap in the renewals: after an outage, live workers need that time to renew.
        """
        wait_s = self._lease_s / 4
        if time.monotonic() - self._unbroken_since < self._lease_s:
            return wait_s
        # A million overdue tasks take minutes: each batch ends in time for the next renewal.
        renew_at = time.monotonic() + wait_s
        for do_batch in (self._reap_batch, self._expire_batch, self._sweeper.sweep_batch, self._anchor_batch):
            try:
                while do_batch():
                    if time.monotonic() > renew_at:
                        return 0.0
            except Exception as error:  # what one duty cannot read must not keep the others from their work
                if is_outage(error) or isinstance(error, OSError):
                    raise
                _log.exception("worker.broken", worker=self.worker)
        return wait_s if self._next_due_ms is None else min(wait_s, self._next_due_ms / 1000)

    def _reap_batch(self) -> bool:
        reaped = scripts.run_sync(self._redis, reap_call(worker=self.worker, queues=self._queues))
        for task_id in reaped.reaped:
            _log.warning("task.reaped", task_id=task_id)
        self._next_due_ms = reaped.next_due_ms
        return bool(reaped.reaped or reaped.promoted)

    def _expire_batch(self) -> bool:
        expired = scripts.run_sync(self._redis, expire_and_wake_call(expire_call(_EXPIRY_BATCH, self._budget)))
        if expired.charged:
            _log.warning("budget.expired", reservations=len(expired.charged))
            emit_alerts(expired.alerts)
        return bool(expired.charged)

    def _anchor_batch(self, *, is_last: bool = False) -> bool:
        return self._anchors is not None and self._anchors.write(self._redis, self.worker, is_last=is_last)
