"""Events of running tasks, written for all tasks of the process in one round trip.

A token must not cost a round trip of its own, so events gather for `_GATHER_S`. Events never fail their task: they wait
during an outage of Redis, are dropped when its memory is full, and Redis itself refuses those of a task that another
worker owns by now.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic_core import to_json
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from langgraph_rq.shared.connections.batching import Batcher, Retry
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.events import LONGEST_STREAM, EventType, append_call
from langgraph_rq.shared.telemetry.logs import get_logger

EVENT_BYTES = 64_000
"""Longest data of one event; of a longer one only its size is written. The result has it in full."""

_GATHER_S = 0.015
_TASKS = 1_000
"""Tasks whose events share a round trip."""
_BATCH = 500
"""Events of one task in a round trip."""

_FENCED = -1
"""Reply of `append_call` when another worker owns the task."""

_log = get_logger(__name__)


class TaskEvents:
    """The events of one attempt of a task, in order: a buffer of at most `LONGEST_STREAM` events.

    It is queued in the batcher exactly while it is not empty.
    """

    def __init__(self, batcher: Batcher, claimed: Claimed, worker: str) -> None:
        self._batcher = batcher
        self._claimed = claimed
        self._worker = worker
        self._written = 0
        self._sent = 0
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._all_written = asyncio.Event()
        self._is_over = False

    async def add(self, kind: EventType, **data: Any) -> None:
        """Add an event, to be written soon. A value that JSON cannot carry becomes its text."""
        if self._is_over or len(self._waiting) >= LONGEST_STREAM:  # a long outage of Redis
            return
        encoded = self._encode(data)
        if len(encoded) > EVENT_BYTES:
            encoded = self._encode(size_only(data, len(encoded)))
        if not self._waiting:
            self._all_written.clear()
            self._batcher.add(self)
        self._waiting.append((kind.value, encoded))

    async def flush(self) -> None:
        """Return when all events are written or dropped; waits through an outage of Redis."""
        if self._waiting:
            self._batcher.hurry()
            await self._all_written.wait()

    def next_call(self) -> Call[int]:
        """Build the call that writes the next events; again the same ones until `take_reply` gets its reply."""
        events = list(islice(self._waiting, _BATCH))
        self._sent = len(events)
        return append_call(self._claimed.id, self._claimed.epoch, self._worker, self._written, events)

    def take_reply(self, reply: int | Exception) -> bool:
        """Take the reply to the last call; returns whether there are more events to write."""
        if reply == _FENCED:
            self._is_over = True
            self._waiting.clear()
        else:
            for _ in range(self._sent):
                self._waiting.popleft()
            if isinstance(reply, Exception):
                _log.warning("events.dropped", error=str(reply))
            else:
                self._written += self._sent
        if not self._waiting:
            self._all_written.set()
        return bool(self._waiting)

    def _encode(self, data: dict[str, Any]) -> bytes:
        return to_json({"attempt": self._claimed.epoch, **data}, inf_nan_mode="null", fallback=str)


def size_only(data: Mapping[str, Any], omitted_bytes: int) -> dict[str, Any]:
    """Return what is written of data that are too long: what they belong to, and how long they were."""
    kept = {name: data[name] for name in ("node", "phase", "id", "type") if name in data}
    return {**kept, "omitted_bytes": omitted_bytes}


class EventWriter(Batcher):
    """The batcher of the events of all tasks of a process."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, calls=_TASKS, gather_s=_GATHER_S, retry=Retry(_is_worth_waiting_for))

    def open(self, claimed: Claimed, worker: str) -> TaskEvents:
        """Create the events of an attempt."""
        return TaskEvents(self, claimed, worker)


def _is_worth_waiting_for(error: Exception) -> bool:
    return is_outage(error) and not isinstance(error, OutOfMemoryError)
