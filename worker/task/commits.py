"""Write what was decided to Redis, however long that takes.

A result stays in memory until Redis has answered (R7 of our protocol: written, written already, or fenced off). Calls
that arrive while a round trip is under way share the next one.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.telemetry.logs import get_logger

_BATCH = 64
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0

_log = get_logger(__name__)

_Waiting = tuple[scripts.Call[Any], "asyncio.Future[Any] | None"]
"""A call, and who waits for its answer."""


class Commits:
    """Runs queue verbs in batches until each has an answer. Every verb given to it may safely run twice."""

    def __init__(self, redis: Redis) -> None:
        self._connection = KeptConnection(redis)
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def commit(self, call: scripts.Call[scripts.T]) -> scripts.T:
        """Run `call`, again after each outage, and answer what Redis decided.

        Raises:
            redis.RedisError: the call itself is wrong; repeating it would not help.
        """
        answer: asyncio.Future[scripts.T] = asyncio.get_running_loop().create_future()
        self._put(call, answer)
        return await answer

    def send(self, *calls: scripts.Call[Any] | None) -> None:
        """Run calls as `commit` does, without waiting: what is committed next goes in the same round trip."""
        for call in filter(None, calls):
            self._put(call, None)

    async def settle(self, timeout_s: float) -> None:
        """Wait until all calls have an answer, for at most `timeout_s`."""
        if self._writer:
            await asyncio.wait([self._writer], timeout=timeout_s)

    def _put(self, call: scripts.Call[Any], answer: "asyncio.Future[Any] | None") -> None:
        self._waiting.append((call, answer))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        wait_s = _FIRST_WAIT_S
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            unanswered = await self._run(batch)
            if unanswered:
                self._waiting = unanswered + self._waiting
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            else:
                wait_s = _FIRST_WAIT_S

    async def _run(self, batch: list[_Waiting]) -> list[_Waiting]:
        try:
            replies = await scripts.run_many(self._connection, [call for call, _ in batch])
        except Exception as error:
            if not is_outage(error):
                _log.exception("commit.failed")
            replies = [error] * len(batch)
        unanswered = []
        for (call, answer), reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception) and is_outage(reply):
                unanswered.append((call, answer))
            elif answer is None:
                if isinstance(reply, Exception):
                    _log.warning("record.refused", error=str(reply))
            elif answer.done():
                continue
            elif isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        if unanswered:
            _log.warning("commit.delayed", calls=len(unanswered), error=str(replies[0]))
        return unanswered
