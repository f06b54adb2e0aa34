"""Claim tasks, and find out when there may be some to claim."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.queue.answers import Claim, whole_number
from langgraph_rq.shared.queue.attempts import claim_call, release_call
from langgraph_rq.shared.queue.keys import bell_key, graph_list, queue_key, side_queue, task_hash, watcher_key
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.worker.fleet.running import RunningTasks

BLOCK_S = 5
"""Longest wait of one command that blocks on an empty queue."""
OUTAGE_WAIT_S = 0.25
_SUSPENDED_WAIT_S = 1.0
_WATCH_S = 4
"""How long the watcher of a queue blocks, after which the others ask whether it is still there."""
_CLAIM_S = 0.02
"""Time that a claim has before the watcher rings for what still lies on the queue."""
_RING_AGAIN_S = 0.25
_BELL_S = 3600
_BATCH = 16
"""Tasks claimed at once: few enough that idle processes beside this one get their share."""

_log = get_logger(__name__)


class Claimer:
    """Claims tasks from one worker's queues and starts them.

    Args:
        redis: Claims, on a connection that it keeps.
        blocking: Blocks on bells and queues: with a connection for each queue, and one.
        queues: Names of the queues, the most urgent first.
        graphs: Names of the graphs that the worker serves.
        times: How long leases last and things are kept.
        running: Where claimed tasks are started.
        outage: Told which of the calls Redis does not answer.
        on_work: Called when there may be something to claim.
        has_room: Returns whether there is a free slot.
    """

    def __init__(
        self,
        redis: Redis,
        blocking: Redis,
        queues: Sequence[str],
        graphs: Collection[str],
        times: QueueTimes,
        running: RunningTasks,
        outage: Outage,
        on_work: Callable[[], None],
        has_room: Callable[[], bool],
    ) -> None:
        self._redis = redis
        self._claims = KeptConnection(redis)
        self._blocking = blocking
        self._queues = queues
        self._graphs = graph_list(graphs)
        self._side_queues = {queue: {side_queue(queue, graph) for graph in graphs} for queue in queues}
        self._used_at: dict[str, float] = {}
        """Side queue that may hold tasks -> when that was heard (monotonic). Most fleets never have one."""
        self._turn = 0
        self._times = times
        self._running = running
        self._outage = outage
        self._on_work = on_work
        self._has_room = has_room
        self._id = uuid4().hex.encode()
        self._claiming = asyncio.Lock()
        self._is_idle = asyncio.Event()
        self.may_find_work = True
        """Whether a claim may find something; set by bells, by timers, and in a burst run."""

    async def claim(self, worker: str, free: int) -> Claim | None:
        """Claim as `worker`, and start, as many tasks as are `free` slots, or a batch; None: Redis is away.

        After a claim that may have left tasks behind, `may_find_work` stays true.
        """
        n = min(free, _BATCH)
        async with self._claiming:
            # What is heard from now on may have come too late for this claim.
            self.may_find_work = False
            call = claim_call(worker, n, self._in_order(), self._graphs, self._times)
            try:
                claim = await scripts.run(self._claims, call)
            except Exception as error:  # whatever lies in Redis must not end the worker
                log = _log.debug if self._outage.covers("claim", error) else _log.warning
                log("claim.failed", worker=worker, error=str(error))
                self.look_again_in(OUTAGE_WAIT_S)
                return None
            self._outage.passed("claim")
            for claimed in claim.tasks:
                self._running.start(claimed, worker)
        for task_id in claim.odd:
            _log.warning("job.dropped", job_id=task_id, reason="no pending task stands behind this id")
        self.may_find_work |= bool(claim.dropped or claim.put_aside) or len(claim.tasks) == n
        if not self.may_find_work:
            if claim.is_suspended or not claim.has_lease:
                self.look_again_in(_SUSPENDED_WAIT_S)
            else:
                self._is_idle.set()
        return claim

    def look_again_in(self, seconds: float) -> None:
        """Claim again after this time, also without a bell."""
        asyncio.get_running_loop().call_later(seconds, self._look_again)

    async def wait_for_work(self) -> None:
        """Wake the worker when one of its queues' bells rings for it; never ends.

        Each entry of a bell wakes one worker. The wake-up of a worker that died is made up for by the watcher of the
        queue, or by another idle worker when its own wait is over.
        """
        while True:
            await self._is_idle.wait()
            try:
                rung: Any = await self._blocking.blpop([bell_key(queue) for queue in self._queues], BLOCK_S)
                is_found = rung or await self._blocking.exists(*map(queue_key, self._queues))
                if rung and not self._has_room():
                    await self._ring(rung[0])
            except RedisError as error:
                log = _log.debug if self._outage.covers("claim", error) else _log.warning
                log("queue.not_watched", error=str(error))
                await asyncio.sleep(OUTAGE_WAIT_S)
                is_found = True
            if is_found:
                self._is_idle.clear()
                self._look_again()

    async def watch(self, queue: str) -> None:
        """Ring for what lies on a queue and is not claimed, as jobs of stock RQ, which rings no bell; never ends.

        One worker of the fleet watches, by moving the head of the list to its own head: that blocks while the list is
        empty and changes nothing else, so that no task is ever on its way to a worker that might die.
        """
        key = queue_key(queue)
        while True:
            try:
                if not await self._is_watcher(queue):
                    await asyncio.sleep(_WATCH_S)
                elif await self._blocking.blmove(key, key, _WATCH_S, "LEFT", "LEFT") is not None:
                    await asyncio.sleep(_CLAIM_S)
                    if await self._blocking.exists(key):
                        await self._ring(bell_key(queue))
                        await asyncio.sleep(_RING_AGAIN_S)
            except RedisError as error:
                # The claim that follows shows when it is over: a busy worker does not watch.
                log = _log.debug if self._outage.covers("claim", error) else _log.warning
                log("queue.not_watched", queue=key, error=str(error))
                await asyncio.sleep(OUTAGE_WAIT_S)

    async def _is_watcher(self, queue: str) -> bool:
        """Take the watch of a queue, or keep it, for 2.5 times as long as until this is asked again.

        Two steps, since two watchers at once do no harm: each only rings.
        """
        key, lease_ms = watcher_key(queue), round(2500 * _WATCH_S)
        try:
            owner = await self._blocking.set(key, self._id, nx=True, px=lease_ms, get=True)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            await self._blocking.delete(key)  # as good as none (R15)
            owner = await self._blocking.set(key, self._id, nx=True, px=lease_ms, get=True)
        if owner == self._id:
            await self._blocking.pexpire(key, lease_ms)
        return owner in {None, self._id}

    async def _ring(self, bell: str | bytes) -> None:
        pipeline = self._blocking.pipeline()
        pipeline.rpush(bell, 1)
        pipeline.ltrim(bell, 0, 0)
        pipeline.expire(bell, _BELL_S)
        await pipeline.execute()

    def add_side_queue(self, queue: str) -> None:
        """Claim from a side queue too, if it is one of this worker's: a task was added to it."""
        if any(queue in sides for sides in self._side_queues.values()):
            self._used_at[queue] = time.monotonic()
            self._look_again()

    def read_side_queues(self, used: Iterable[str], asked_at: float) -> None:
        """Claim from the worker's side queues that were in use when that was asked, and from those heard of since."""
        self._used_at = {queue: at for queue, at in self._used_at.items() if at > asked_at}
        for queue in used:
            self.add_side_queue(queue)

    def _in_order(self) -> list[str]:
        """Name the queues to claim from: a queue and its side queues are equally urgent, and take turns to be first."""
        self._turn += 1
        names: list[str] = []
        for queue in self._queues:
            equals = [queue, *sorted(self._side_queues[queue] & self._used_at.keys())] if self._used_at else [queue]
            first = self._turn % len(equals)
            names += equals[first:] + equals[:first]
        return names

    async def give_back(self, worker: str, task_id: str) -> None:
        """Release a task that `worker` owns in Redis, but does not run: the reply of its claim was lost."""
        async with self._claiming:  # after a claim whose reply was only late the task runs here
            if task_id in self._running.ids:
                return
            with suppress(RedisError):  # it is found again at the next renewals
                fields: Any = await self._redis.hmget(task_hash(task_id), "epoch", "queue")
                if None not in fields:
                    epoch, queue = whole_number(fields[0]), fields[1].decode(errors="replace")
                    await scripts.run(self._redis, release_call(task_id, epoch, queue, worker))
                    _log.warning("task.released", task_id=task_id, reason="the reply of its claim was lost")

    def _look_again(self) -> None:
        self.may_find_work = True
        self._on_work()
