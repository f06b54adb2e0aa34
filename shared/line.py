"""A connection to Redis that is kept between round trips, for the few who make most of them.

A round trip through redis-py's client costs the loop twice the CPU time of one through its connection: the client asks
the pool for a connection, has it checked, packs in Python, looks for callbacks and reports to observers, each time.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

_KEPT_S = 1.0
"""After a longer silence the pool is asked for a connection; it notices when the server has closed the one it has."""

Argument = str | int | float | bytes
Command = tuple[Argument, ...]


class Line:
    """A connection to Redis for one user at a time, kept between its round trips while they follow each other closely.

    A connection that breaks closes itself; nothing is sent twice.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._connection: AbstractConnection | None = None
        self._used_at = 0.0

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once, then read a reply for each; an error that Redis answers is a reply.

        Raises: what breaks the connection.
        """
        if time.monotonic() - self._used_at > _KEPT_S:
            await self.release()
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        try:
            await self._connection.send_packed_command([_pack(command) for command in commands], check_health=False)
            replies = [await _read(self._connection) for _ in commands]
        except BaseException:
            await self.release()
            raise
        self._used_at = time.monotonic()
        return replies

    async def release(self) -> None:
        """Give the connection back to the pool, which sees to it before it is used again."""
        connection, self._connection = self._connection, None
        if connection:
            await self._pool.release(connection)


_pack: Callable[[Command], bytes] = pack_command  # type: ignore[assignment]  # its stub says: a tuple of one


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
