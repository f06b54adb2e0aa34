"""Connections to Postgres, and how an outage of it is recognised."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import ProgramLimitExceeded, ReadOnlySqlTransaction
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed

from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.state.outages import PATIENCE_S, Outages

CONNECT_S = 10
_SILENT_MS = 10_000
"""How long data may stay unacknowledged before a connection counts as broken."""

_OUTAGES = (psycopg.OperationalError, psycopg.InterfaceError, ReadOnlySqlTransaction, PoolClosed, OSError)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[DictRow]]


class PostgresUnavailableError(LanggraphRqError):
    """Postgres does not answer, or refuses the user."""


class Postgres:
    """Runs statements, each of which is a transaction of its own.

    No transaction spans two statements: a worker that is stopped or blocked between them would keep its locks, and a
    thread's next owner would wait for it.

    Args:
        pool: Connections of the running loop.
        url: The same database, for callers in other loops.
        outages: Retries statements.
    """

    def __init__(self, pool: Pool, url: str, outages: Outages) -> None:
        self.pool = pool
        self.outages = outages
        self._url = url
        self._loop = asyncio.get_running_loop()

    async def rows(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Run a statement, which must be idempotent, and return its rows; waits while Postgres is away."""

        async def run() -> list[DictRow]:
            try:
                return await run_once()
            except (ProgramLimitExceeded, psycopg.DataError) as error:
                raise ValueError(f"expected what Postgres can hold, got: {error}") from error

        async def run_once() -> list[DictRow]:
            if asyncio.get_running_loop() is self._loop:
                async with self.pool.connection() as connection:
                    return await _rows(connection, statement, parameters)
            async with await AsyncConnection.connect(self._url, **_options()) as connection:
                return await _rows(connection, statement, parameters)

        return await self.outages.retry(run)


@asynccontextmanager
async def open_postgres(
    url: str,
    *,
    connections: int = 16,
    patience_s: float = PATIENCE_S,
    is_fenced: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Postgres]:
    """Open a pool of the running loop, whose callers wait for a connection.

    Raises:
        PostgresUnavailableError: nothing answers there.
    """
    pool: Pool = AsyncConnectionPool(
        url, min_size=1, max_size=connections, open=False, kwargs=_options(), name="langgraph-rq"
    )
    try:
        # One connection first, whose error says more than that of the pool, which only stops waiting.
        async with await AsyncConnection.connect(url, **_options()):
            pass
        await pool.open(wait=True, timeout=CONNECT_S)
    except psycopg.Error as error:
        await pool.close()
        raise PostgresUnavailableError(f"LGRQ_STATE_URL: Postgres cannot be reached: {str(error).strip()}") from error
    try:
        yield Postgres(pool, url, Outages(patience_s, is_fenced, is_outage, (psycopg.Error, OSError)))
    finally:
        await pool.close()


def is_outage(error: BaseException) -> bool:
    """Return whether Postgres is unreachable, restarting, full or read-only, rather than the statement being wrong."""
    return isinstance(error, _OUTAGES) and not isinstance(error, ProgramLimitExceeded)


def _options() -> dict[str, Any]:
    return {
        "autocommit": True,
        "prepare_threshold": 0,
        "row_factory": dict_row,
        "connect_timeout": CONNECT_S,
        "tcp_user_timeout": _SILENT_MS,
        "application_name": "langgraph-rq",
    }


async def _rows(connection: AsyncConnection[DictRow], statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
    cursor = await connection.execute(statement, parameters, binary=True)
    return await cursor.fetchall() if cursor.description else []
