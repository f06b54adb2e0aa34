"""Tables and columns beside those of langgraph-checkpoint-postgres, and their upkeep.

lgrq_threads    a row per thread: the highest fencing token that was seen, until when the thread is kept, how often it
                was written to, and how often at its last trimming
lgrq_items      items of the store by tenant, namespace (labels that each end with a NUL) and key
lgrq_attempts   the highest epoch of a task that has put items, for a day
checkpoint_writes, of the library, which does not look at these columns:
    lgrq_run                         `run_mark` of the task, else of the run, that wrote the row
    lgrq_replaced_run, _type, _blob  what an earlier one had written there, which a rollback puts back

Nothing in Postgres expires by itself: each worker process deletes what is over, a batch at a time.
"""

import asyncio
import random

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.state.postgres.connections import Postgres

SWEEP_S = 60.0
_BATCH = 200
_LOCK = 0x6C677271
"""Of the workers that set the tables up: `lgrq`."""
_LOCK_PAUSE_S = 0.1

TABLES = (
    """CREATE TABLE IF NOT EXISTS lgrq_threads (
        thread_id text PRIMARY KEY,
        token bigint NOT NULL,
        expires_at timestamptz NOT NULL,
        changes bigint NOT NULL,
        trimmed bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70)""",
    "CREATE INDEX IF NOT EXISTS lgrq_threads_expires_at ON lgrq_threads (expires_at)",
    """CREATE TABLE IF NOT EXISTS lgrq_items (
        tenant text NOT NULL,
        namespace bytea NOT NULL,
        key bytea NOT NULL,
        value bytea NOT NULL,
        vectors bytea,
        created_us bigint NOT NULL,
        updated_us bigint NOT NULL,
        ttl_ms bigint NOT NULL,
        expires_at timestamptz,
        PRIMARY KEY (tenant, namespace, key)
    )""",
    "CREATE INDEX IF NOT EXISTS lgrq_items_updated_us ON lgrq_items (tenant, namespace, updated_us)",
    "CREATE INDEX IF NOT EXISTS lgrq_items_expires_at ON lgrq_items (expires_at) WHERE expires_at IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS lgrq_attempts (
        task_id text PRIMARY KEY,
        epoch bigint NOT NULL,
        expires_at timestamptz NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS lgrq_attempts_expires_at ON lgrq_attempts (expires_at)",
    # Not ADD COLUMN IF NOT EXISTS alone: it locks the table, for writers too, also where the column is there.
    """DO $$ BEGIN
        IF NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = 'checkpoint_writes'::regclass AND attname = 'lgrq_replaced_blob'
        ) THEN
            ALTER TABLE checkpoint_writes
                ADD COLUMN IF NOT EXISTS lgrq_run bytea,
                ADD COLUMN IF NOT EXISTS lgrq_replaced_run bytea,
                ADD COLUMN IF NOT EXISTS lgrq_replaced_type text,
                ADD COLUMN IF NOT EXISTS lgrq_replaced_blob bytea;
        END IF;
    END $$""",
)

_SWEEPS = (
    """WITH gone AS (
        SELECT thread_id FROM lgrq_threads WHERE expires_at < now() ORDER BY expires_at LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ), checkpoint AS (DELETE FROM checkpoints USING gone WHERE checkpoints.thread_id = gone.thread_id
    ), value AS (DELETE FROM checkpoint_blobs USING gone WHERE checkpoint_blobs.thread_id = gone.thread_id
    ), write AS (DELETE FROM checkpoint_writes USING gone WHERE checkpoint_writes.thread_id = gone.thread_id)
    DELETE FROM lgrq_threads USING gone WHERE lgrq_threads.thread_id = gone.thread_id RETURNING 1""",
    """WITH gone AS (
        SELECT tenant, namespace, key FROM lgrq_items WHERE expires_at < now() ORDER BY expires_at LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ) DELETE FROM lgrq_items USING gone
    WHERE (lgrq_items.tenant, lgrq_items.namespace, lgrq_items.key) = (gone.tenant, gone.namespace, gone.key)
    RETURNING 1""",
    """WITH gone AS (
        SELECT task_id FROM lgrq_attempts WHERE expires_at < now() ORDER BY expires_at LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ) DELETE FROM lgrq_attempts USING gone WHERE lgrq_attempts.task_id = gone.task_id RETURNING 1""",
)

_log = get_logger(__name__)


async def set_up(postgres: Postgres) -> None:
    """Create what is missing; one worker at a time, however many boot together."""

    async def create() -> None:
        async with postgres.pool.connection() as connection:
            # Not pg_advisory_lock: an index that is created concurrently waits for every statement that runs, and so
            # for a worker that waits for the lock.
            while not await _try_lock(connection):  # noqa: ASYNC110 - another worker gives it back
                await asyncio.sleep(_LOCK_PAUSE_S)
            try:
                await AsyncPostgresSaver(connection).setup()
                for statement in TABLES:
                    await connection.execute(statement)
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])

    await postgres.outages.retry(create)


async def sweep(postgres: Postgres) -> int:
    """Delete what is over; return how many threads, items and attempts that were."""
    deleted = 0
    for statement in _SWEEPS:
        while found := len(await postgres.rows(statement, {"batch": _BATCH})):
            deleted += found
            if found < _BATCH:
                break
    return deleted


async def sweep_regularly(postgres: Postgres) -> None:
    """Sweep until cancelled; workers that started together do so at different times."""
    while True:
        await asyncio.sleep(SWEEP_S * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            deleted = await sweep(postgres)
        except Exception as error:  # tried again in a minute
            _log.warning("state.not_swept", error=f"{type(error).__name__}: {error}")
        else:
            _log.debug("state.swept", deleted=deleted)


async def _try_lock(connection: AsyncConnection[DictRow]) -> bool:
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS is_held", [_LOCK])
    row = await cursor.fetchone()
    return bool(row and row["is_held"])
