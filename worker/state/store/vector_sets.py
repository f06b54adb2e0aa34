"""The store's script calls where embeddings are in vector sets, which Redis has since 8.0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoPermissionError, ResponseError

from langgraph_rq.shared.connections.clients import is_wrong_type
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.worker.state.store.access import NAMESPACES, Access, current_tenant, load_verb, register_key
from langgraph_rq.worker.state.store.records import Namespace, read_namespace, write_namespace

_SETTING = "LGRQ_STORE_INDEX=vector-sets"


class Space(NamedTuple):
    """What survey.lua counts of a namespace that has items."""

    namespace: Namespace
    items: int
    in_hash: int
    """Items whose embeddings are in the hash."""
    in_set: int
    """Embeddings in the vector set."""
    other_dims: int
    """Length of the embeddings of another model in the other vector set; 0: there are none."""


class Near(NamedTuple):
    """What nearest.lua finds in a namespace."""

    in_hash: int
    """Items whose embeddings are in the hash."""
    least: float
    """The cosine of the last one that was found; minus infinity: no other is left."""
    embeddings: list[tuple[str, float, float]]
    """An item's key, the cosine of one of its embeddings to the query, and when the item was put (us)."""


@dataclass(frozen=True, slots=True)
class VectorSets(Access):
    """Runs the verbs of `Access`, of which a put writes embeddings into a vector set, and those that search there."""

    puts_into_sets: ClassVar[bool] = True

    async def survey(self, first: bytes, last: bytes, dims: int) -> tuple[bool, bytes, list[Space]]:
        """Count what the first of some namespaces hold; return whether there are more, and the last one looked at."""
        tenant = current_tenant()
        args: list[Argument] = [tenant, first, last, NAMESPACES, dims]
        return await self.run(Call(load_verb("survey"), [register_key(tenant)], args, _read_survey))

    async def nearest(self, namespaces: Sequence[Namespace], query: bytes, dims: int, count: int) -> list[Near]:
        """Find the nearest embeddings of the first of some namespaces, of at least one, as one script has time for.

        Args:
            namespaces: At most `NAMESPACES`.
            query: 32-bit floats.
            dims: How many.
            count: Embeddings of each namespace at most.
        """
        args: list[Argument] = [current_tenant(), query, dims, count, *map(write_namespace, namespaces)]
        return await self.run(Call(load_verb("nearest"), [], args, lambda reply: [_read_near(one) for one in reply]))

    async def embedded(self, namespace: Namespace, cursor: bytes) -> tuple[bytes, dict[str, float]]:
        """List some of the items whose embeddings are in the hash, and when each was put (us).

        Returns where to go on, b"0" at the end, and the items.
        """
        args: list[Argument] = [current_tenant(), write_namespace(namespace), cursor]
        return await self.run(Call(load_verb("embedded"), [], args, _read_embedded))


async def check_vector_sets(redis: AsyncRedis, *, is_encrypted: bool) -> None:
    """Check that embeddings may lie in vector sets, and that this Redis has them.

    Raises:
        SettingsError: they may not, it has none, or its user may not use them.
        redis.RedisError: it does not answer.
    """
    if is_encrypted:
        raise SettingsError(
            f"{_SETTING}: expected state without encryption, as Redis compares the embeddings, got: LGRQ_STATE_KEY; "
            "use LGRQ_STORE_INDEX=scan"
        )
    try:
        await redis.execute_command("VREM", "agent:store_index:", "")
    except NoPermissionError:
        raise SettingsError(
            f"{_SETTING}: expected a Redis user with the commands of vector sets, got: one without; "
            "make the users of Redis again with INDEX=vector-sets deploy/make-secrets.sh"
        ) from None
    except ResponseError as error:
        if is_wrong_type(error):
            return  # the scripts delete what was planted there
        if "unknown command" not in str(error).lower():
            raise
        server = await redis.info("server")
        valkey = server.get("valkey_version")
        got = f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"
        raise SettingsError(
            f"{_SETTING}: expected Redis 8.0 or later, which has vector sets, got: {got}; use LGRQ_STORE_INDEX=scan"
        ) from None


def _read_survey(reply: Any) -> tuple[bool, bytes, list[Space]]:
    is_more, last, *spaces = reply
    return bool(is_more), last, [Space(read_namespace(written), *counts) for written, *counts in spaces]


def _read_near(reply: Any) -> Near:
    in_hash, least, *found = reply
    rows = zip(found[::3], found[1::3], found[2::3], strict=True)
    embeddings = [(key.decode(), _cosine(similarity), float(put_us)) for key, similarity, put_us in rows]
    return Near(in_hash, _cosine(least) if least else -math.inf, embeddings)


def _cosine(similarity: bytes) -> float:
    """Return the cosine that a vector set gives as a similarity from 0 to 1."""
    return min(1.0, max(-1.0, 2 * float(similarity) - 1))


def _read_embedded(reply: Any) -> tuple[bytes, dict[str, float]]:
    cursor, *found = reply
    return cursor, {key.decode(): float(put_us) for key, put_us in zip(found[::2], found[1::2], strict=True)}
