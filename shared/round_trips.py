"""Share round trips to Redis: script calls that arrive while one is under way go together in the next.

In Python a round trip costs many times the CPU of one more command in it, and a busy loop has a hundred tasks that ask
at the same time. A call that comes alone leaves at once: an idle loop waits for nothing.
"""

import asyncio
from contextvars import Context
from typing import Any

from redis.asyncio import Redis

from shared import lua

_TOGETHER = 16
"""Calls in one round trip: more would save little CPU, and hold many large checkpoints in memory at once."""


class RoundTrips:
    """Runs the script calls of one event loop, in the order in which they were asked for.

    Args:
        redis: A client of the loop.
    """

    def __init__(self, redis: Redis) -> None:
        self._line = lua.Line(redis)
        self._waiting: list[tuple[lua.Call[Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def run(self, call: lua.Call[lua.T]) -> lua.T:
        """Run `call` as `lua.run` does, and raise what it raises; a caller that is cancelled does not stop it."""
        answer: asyncio.Future[lua.T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._writer is None or self._writer.done():
            # In a context of its own: whose call comes first must not matter to those that join it.
            self._writer = asyncio.get_running_loop().create_task(self._write(), context=Context())
        return await answer

    async def _write(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            try:
                replies = await lua.run_many(self._line, [call for call, _ in together])
            except Exception as error:
                replies = [error] * len(together)
            for (_, answer), reply in zip(together, replies, strict=True):
                if answer.done():
                    continue
                if isinstance(reply, Exception):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
