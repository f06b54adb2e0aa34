"""Events of running tasks, written for all tasks of the process in one round trip.

A token must not cost a round trip of its own, so events gather for `_GATHER_S`. Events never fail their task: they wait
during an outage of Redis, are dropped when its memory is full, and Redis itself refuses those of a task that another
worker owns by now. A graph that makes them faster than Redis takes them waits for it, within limits.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from langgraph_rq.shared.connections.batching import Batcher, Retry
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.events import LONGEST_STREAM, PART_BYTES, EventType, append_call, split
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.outputs.json_values import encode

EVENT_BYTES = 16_000_000
"""Longest data of one event, which Redis takes in one call: a record of LangChain's has the largest state of a result
twice, before and after a node. Of a longer one only its size is written."""

_GATHER_S = 0.015
_TASKS = 1_000
"""Tasks whose events share a round trip."""
_BATCH = 500
_BATCH_BYTES = 4 * PART_BYTES
"""Entries of one task in a round trip, and their length; those of a longer event come alone."""

_WAITING_BYTES = 64_000_000
"""Events of all tasks of the process that may wait; a task that adds more waits until its own are written."""
_ROOM_S = 10.0
"""Longest such wait. After it, in a long outage of Redis, the task's events are dropped until one is written again."""

_FENCED = -1
"""Reply of `append_call` when another worker owns the task."""

_log = get_logger(__name__)


class TaskEvents:
    """The events of one attempt of a task, in order: a buffer of at most `LONGEST_STREAM` events.

    It is queued in the batcher exactly while it is not empty.
    """

    def __init__(self, batcher: "EventWriter", claimed: Claimed, worker: str) -> None:
        self._batcher = batcher
        self._claimed = claimed
        self._worker = worker
        self._written = 0
        self._sent = 0
        self._waiting: deque[list[tuple[str, bytes]]] = deque()
        """Events, each as its entries."""
        self._all_written = asyncio.Event()
        self._is_over = False
        self._gave_up_at: int | None = None
        """How many entries were written when it was last waited for room in vain."""

    async def add(self, kind: EventType, **data: Any) -> None:
        """Add an event, to be written soon, with values as in a result."""
        if self._is_over:
            return
        encoded = self._encode(data)
        if len(encoded) > EVENT_BYTES:
            encoded = self._encode(size_only(data, len(encoded)))
        if not await self._has_room(len(encoded)):
            return
        if not self._waiting:
            self._all_written.clear()
            self._batcher.add(self)
        self._waiting.append(split(kind.value, encoded))
        self._batcher.waiting_bytes += len(encoded)

    async def _has_room(self, size_bytes: int) -> bool:
        """Wait until an event may be kept; False: it is dropped, in a long outage of Redis."""
        is_full = self._batcher.waiting_bytes + size_bytes > _WAITING_BYTES or len(self._waiting) >= LONGEST_STREAM
        if not (is_full and self._waiting):
            return True
        if self._gave_up_at == self._written:
            return False
        try:
            async with asyncio.timeout(_ROOM_S):
                await TaskEvents.flush(self)
        except TimeoutError:
            self._gave_up_at = self._written
            _log.warning("events.dropped", error=f"Redis has not taken them for {_ROOM_S:g} s")
            return False
        return not self._is_over

    async def flush(self) -> None:
        """Return when all events are written or dropped; waits through an outage of Redis."""
        if self._waiting:
            self._batcher.hurry()
            await self._all_written.wait()

    def next_call(self) -> Call[int]:
        """Build the call that writes the next events; again these and more until `take_reply` gets its reply."""
        entries: list[tuple[str, bytes]] = []
        self._sent, size_bytes = 0, 0
        for event in self._waiting:
            size_bytes += sum(len(data) for _, data in event)
            if entries and (size_bytes > _BATCH_BYTES or len(entries) + len(event) > _BATCH):
                break
            entries += event
            self._sent += 1
        return append_call(self._claimed.id, self._claimed.epoch, self._worker, self._written, entries)

    def take_reply(self, reply: int | Exception) -> bool:
        """Take the reply to the last call; returns whether there are more events to write."""
        if reply == _FENCED:
            self._is_over = True
            self._sent = len(self._waiting)
        for _ in range(self._sent):
            event = self._waiting.popleft()
            self._batcher.waiting_bytes -= sum(len(data) for _, data in event)
            if not (self._is_over or isinstance(reply, Exception)):
                self._written += len(event)
        if isinstance(reply, Exception):
            _log.warning("events.dropped", error=str(reply))
        if not self._waiting:
            self._all_written.set()
        return bool(self._waiting)

    def _encode(self, data: dict[str, Any]) -> bytes:
        return encode({"attempt": self._claimed.epoch, **data}, "", has_texts=True).text


def size_only(data: Mapping[str, Any], omitted_bytes: int) -> dict[str, Any]:
    """Return what is written of data that are too long: what they belong to, and how long they were."""
    kept = {name: data[name] for name in ("node", "phase", "id", "type") if name in data}
    return {**kept, "omitted_bytes": omitted_bytes}


class EventWriter(Batcher):
    """The batcher of the events of all tasks of a process."""

    def __init__(self, redis: Redis) -> None:
        self.waiting_bytes = 0
        """Data of all events that are not written yet."""
        super().__init__(redis, calls=_TASKS, gather_s=_GATHER_S, retry=Retry(_is_worth_waiting_for))

    def open(self, claimed: Claimed, worker: str) -> TaskEvents:
        """Create the events of an attempt."""
        return TaskEvents(self, claimed, worker)


def _is_worth_waiting_for(error: Exception) -> bool:
    return is_outage(error) and not isinstance(error, OutOfMemoryError)
