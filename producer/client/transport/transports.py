"""How a client reaches Redis: blocking its thread, or suspending its coroutine.

The core is written once, as coroutines over a `Transport`. The methods of `BlockingTransport` are coroutines that never
suspend, so that a synchronous client runs the core without an event loop: in any thread, after a fork, and beside a
loop that its caller may have.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline
from redis.exceptions import RedisError

from langgraph_rq.producer.client.transport.ends import BlockingWatch, EndFeed, EndWatch
from langgraph_rq.producer.client.transport.event_feed import (
    BLOCK_S,
    ODD_WAIT_S,
    OUTAGE_WAIT_S,
    READERS,
    EventFeed,
    ask_types,
    of_another_type,
)
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.clients import is_outage, is_wrong_type, open_async, open_sync
from langgraph_rq.shared.connections.connect_errors import is_connect_error
from langgraph_rq.shared.connections.scripts import Call, Replicas
from langgraph_rq.shared.queue.events import PAGE, Event, read_event

_LONG_BYTES = 65_536
"""A call of more has a connection of its own: none waits for it to be sent, and no round trip has many of them."""
_LAST_CALLS_S = 1.0
"""How long calls under way have when a client is closed."""

Ask = Callable[[Pipeline | AsyncPipeline], object]
"""Puts commands into a pipeline."""


class Transport(Protocol):
    """What the core needs of Redis. A broken connection raises redis-py's own errors."""

    @property
    def is_ending(self) -> bool:
        """Whether `end_waits` was called."""
        ...

    async def read(self, ask: Ask) -> list[Any]:
        """Run commands in one round trip, in order but not as a transaction.

        The reply of a command whose key is of another type is None: such a key is as good as none (R15 in
        docs/architecture.md).
        """
        ...

    async def run(self, calls: Sequence[Call[Any]], replicas: Replicas = scripts.PRIMARY_ONLY) -> list[Any]:
        """Run scripts in one round trip; each answers its value or the exception that it raised."""
        ...

    async def news(
        self, places: Mapping[str, str], timeout_s: float, *, most: int = PAGE, is_drained: bool = False
    ) -> Mapping[str, list[Event]]:
        """Read the events of streams after the given places; wait for the first for up to `timeout_s`.

        Args:
            places: Stream -> id of the last event that was read.
            timeout_s: In seconds.
            most: Events of one stream.
            is_drained: Nothing was left at these places a moment ago, so that waiting comes before reading.

        Returns:
            The events of each stream that has some. Empty after the time, while Redis is away and after `end_waits`.
        """
        ...

    def watch(self, tasks: Collection[str]) -> EndWatch:
        """Wait for the ends of tasks, by their ids in Redis."""
        ...

    async def pause(self, seconds: float) -> None:
        """Do nothing for a time."""
        ...

    def end_waits(self) -> None:
        """Let `news` return, now and from now on."""
        ...

    async def close(self) -> None:
        """End the waits and close the connections."""
        ...


class BlockingTransport:
    """Blocks the calling thread; for any number of threads.

    Args:
        url: Of Redis.
        connections: At most so many at once.
        timeout_s: Of one round trip.
    """

    def __init__(self, url: str, connections: int, timeout_s: float) -> None:
        self.redis: Redis = open_sync(url, connections=connections, timeout_s=timeout_s)
        self._blocking = open_sync(url, connections=connections, timeout_s=2 * BLOCK_S)
        self.is_ending = False

    async def read(self, ask: Ask) -> list[Any]:
        """Run commands in one round trip, in order but not as a transaction."""
        pipeline = self.redis.pipeline(transaction=False)
        ask(pipeline)
        return readable(pipeline.execute(raise_on_error=False))

    async def run(self, calls: Sequence[Call[Any]], replicas: Replicas = scripts.PRIMARY_ONLY) -> list[Any]:
        """Run scripts in one round trip."""
        return scripts.run_many_sync(self.redis, calls, replicas)

    async def news(
        self,
        places: Mapping[str, str],
        timeout_s: float,
        *,
        most: int = PAGE,
        is_drained: bool = False,  # noqa: ARG002 - one XREAD reads and waits
    ) -> Mapping[str, list[Event]]:
        """Read or wait in one command, which is sent again every `BLOCK_S`."""
        give_up_at = time.monotonic() + timeout_s
        streams: Any = dict(places)
        while not self.is_ending:
            left_s = min(give_up_at - time.monotonic(), BLOCK_S)
            if left_s <= 0:
                break
            try:
                found: Any = self._blocking.xread(streams, count=most, block=max(1, int(left_s * 1000)))
            except (RedisError, OSError) as error:
                if is_wrong_type(error):
                    odd = of_another_type(streams, await self.read(partial(ask_types, keys=streams)))
                    streams = {key: place for key, place in streams.items() if key not in odd}
                    # Its callers look at the tasks without a readable stream again after this time.
                    give_up_at = min(give_up_at, time.monotonic() + ODD_WAIT_S)
                    if streams:
                        continue
                    await self.pause(max(0.0, give_up_at - time.monotonic()))
                    break
                if not (is_outage(error) or isinstance(error, OSError)):
                    raise
                await self.pause(OUTAGE_WAIT_S)
                break
            if found:
                return {stream.decode(): [read_event(entry) for entry in entries] for stream, entries in found}
        return {}

    def watch(self, tasks: Collection[str]) -> EndWatch:
        """Wait over a list of its own."""
        return BlockingWatch(self._blocking, tasks, lambda: self.is_ending)

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what this transport does

    def end_waits(self) -> None:
        """Let `news` return within `BLOCK_S`."""
        self.is_ending = True

    async def close(self) -> None:
        """End the waits and close the connections."""
        self.end_waits()
        self.redis.close()
        self._blocking.close()


class AsyncTransport:
    """Suspends the calling coroutine; for any number of coroutines of one event loop, whose waits share connections.

    Args:
        url: Of Redis.
        connections: At most so many at once, besides `READERS` that wait for events, and one that waits for ends.
        timeout_s: Of one round trip.
    """

    def __init__(self, url: str, connections: int, timeout_s: float) -> None:
        self.redis: AsyncRedis = open_async(url, connections=connections, timeout_s=timeout_s)
        self._blocking = open_async(url, connections=READERS + 1, timeout_s=2 * BLOCK_S)
        self._feed = EventFeed(self.redis, self._blocking)
        self._ends = EndFeed(self._blocking)
        self.batcher = Batcher(self.redis)

    @property
    def is_ending(self) -> bool:
        """Whether `end_waits` was called."""
        return self._feed.is_ending

    async def read(self, ask: Ask) -> list[Any]:
        """Run commands in one round trip, in order but not as a transaction."""
        pipeline = self.redis.pipeline(transaction=False)
        ask(pipeline)
        return readable(await pipeline.execute(raise_on_error=False))

    async def run(self, calls: Sequence[Call[Any]], replicas: Replicas = scripts.PRIMARY_ONLY) -> list[Any]:
        """Run scripts in one round trip; a single one in that of other coroutines, which saves most of its CPU time."""
        if len(calls) > 1 or replicas.count or _is_long(calls[0]):
            return await scripts.run_many(self.redis, calls, replicas)
        try:
            return [await self.batcher.run(calls[0])]
        except Exception as error:
            if is_connect_error(error):
                raise
            return [error]

    async def news(
        self, places: Mapping[str, str], timeout_s: float, *, most: int = PAGE, is_drained: bool = False
    ) -> Mapping[str, list[Event]]:
        """Read, or wait on the connections that all waits share."""
        return await self._feed.news(places, timeout_s, most=most, is_drained=is_drained)

    def watch(self, tasks: Collection[str]) -> EndWatch:
        """Wait over the list that all waits share."""
        return self._ends.watch(tasks)

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    def end_waits(self) -> None:
        """Let `news` and waits for ends return."""
        self._feed.end_waits()
        self._ends.end_waits()

    async def close(self) -> None:
        """End the waits and close the connections."""
        await self._feed.aclose()
        await self._ends.aclose()
        await self.batcher.aclose(_LAST_CALLS_S)
        await self._blocking.aclose()
        await self.redis.aclose()


def _is_long(call: Call[Any]) -> bool:
    return sum(len(argument) for argument in call.args if isinstance(argument, str | bytes)) > _LONG_BYTES


def readable(replies: Sequence[Any]) -> list[Any]:
    """Replace the errors of keys of another type by None; raise any other one."""
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]
