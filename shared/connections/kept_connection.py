"""A pooled connection to Redis, kept between round trips by the callers that make most of them.

A round trip through redis-py's client costs twice the CPU time of one through a connection: for each command the
client checks a connection out of the pool, tests it, packs in Python, looks up callbacks and notifies observers.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_KEPT_S = 1.0
"""After a second the connection is taken from the pool again, which detects that the server has closed it, or that
another server is the primary by now."""

Argument = str | int | float | bytes
Command = tuple[Argument, ...]


class KeptConnection:
    """One connection of the client's pool, for one coroutine at a time; kept while round trips follow each other.

    A connection that breaks closes itself; nothing is sent twice.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._connection: AbstractConnection | None = None
        self._timeout_s: float | None = None
        self._patience = _Patience()
        self._taken_at = 0.0
        self._is_busy = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once, then read one reply for each.

        An error reply is returned as an exception in its place, and so is the error of a command that cannot be packed:
        an argument of another type, or half of a surrogate pair.

        Raises: what breaks the connection; RuntimeError for a second concurrent caller, which would read the replies of
            the first.
        """
        if self._is_busy:
            raise RuntimeError("expected one caller of a KeptConnection at a time, got: a second")
        self._is_busy = True
        try:
            packed = [_pack(command) for command in commands]
            if time.monotonic() - self._taken_at > _KEPT_S:
                await self.release()
            connection = self._connection or await self._take()
            async with asyncio.timeout(None) as step:
                self._patience.begin(step, self._timeout_s)
                # Joined: with TLS each part would be a record of its own, which the server reads one by one.
                sent = b"".join([p for p in packed if isinstance(p, bytes)])
                await connection.send_packed_command(sent, check_health=False)
                replies = [await _read(connection) if isinstance(p, bytes) else p for p in packed]
            if connection.should_reconnect():
                await connection.disconnect(nowait=True)
                await self.release()
        except TimeoutError:
            await self.release()
            raise RedisTimeoutError(f"Redis did not answer within {self._timeout_s} s") from None
        except BaseException:
            await self.release()
            raise
        finally:
            self._patience.end()
            self._is_busy = False
        return replies

    async def _take(self) -> AbstractConnection:
        """Take a connection from the pool, and take over its timeout, which then covers a whole exchange.

        redis-py would wait for each step with `asyncio.wait_for`, which creates a task, and in Python 3.11 loses a
        cancellation if the step has ended meanwhile (python/cpython#86296). Connecting still has that flaw, hence the
        check of `cancelling`.
        """
        task = asyncio.current_task()
        assert task
        cancels = task.cancelling()
        connection: AbstractConnection = await self._pool.get_connection()
        self._connection, self._taken_at = connection, time.monotonic()
        self._timeout_s, connection.socket_timeout = connection.socket_timeout, None
        if task.cancelling() > cancels:
            await self.release()
            raise asyncio.CancelledError
        return connection

    async def release(self) -> None:
        """Return the connection to the pool, which checks it before it is used again."""
        connection, self._connection = self._connection, None
        self._patience.stop()
        if connection:
            connection.socket_timeout = self._timeout_s
            await self._pool.release(connection)


class _Patience:
    """The time that one step after another may take, with one timer for all.

    To make a timer for each step and to cancel it again costs a tenth of a round trip.
    """

    def __init__(self) -> None:
        self._step: asyncio.Timeout | None = None
        self._ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, step: asyncio.Timeout, timeout_s: float | None) -> None:
        """Time out `step`, which has no limit of its own yet, after `timeout_s`; None: never."""
        if timeout_s is None:
            return
        loop = asyncio.get_running_loop()
        self._step, self._ends_at = step, loop.time() + timeout_s
        if self._timer is None:
            self._timer = loop.call_at(self._ends_at, self._look)

    def end(self) -> None:
        """Leave the step alone, since it has ended. The timer stays for those that follow."""
        self._step = None

    def stop(self) -> None:
        """Stop the timer: no step follows."""
        timer, self._timer = self._timer, None
        if timer:
            timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._step is None:
            return
        loop = asyncio.get_running_loop()
        if self._ends_at <= loop.time():
            self._step.reschedule(self._ends_at)
        else:
            self._timer = loop.call_at(self._ends_at, self._look)


_pack_command: Callable[[Command], bytes] = pack_command  # type: ignore[assignment]  # its stub says: a tuple of one


def _pack(command: Command) -> bytes | Exception:
    try:
        return _pack_command(command)
    except (TypeError, ValueError) as error:
        return error


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ReadOnlyError as error:
        # The primary has become a replica: its name may resolve to another server by now.
        connection.mark_for_reconnect()
        return error
    except ResponseError as error:
        return error
