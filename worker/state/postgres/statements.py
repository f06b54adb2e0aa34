"""The statements on a thread, one per verb. Each is a transaction that compares the thread's fencing token first.

`fence` takes the row of the thread, so that writers of a thread come one after the other, and gives no row where the
caller may not write: then nothing is written, and the statement returns nothing. A caller without a token, such as an
operation on a thread at rest, is not compared.
"""

_NOT_OUTDATED = "(%(token)s::bigint IS NULL OR kept.token <= %(token)s)"
"""No higher token was seen on the thread."""

# After a failover Redis may have forgotten who claimed a task, and a task that never began on the thread may run.
_HAS_BEGUN = "(%(token)s::bigint IS NULL OR kept.token IN (0, %(token)s))"
"""The task was the last to begin on the thread, or nothing is known of any."""


# The time is moved only if it has changed by a hundredth: an index has it, and most writes need not touch that.
def _fence(condition: str) -> str:
    return f"""
fence AS (
    INSERT INTO lgrq_threads AS kept (thread_id, token, expires_at, changes)
    VALUES (%(thread)s, coalesce(%(token)s::bigint, 0), now() + %(ttl)s, 1)
    ON CONFLICT (thread_id) DO UPDATE SET
        token = greatest(kept.token, excluded.token),
        changes = kept.changes + 1,
        expires_at = CASE
            WHEN abs(extract(epoch FROM excluded.expires_at - kept.expires_at)) * 100 > extract(epoch FROM %(ttl)s)
            THEN excluded.expires_at ELSE kept.expires_at END
    WHERE {condition}
    RETURNING changes, trimmed
)"""  # noqa: S608 - constants of this file


BEGIN = f"""
WITH {_fence(_NOT_OUTDATED)}
SELECT EXISTS (SELECT FROM checkpoints WHERE thread_id = %(thread)s) AS has_checkpoints,
    (SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = %(thread)s AND checkpoint_ns = '') AS newest
FROM fence
"""  # noqa: S608

PUT = f"""
WITH {_fence(_HAS_BEGUN)}, value AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(thread)s, %(namespace)s, v.channel, v.version, v.type, v.blob
    FROM fence, unnest(%(channels)s::text[], %(versions)s::text[], %(types)s::text[], %(blobs)s::bytea[])
        AS v (channel, version, type, blob)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), checkpoint AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT %(thread)s, %(namespace)s, %(id)s, %(parent)s, %(checkpoint)s::jsonb, %(metadata)s::jsonb FROM fence
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
        DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)
SELECT changes, trimmed FROM fence
"""  # noqa: S608


def _replaced(part: str, column: str) -> str:
    """Keep what an earlier run wrote in the row, however often the later one writes there."""
    return f"""lgrq_replaced_{part} =
                CASE WHEN kept.lgrq_run = excluded.lgrq_run THEN kept.lgrq_replaced_{part} ELSE kept.{column} END"""


# A repeated regular write counts once, the first; of a special one (below 0, such as an answer) the last. What an
# earlier run wrote in its place is kept: the writer may be rolled back. Its index tells its channel.
PUT_WRITES = f"""
WITH {_fence(_HAS_BEGUN)}, write AS (
    INSERT INTO checkpoint_writes AS kept
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob, lgrq_run)
    SELECT %(thread)s, %(namespace)s, %(id)s, %(task)s, %(path)s, w.idx, w.channel, w.type, w.blob, %(run)s
    FROM fence, unnest(%(indexes)s::int[], %(channels)s::text[], %(types)s::text[], %(blobs)s::bytea[])
        AS w (idx, channel, type, blob)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
        DO UPDATE SET
            {_replaced("run", "lgrq_run")}, {_replaced("type", "type")}, {_replaced("blob", "blob")},
            channel = excluded.channel, type = excluded.type, blob = excluded.blob, lgrq_run = excluded.lgrq_run
        WHERE kept.idx < 0
)
SELECT changes FROM fence
"""  # noqa: S608

EXPIRE = f"""
WITH {_fence(_NOT_OUTDATED)}
SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread)s) AS checkpoints FROM fence
"""  # noqa: S608

# The row stays for an hour, so that no write that is late brings the thread back. A caller without a token outranks the
# task that ran last.
DELETE = f"""
WITH fence AS (
    INSERT INTO lgrq_threads AS kept (thread_id, token, expires_at, changes)
    VALUES (%(thread)s, coalesce(%(token)s::bigint, 0), now() + interval '1 hour', 1)
    ON CONFLICT (thread_id) DO UPDATE SET
        token = CASE WHEN %(token)s::bigint IS NULL THEN kept.token + 1 ELSE excluded.token END,
        changes = kept.changes + 1, trimmed = 0, expires_at = excluded.expires_at
    WHERE {_NOT_OUTDATED}
    RETURNING 1
), value AS (DELETE FROM checkpoint_blobs b USING fence WHERE b.thread_id = %(thread)s
), write AS (DELETE FROM checkpoint_writes w USING fence WHERE w.thread_id = %(thread)s
), checkpoint AS (DELETE FROM checkpoints c USING fence WHERE c.thread_id = %(thread)s RETURNING 1)
SELECT (SELECT count(*) FROM checkpoint) AS checkpoints FROM fence
"""  # noqa: S608

# Their values and writes are there already.
COPY = f"""
WITH fence AS (SELECT 1 FROM lgrq_threads AS kept WHERE kept.thread_id = %(thread)s AND {_HAS_BEGUN} FOR UPDATE
), checkpoint AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT %(thread)s, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    FROM fence, checkpoints c WHERE c.thread_id = %(source)s
    ON CONFLICT DO NOTHING
)
SELECT 1 FROM fence
"""  # noqa: S608

CHANGES = "SELECT changes FROM lgrq_threads WHERE thread_id = %(thread)s"

HEADERS = """
SELECT checkpoint_ns, checkpoint_id, coalesce(parent_checkpoint_id, '') AS parent,
    checkpoint -> 'channel_versions' AS versions, metadata
FROM checkpoints WHERE thread_id = %(thread)s
"""

THREADS_OF_RUNS = """
SELECT thread_id FROM checkpoints WHERE metadata ->> 'run_id' = ANY(%(runs)s)
UNION SELECT thread_id FROM checkpoint_writes WHERE lgrq_run = ANY(%(marks)s::bytea[])
"""

VALUES = "SELECT checkpoint_ns, channel, version FROM checkpoint_blobs WHERE thread_id = %(thread)s"

_REPLACED_KEPT = "(w.lgrq_replaced_blob IS NOT NULL AND (w.lgrq_replaced_run = ANY(%(runs)s::bytea[])) IS NOT TRUE)"
"""A run that stays has written here before."""

# Nothing is dropped if the thread has changed since the caller read its headers: `state` is then 'changed'. What `runs`
# wrote beside the checkpoints of others goes, too: answers to questions, and what followed.
DROP = f"""
WITH fence AS (
    UPDATE lgrq_threads AS kept SET
        token = greatest(kept.token, coalesce(%(token)s::bigint, 0)),
        trimmed = CASE WHEN kept.changes = %(changes)s THEN kept.changes ELSE kept.trimmed END
    WHERE kept.thread_id = %(thread)s AND {_NOT_OUTDATED}
    RETURNING CASE WHEN kept.changes = %(changes)s THEN 'dropped' ELSE 'changed' END AS state
), value AS (
    DELETE FROM checkpoint_blobs b
    USING fence, unnest(%(value_namespaces)s::text[], %(channels)s::text[], %(versions)s::text[])
        AS v (namespace, channel, version)
    WHERE fence.state = 'dropped' AND b.thread_id = %(thread)s
        AND (b.checkpoint_ns, b.channel, b.version) = (v.namespace, v.channel, v.version)
), write AS (
    DELETE FROM checkpoint_writes w
    USING fence, unnest(%(namespaces)s::text[], %(ids)s::text[]) AS p (namespace, id)
    WHERE fence.state = 'dropped' AND w.thread_id = %(thread)s
        AND (w.checkpoint_ns, w.checkpoint_id) = (p.namespace, p.id)
), forgotten AS (
    DELETE FROM checkpoint_writes w USING fence
    WHERE fence.state = 'dropped' AND w.thread_id = %(thread)s AND w.lgrq_run = ANY(%(runs)s::bytea[])
        AND NOT {_REPLACED_KEPT}
), put_back AS (
    UPDATE checkpoint_writes w SET
        type = w.lgrq_replaced_type, blob = w.lgrq_replaced_blob, lgrq_run = w.lgrq_replaced_run,
        lgrq_replaced_run = NULL, lgrq_replaced_type = NULL, lgrq_replaced_blob = NULL
    FROM fence
    WHERE fence.state = 'dropped' AND w.thread_id = %(thread)s AND w.lgrq_run = ANY(%(runs)s::bytea[])
        AND {_REPLACED_KEPT}
        AND (w.checkpoint_ns, w.checkpoint_id) NOT IN (
            SELECT p.namespace, p.id FROM unnest(%(namespaces)s::text[], %(ids)s::text[]) AS p (namespace, id)
        )
), checkpoint AS (
    DELETE FROM checkpoints c
    USING fence, unnest(%(namespaces)s::text[], %(ids)s::text[]) AS p (namespace, id)
    WHERE fence.state = 'dropped' AND c.thread_id = %(thread)s
        AND (c.checkpoint_ns, c.checkpoint_id) = (p.namespace, p.id)
)
SELECT state FROM fence
"""  # noqa: S608
