"""Consumer groups on a Redis stream: several processes share its entries, and none is lost when one of them dies.

Each entry is delivered to one member. It stays pending until that member acknowledges it, and is delivered again, to
whichever member asks first, once it has been pending for `retry_after_ms`. So an entry is delivered at least once.

Source: https://redis.io/docs/latest/develop/data-types/streams/#consumer-groups
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import ResponseError

_BEGINNING = "0-0"
_PAGES = 16
"""Pages of pending entries that one call looks through, so that a long list does not delay new entries."""
_DEAD_MS = 3_600_000
"""A member that has been silent for so long has died: each polls every few seconds."""


class Entry(NamedTuple):
    """One entry of the stream."""

    id: str
    fields: Mapping[bytes, bytes]

    @property
    def written_at_ms(self) -> int:
        """When Redis stored it, by the server's clock."""
        return int(self.id.partition("-")[0])


class StreamConsumer:
    """One member of a consumer group; for one thread.

    The group is created on first use and again after the stream was deleted; it begins with the oldest entry.

    Args:
        redis: A client without `decode_responses`.
        stream: Key of the stream.
        group: Name of the group.
        name: Of this member; unique to the process.
        batch: The most entries that one call returns.
        retry_after_ms: Time after which a pending entry is delivered again.
        stream_ttl_ms: TTL of the stream if it is created here, before its writer has set one.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        stream: str,
        group: str,
        name: str,
        batch: int,
        retry_after_ms: int,
        stream_ttl_ms: int,
    ) -> None:
        self._redis: Any = redis
        self._stream = stream
        self._group = group
        self._name = name
        self._batch = batch
        self._retry_after_ms = retry_after_ms
        self._stream_ttl_ms = stream_ttl_ms
        self._cursor = _BEGINNING
        self._has_joined = False

    def read_new(self, block_ms: int | None = None) -> list[Entry]:
        """Read entries that no member has seen, waiting up to `block_ms` for the first one; None: do not wait."""
        try:
            self._join()
            reply = self._redis.xreadgroup(
                self._group, self._name, {self._stream: ">"}, count=self._batch, block=block_ms
            )
        except ResponseError as error:
            self._check_is_missing(error)
            return []
        return _entries(reply[0][1]) if reply else []

    def take_overdue(self) -> list[Entry]:
        """Take over entries that have been pending for too long, of this member too.

        Each call continues where the last one ended. Fewer than `batch` entries: there are none left for now, or only
        behind many that are not due.
        """
        found: list[Entry] = []
        try:
            self._join()
            for _ in range(_PAGES):
                count = self._batch - len(found)
                cursor, entries, *_ = self._redis.xautoclaim(
                    self._stream, self._group, self._name, self._retry_after_ms, self._cursor, count=count
                )
                self._cursor = cursor.decode()
                found += _entries(entries)
                if self._cursor == _BEGINNING or len(found) >= self._batch:
                    break
        except ResponseError as error:
            self._check_is_missing(error)
        return found

    def acknowledge(self, entries: Sequence[Entry], *, delete: bool = False) -> None:
        """Mark entries as done; with `delete` remove them from the stream, for a group that is its only reader."""
        if not entries:
            return
        ids = [entry.id for entry in entries]
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xack(self._stream, self._group, *ids)
        if delete:
            pipeline.xdel(self._stream, *ids)
        pipeline.execute()

    def leave(self) -> None:
        """Remove this member from the group, unless it has pending entries: those would be lost with it."""
        try:
            if not self._redis.xpending_range(self._stream, self._group, "-", "+", 1, consumername=self._name):
                self._redis.xgroup_delconsumer(self._stream, self._group, self._name)
        except ResponseError as error:
            self._check_is_missing(error)

    def _join(self) -> None:
        if self._has_joined:
            return
        try:
            self._redis.xgroup_create(self._stream, self._group, id=_BEGINNING, mkstream=True)
            self._redis.pexpire(self._stream, self._stream_ttl_ms)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            self._forget_dead_members()
        self._cursor = _BEGINNING
        self._has_joined = True

    def _forget_dead_members(self) -> None:
        """Remove members whose entries were all taken over; each process that was killed leaves one behind."""
        for member in self._redis.xinfo_consumers(self._stream, self._group):
            if member["pending"] == 0 and member["idle"] > _DEAD_MS:
                self._redis.xgroup_delconsumer(self._stream, self._group, member["name"])

    def _check_is_missing(self, error: ResponseError) -> None:
        """Join again on the next call if the stream or the group was deleted; raise any other error."""
        if not str(error).startswith("NOGROUP"):
            raise error
        self._has_joined = False


def _entries(reply: Sequence[tuple[bytes | None, Mapping[bytes, bytes] | None]]) -> list[Entry]:
    """Leave out entries that were trimmed from the stream while they were pending."""
    return [Entry(entry_id.decode(), fields) for entry_id, fields in reply if entry_id and fields]
