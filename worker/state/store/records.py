"""How items of the store are written: their names, their values and their embeddings, as bytes."""

import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer

Namespace = tuple[str, ...]

_FORMAT = 1
_HEADER = struct.Struct(">BQQQ")
"""Format, created (us), updated (us), time to live (ms); the scripts write it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """An item as it was read."""

    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Records:
    """Writes and reads the items of one tenant. What is encrypted is read only under the name that it was written for.

    Args:
        serializer: Writes and reads values.
        tenant: Whose items these are.
    """

    serializer: StateSerializer
    tenant: str

    def write(self, namespace: Namespace, key: str, value: dict[str, Any]) -> bytes:
        """Write a value.

        Raises:
            RefusedStateError: it holds a type that is not allowed.
        """
        return self._write("store", namespace, key, value)

    def read(self, namespace: Namespace, key: str, item: bytes) -> Record:
        """Read an item, which may be anything that a client put into Redis.

        Raises:
            RefusedStateError: it names a type that is not allowed, does not decrypt, or is damaged.
        """
        try:
            format_, created_us, updated_us, _ = _HEADER.unpack_from(item)
            created_at, updated_at = (_EPOCH + timedelta(microseconds=us) for us in (created_us, updated_us))
        except (struct.error, OverflowError) as error:
            raise _damaged(namespace, key, str(error)) from None
        if format_ != _FORMAT:
            raise _damaged(namespace, key, f"format {format_}")
        value = self._read("store", namespace, key, item[_HEADER.size :])
        if not isinstance(value, dict):
            raise _damaged(namespace, key, type(value).__name__)
        return Record(value, created_at, updated_at)

    def write_vectors(self, namespace: Namespace, key: str, vectors: bytes) -> bytes:
        """Write the embeddings of an item."""
        return self._write("store_vectors", namespace, key, vectors)

    def read_vectors(self, namespace: Namespace, key: str, written: bytes) -> bytes:
        """Read the embeddings of an item.

        Raises:
            RefusedStateError: they do not decrypt, or are damaged.
        """
        vectors = self._read("store_vectors", namespace, key, written)
        if not isinstance(vectors, bytes):
            raise _damaged(namespace, key, type(vectors).__name__)
        return vectors

    def _write(self, kind: str, namespace: Namespace, key: str, value: Any) -> bytes:
        # What is not encrypted is the same at every place, and places cost more than short values do.
        at = self.serializer if self.serializer.is_plain else self._at(kind, namespace, key)
        written_as, data = at.dumps_typed(value)
        name = written_as.encode()
        return bytes([len(name)]) + name + data

    def _read(self, kind: str, namespace: Namespace, key: str, written: bytes) -> Any:
        if not written or len(written) <= written[0]:
            raise _damaged(namespace, key, f"{len(written)} bytes")
        end = 1 + written[0]
        written_as = written[1:end].decode(errors="replace")
        at = self._at(kind, namespace, key) if "+" in written_as else self.serializer
        return at.loads_typed((written_as, written[end:]))

    def _at(self, kind: str, namespace: Namespace, key: str) -> StateSerializer:
        return self.serializer.at(f"{kind}:{json.dumps([self.tenant, *namespace, key])}")


def _damaged(namespace: Namespace, key: str, got: str) -> RefusedStateError:
    return RefusedStateError(f"store: {namespace} {key!r}: expected an item that a worker wrote, got: {got}")


def pack_item(created_us: int, updated_us: int, ttl_ms: int, value: bytes) -> bytes:
    """Return an item as scripts write it."""
    return _HEADER.pack(_FORMAT, created_us, updated_us, ttl_ms) + value


def write_namespace(namespace: Namespace) -> str:
    """Write a namespace such that bytes sort as tuples do, and that its own begin with it: labels that end with NUL."""
    return "".join(f"{label}\0" for label in namespace)


def read_namespace(written: bytes) -> Namespace:
    """Undo `write_namespace`.

    Raises:
        RefusedStateError: it is none.
    """
    try:
        return tuple(written.decode().split("\0")[:-1])
    except UnicodeDecodeError:
        raise RefusedStateError(f"store: expected a namespace that a worker wrote, got: {written[:50]!r}") from None
