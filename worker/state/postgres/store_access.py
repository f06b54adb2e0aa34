"""The verbs of the store on Postgres: what `Access` does by scripts, one statement each.

langgraph-checkpoint-postgres has a store too. It is not used: it knows no tenants and no fence, compares numbers as
texts, and returns nothing for a filter on what JSON cannot hold. This way the store is one, wherever its items are.
"""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.worker.state.postgres.connections import Postgres
from langgraph_rq.worker.state.store.access import NAMESPACES, Access, Found, StoreFencedError, current_tenant
from langgraph_rq.worker.state.store.records import Namespace, pack_item, write_namespace

_ITEMS = 20_000
"""How many items one statement lists, and those of one namespace more."""
_ROOM = 1_000_000
"""Bytes that one statement reads, and one item more."""

_LIVE = "(expires_at IS NULL OR expires_at > clock_timestamp())"
_NOW_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

# Takes the row of the task, so that a later attempt is seen by whatever commits after it has begun.
_FENCE = """
fence AS (
    INSERT INTO lgrq_attempts AS kept (task_id, epoch, expires_at)
    VALUES (%(task)s, %(epoch)s, now() + interval '1 day')
    ON CONFLICT (task_id) DO UPDATE SET epoch = excluded.epoch, expires_at = excluded.expires_at
    WHERE kept.epoch <= excluded.epoch
    RETURNING 1
)"""
_NO_FENCE = "fence AS (SELECT 1)"

# Later than all others of the namespace, also when the clock went back: the order of puts is that of their times.
_PUT = f"""
WITH {{fence}}, put AS (
    INSERT INTO lgrq_items AS kept
        (tenant, namespace, key, value, vectors, created_us, updated_us, ttl_ms, expires_at)
    SELECT %(tenant)s, %(namespace)s, %(key)s, %(value)s, %(vectors)s::bytea, at_us, at_us, %(ttl_ms)s::bigint,
        CASE WHEN %(ttl_ms)s::bigint > 0
            THEN clock_timestamp() + %(ttl_ms)s::bigint * interval '1 millisecond' END
    FROM fence, (
        SELECT greatest({_NOW_US}, coalesce(max(updated_us), 0) + 1) AS at_us
        FROM lgrq_items WHERE tenant = %(tenant)s AND namespace = %(namespace)s
    ) AS clock
    ON CONFLICT (tenant, namespace, key) DO UPDATE SET
        value = excluded.value, vectors = excluded.vectors, ttl_ms = excluded.ttl_ms, expires_at = excluded.expires_at,
        created_us = CASE WHEN kept.expires_at <= clock_timestamp() THEN excluded.created_us ELSE kept.created_us END,
        updated_us = greatest(excluded.updated_us, kept.updated_us + 1)
)
SELECT 1 FROM fence
"""  # noqa: S608 - constants of this file

_DELETE = """
WITH {fence}, gone AS (
    DELETE FROM lgrq_items USING fence WHERE tenant = %(tenant)s AND namespace = %(namespace)s AND key = %(key)s
)
SELECT 1 FROM fence
"""

# As many as there is room for, in the order of the keys; of the others the length only, for which no value is read.
_READ = f"""
SELECT key, CASE WHEN upto - octet_length(read) <= {_ROOM} THEN read END AS value, created_us, updated_us, ttl_ms
FROM (
    SELECT *, {{column}} AS read,
        sum(octet_length({{column}})) OVER (ORDER BY array_position(%(keys)s::bytea[], key)) AS upto
    FROM lgrq_items
    WHERE tenant = %(tenant)s AND namespace = %(namespace)s AND key = ANY(%(keys)s)
        AND {{column}} IS NOT NULL AND {_LIVE}
) AS found
"""  # noqa: S608
_GET, _VECTORS = _READ.format(column="value"), _READ.format(column="vectors")

_REFRESH = f"""
UPDATE lgrq_items SET expires_at = clock_timestamp() + ttl_ms * interval '1 millisecond'
WHERE tenant = %(tenant)s AND namespace = %(namespace)s AND key = ANY(%(keys)s) AND ttl_ms > 0 AND {_LIVE}
"""  # noqa: S608

# From one namespace to the next by the index, whatever number of items each has.
_FIND = f"""
WITH RECURSIVE space AS (
    (SELECT namespace FROM lgrq_items WHERE tenant = %(tenant)s AND namespace {{lower}} %(first)s
        AND (%(last)s::bytea IS NULL OR namespace < %(last)s) ORDER BY namespace LIMIT 1)
    UNION ALL
    SELECT (SELECT i.namespace FROM lgrq_items i WHERE i.tenant = %(tenant)s AND i.namespace > space.namespace
        AND (%(last)s::bytea IS NULL OR i.namespace < %(last)s) ORDER BY i.namespace LIMIT 1)
    FROM space WHERE space.namespace IS NOT NULL
), listed AS (
    SELECT namespace FROM space WHERE namespace IS NOT NULL LIMIT %(namespaces)s
)
SELECT listed.namespace, item.key, item.updated_us
FROM listed LEFT JOIN LATERAL (
    SELECT key, updated_us FROM lgrq_items
    WHERE tenant = %(tenant)s AND namespace = listed.namespace AND {_LIVE}
    ORDER BY updated_us DESC LIMIT greatest(%(each)s, 1)
) AS item ON true
ORDER BY listed.namespace, item.updated_us
"""  # noqa: S608

_RAISE = f"WITH {_FENCE} SELECT 1 FROM fence"  # noqa: S608


@dataclass(frozen=True, slots=True)
class PostgresAccess(Access):
    """Runs the verbs from any loop or thread; fenced and patient as `Access`.

    Args:
        postgres: The database, of the running loop.
    """

    postgres: Postgres | None = None

    async def write_in_order(self, writes: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run writes one after the other; of those that come behind an error none is made."""
        left = list(writes)
        try:
            while left:
                await left.pop(0)
        finally:
            for write in left:
                write.close()

    async def get(self, namespace: Namespace, keys: Sequence[str], *, refresh_ttl: bool) -> list[bytes | None]:
        """Read the first of some items, as the scripts do; None where there is none.

        `refresh_ttl`: those that expire live for their whole time again.
        """
        found = await self._read(_GET, namespace, keys)
        if refresh_ttl and any(row and row["ttl_ms"] for row in found):
            await self._rows(_REFRESH, **_names(namespace, keys[: len(found)]))
        return [row and pack_item(row["created_us"], row["updated_us"], row["ttl_ms"], row["value"]) for row in found]

    async def vectors(self, namespace: Namespace, keys: Sequence[str]) -> list[bytes | None]:
        """Read the embeddings of the first of some items, as `get` does; None where there are none."""
        return [row and row["value"] for row in await self._read(_VECTORS, namespace, keys)]

    async def find(self, first: bytes, last: bytes, each: int = 0, behind: bytes = b"") -> Found:
        """List namespaces and the newest items of each, as find.lua does; `behind` is not needed."""
        del behind
        namespaces = max(1, min(NAMESPACES, _ITEMS // max(each, 1)))
        rows = await self._rows(
            _FIND.format(lower=">" if first.startswith(b"(") else ">="),
            first=b"" if first == b"-" else first[1:],
            last=None if last == b"+" else last[1:],
            namespaces=namespaces,
            each=each,
        )
        listed: dict[bytes, list[bytes]] = {}
        for row in rows:
            members = listed.setdefault(row["namespace"], [])
            if row["key"] is not None:
                members += [row["key"], b"%d" % row["updated_us"]]
        live = [(namespace, members if each else []) for namespace, members in listed.items() if members]
        return Found(len(listed) == namespaces, max(listed, default=b""), b"", live)

    async def raise_epoch(self, task_id: str, epoch: int) -> None:
        """Refuse from now on what earlier attempts at a task put."""
        await self._rows(_RAISE, task=task_id, epoch=epoch)

    async def _write(self, verb: str, namespace: Namespace, key: str, *args: Argument) -> None:
        task, epoch = self._attempt()
        place = {"namespace": write_namespace(namespace).encode(), "key": key.encode()}
        parameters: dict[str, Any] = {**place, "task": task, "epoch": epoch}
        if verb == "put":
            ttl_ms, value, vectors, _ = args
            parameters |= {"ttl_ms": ttl_ms, "value": value, "vectors": vectors or None}
        statement = (_PUT if verb == "put" else _DELETE).format(fence=_FENCE if task else _NO_FENCE)
        if not await self._rows(statement, **parameters):
            raise StoreFencedError("expected the newest attempt at a task, got: an earlier one")

    async def _read(self, statement: str, namespace: Namespace, keys: Sequence[str]) -> list[Any]:
        """Return the rows of as many keys as there was room for; None for a key without one."""
        rows = {row["key"]: row for row in await self._rows(statement, **_names(namespace, keys))}
        found = [rows.get(key.encode()) for key in keys]
        cut = (at for at, row in enumerate(found) if row and row["value"] is None)
        return found[: next(cut, len(found))]

    async def _rows(self, statement: str, **parameters: Any) -> list[Any]:
        assert self.postgres
        return await self.postgres.rows(statement, {"tenant": current_tenant(), **parameters})


def _names(namespace: Namespace, keys: Sequence[str]) -> dict[str, Any]:
    return {"namespace": write_namespace(namespace).encode(), "keys": [key.encode() for key in keys]}
