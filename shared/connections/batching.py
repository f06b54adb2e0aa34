"""Share round trips to Redis: script calls that arrive while one is under way go together in the next.

In Python a round trip costs many times the CPU of one more command in it, and a busy loop has a hundred tasks that ask
at the same time. A call that comes alone leaves at once: an idle loop waits for nothing.
"""

import asyncio
from contextvars import Context
from typing import Any

from redis.asyncio import Redis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.kept_connection import KeptConnection

_TOGETHER = 16
"""Calls in one round trip: more would save little CPU, and hold many large checkpoints in memory at once."""


class RoundTrips:
    """Runs the script calls of one event loop, in the order in which they were asked for.

    Args:
        redis: A client of the loop.
    """

    def __init__(self, redis: Redis) -> None:
        self._connection = KeptConnection(redis)
        self._waiting: list[tuple[scripts.Call[Any], asyncio.Future[Any]]] = []
        self._is_under_way = False
        self._writer: asyncio.Task[None] | None = None

    async def run(self, call: scripts.Call[scripts.T]) -> scripts.T:
        """Run `call` as `scripts.run` does; if the caller is cancelled it may have run or not."""
        if not self._is_under_way:
            return await self._run_alone(call)
        answer: asyncio.Future[scripts.T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        return await answer

    async def _run_alone(self, call: scripts.Call[scripts.T]) -> scripts.T:
        self._is_under_way = True
        try:
            return await scripts.run(self._connection, call)
        finally:
            self._is_under_way = False
            if self._waiting:
                # In a context of its own: who came first must not matter to those that joined.
                self._is_under_way = True
                self._writer = asyncio.get_running_loop().create_task(self._write(), context=Context())

    async def _write(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                wanted = [(call, answer) for call, answer in together if not answer.done()]
                if wanted:
                    await self._run_together(wanted)
        finally:
            self._is_under_way = False

    async def _run_together(self, together: list[tuple[scripts.Call[Any], asyncio.Future[Any]]]) -> None:
        try:
            replies = await scripts.run_many(self._connection, [call for call, _ in together])
        except Exception as error:
            replies = [error] * len(together)
        for (_, answer), reply in zip(together, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
