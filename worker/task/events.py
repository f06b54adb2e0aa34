"""Write the events of running tasks: many events, of all tasks of the process, in one round trip.

A token must not cost a round trip of its own, so events gather for `_GATHER_S`. Events never fail their task: while
Redis is away they wait, when its memory is full they are dropped, and those of a task that another worker owns by now
are refused by Redis itself.
"""

import asyncio
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Any

from pydantic_core import to_json
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.queue.events import LONGEST_STREAM, EventType, append_call
from langgraph_rq.shared.queue.task_queue import Claimed
from langgraph_rq.shared.telemetry.logs import get_logger

EVENT_BYTES = 64_000
"""Longest data of one event; of a longer one only its size is written. The result has it in full."""

_GATHER_S = 0.015
_BATCH = 500
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0

_log = get_logger(__name__)


class TaskEvents:
    """The events of one attempt of a task, in order."""

    def __init__(self, writer: "EventWriter", claimed: Claimed, worker: str) -> None:
        self._writer = writer
        self._claimed = claimed
        self._worker = worker
        self._written = 0
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._all_written = asyncio.Event()
        self._is_over = False

    def add(self, kind: EventType, **data: Any) -> None:
        """Add an event; it is written soon. What JSON cannot carry is shown as text."""
        if self._is_over or len(self._waiting) >= LONGEST_STREAM:  # Redis has been away for long
            return
        encoded = self._encode(data)
        if len(encoded) > EVENT_BYTES:
            shown = {name: value for name, value in data.items() if name in {"node", "phase"}}
            encoded = self._encode({**shown, "omitted_bytes": len(encoded)})
        self._waiting.append((kind.value, encoded))
        self._all_written.clear()
        self._writer.wake(self)

    async def flush(self) -> None:
        """Return when all events are written or dropped; waits for a Redis that is away."""
        if self._waiting:
            self._writer.hurry()
            await self._all_written.wait()

    def next_call(self) -> scripts.Call[int]:
        """What is to be written next; asked again until `take` gets the answer."""
        return append_call(
            self._claimed.id, self._claimed.epoch, self._worker, self._written, list(islice(self._waiting, _BATCH))
        )

    def take(self, answer: int | Exception, sent: int) -> bool:
        """Take Redis' answer to the last call, which had `sent` events; says whether there is more to write."""
        if answer == -1:
            self._is_over = True
            self._waiting.clear()
        else:
            for _ in range(min(sent, len(self._waiting))):
                self._waiting.popleft()
            self._written += 0 if isinstance(answer, Exception) else sent
        if not self._waiting:
            self._all_written.set()
        return bool(self._waiting)

    def _encode(self, data: dict[str, Any]) -> bytes:
        return to_json({"attempt": self._claimed.epoch, **data}, inf_nan_mode="null", fallback=str)


class EventWriter:
    """Writes the events of all running tasks of a process, one round trip at a time."""

    def __init__(self, redis: Redis) -> None:
        self._connection = KeptConnection(redis)
        self._dirty: dict[TaskEvents, None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def open(self, claimed: Claimed, worker: str) -> TaskEvents:
        """Begin the events of an attempt."""
        return TaskEvents(self, claimed, worker)

    def wake(self, events: TaskEvents) -> None:
        """Say that `events` has something to write."""
        self._dirty[events] = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    def hurry(self) -> None:
        """Write what there is without gathering more."""
        self._hurry.set()

    async def _write(self) -> None:
        outage_wait_s = 0.0
        while self._dirty:
            await self._gather(outage_wait_s)
            batch, self._dirty = list(self._dirty), {}
            is_away = await self._write_once(batch)
            outage_wait_s = min(max(outage_wait_s * 2, _FIRST_WAIT_S), _LONGEST_WAIT_S) if is_away else 0.0

    async def _gather(self, outage_wait_s: float) -> None:
        if outage_wait_s:
            await asyncio.sleep(outage_wait_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_S):
                await self._hurry.wait()
        self._hurry.clear()

    async def _write_once(self, batch: list[TaskEvents]) -> bool:
        """Write one batch of each; says whether Redis is away, so that the same is to be tried again."""
        calls = [events.next_call() for events in batch]
        try:
            answers = await scripts.run_many(self._connection, calls)
        except (RedisError, OSError) as error:
            answers = [error] * len(calls)
        is_away = False
        for events, call, answer in zip(batch, calls, answers, strict=True):
            if isinstance(answer, Exception):
                if is_outage(answer) and not isinstance(answer, OutOfMemoryError):
                    is_away = True
                    self._dirty[events] = None
                    continue
                _log.warning("events.dropped", error=str(answer))
            if events.take(answer, (len(call.args) - 4) // 2):
                self._dirty[events] = None
        return is_away
