"""How checkpoints, values and writes are written as bytes, and how they are named. Format 1.

A record is a byte for the format, two for the length of the header, the header and the checkpoint. The header is
msgpack and never encrypted, since scripts read it: [id of the parent, names of values, delta channels without a value
here, id of the root graph's checkpoint, run, `task_name` of the task]. Checkpoint, values and writes are texts of
`StateSerializer`.

A value is a part of its checkpoint if it is small, for a field of its own takes about 120 bytes. A larger one is stored
once per version and named by every checkpoint that has it.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ormsgpack
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)

from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.ids import RUN_BYTES, long_id, short_id, task_name
from langgraph_rq.worker.state.serializer import StateSerializer

FORMAT = 1

SMALL_BYTES = 200
_COMPRESSED_FROM_BYTES = 1_000
"""Compressing less takes more CPU than its memory is worth: zlib needs 30 us to begin."""
_LONGEST_BYTES = 512_000_000
"""Of one inflated text; the longest that Redis holds plain."""
_MSGPACK, _ZLIB, _KIND = 0, 1, 2
"""First byte of a text: what follows is msgpack, compressed msgpack, or the name of another kind and its data."""

_INT64 = 1 << 63

Header = tuple[str, list[str], list[str], str, str, str]

_FIELDS = ("v", "ts", "channel_versions", "versions_seen", "updated_channels")
_WRITTEN_APART = frozenset({*_FIELDS, "id", "channel_values"})


def namespace_prefix(namespace: str) -> bytes:
    """Return what the names of a namespace's checkpoints begin with; no two namespaces share it."""
    data = namespace.encode("utf-8", "surrogatepass")
    return b"%d:%s:" % (len(data), data)


def name_of(namespace: str, checkpoint_id: str) -> bytes:
    """Return the name of a checkpoint. Names of a namespace are in the order of their ids."""
    return namespace_prefix(namespace) + checkpoint_id.encode("utf-8", "surrogatepass")


def split_name(name: bytes) -> tuple[str, str]:
    """Return namespace and id; both empty for a name that no saver wrote."""
    length, _, rest = name.partition(b":")
    if not length.isdigit():
        return "", ""
    at = int(length)
    return rest[:at].decode("utf-8", "surrogatepass"), rest[at + 1 :].decode("utf-8", "surrogatepass")


class Written(NamedTuple):
    """A checkpoint as it is written.

    Attributes:
        record: Without the values that have a field of their own.
        values: Name -> value, of those that it adds.
        known: Names of those that an earlier checkpoint has written.
    """

    record: bytes
    values: Mapping[str, bytes]
    known: Sequence[str]

    def fields(self, namespace: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield (field, value) of the values that it adds."""
        for name, value in self.values.items():
            yield value_field(namespace, name), value

    def known_fields(self, namespace: str) -> list[bytes]:
        """Return the fields of those that are known."""
        return [value_field(namespace, name) for name in self.known]


class Codec:
    """Writes and reads what one thread holds.

    Args:
        serializer: Of the thread's place.
    """

    __slots__ = ("_serializer", "is_plain")

    def __init__(self, serializer: StateSerializer) -> None:
        self._serializer = serializer
        self.is_plain = serializer.is_plain

    def dump(self, value: Any) -> bytes:
        """Write a value, compressed where it pays.

        Raises:
            RefusedStateError: it holds a type that is not allowed.
        """
        kind, data = self._serializer.dumps_typed(value)
        if kind != "msgpack":
            return bytes((_KIND, len(kind))) + kind.encode() + data
        if len(data) >= _COMPRESSED_FROM_BYTES:
            packed = zlib.compress(data, 1)
            if len(packed) < len(data) * 0.9:
                return bytes((_ZLIB,)) + packed
        return bytes((_MSGPACK,)) + data

    def load(self, text: bytes) -> Any:
        """Read what `dump` wrote; of what anybody else wrote, RefusedStateError."""
        kind, data = _split(text)
        return self._serializer.loads_typed((kind, data))

    def write(
        self,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        parent: str,
        new_versions: ChannelVersions,
        is_stored: "frozenset[str] | set[str]",
    ) -> Written:
        """Write a checkpoint.

        Args:
            checkpoint: With all its values.
            metadata: As it is read again.
            parent: Id of the checkpoint before it, or empty.
            new_versions: Channels whose values no earlier checkpoint has.
            is_stored: Names of values that are known to be large, and stored.
        """
        inline: dict[str, Any] = {}
        values: dict[str, bytes] = {}
        known: list[str] = []
        for channel, value in checkpoint["channel_values"].items():
            name = value_name(channel, checkpoint["channel_versions"].get(channel))
            if channel not in new_versions and name in is_stored:
                known.append(name)
            elif _is_small(value):
                inline[channel] = value
            elif len(text := self.dump(value)) > SMALL_BYTES:
                values[name] = text
            elif self.is_plain and text[0] == _MSGPACK:
                inline[channel] = ormsgpack.Fragment(text[1:])
            else:
                inline[channel] = value
        others = {key: value for key, value in checkpoint.items() if key not in _WRITTEN_APART}
        content = [*map(checkpoint.get, _FIELDS), inline, metadata, others]
        header: Header = (
            parent,
            [*known, *values],
            *_told_by(checkpoint, metadata),
        )
        packed = ormsgpack.packb(header)
        if len(packed) >= 1 << 16:
            raise RefusedStateError(
                f"state: expected large values in fewer channels, got: {len(header[1])} of them, whose names take "
                f"{len(packed)} bytes"
            )
        record = bytes((FORMAT,)) + len(packed).to_bytes(2) + packed + self.dump(content)
        return Written(record, values, known)

    def read(
        self,
        checkpoint_id: str,
        record: bytes,
        values: Sequence[bytes],
        channels: frozenset[str] | None = None,
    ) -> tuple[Checkpoint, CheckpointMetadata, str]:
        """Read a checkpoint, its metadata and the id of its parent, of a record that may be anything.

        Args:
            checkpoint_id: Its id.
            record: The record.
            values: Those that the record names.
            channels: Read large values of these only; None: of all.

        Raises:
            RefusedStateError: no saver with a known key wrote it for this thread, or one of a later format.
        """
        if record[:1] != bytes((FORMAT,)):
            raise RefusedStateError(f"state: expected format {FORMAT}, got: {record[:1].hex() or 'nothing'}")
        parent, names, *_ = read_header(packed_header(record))
        content = self.load(record[3 + int.from_bytes(record[1:3]) :])
        if not isinstance(content, list) or len(content) != len(_FIELDS) + 3:
            raise RefusedStateError("state: expected a checkpoint, got: something else")
        *fields, inline, metadata, others = content
        checkpoint: Any = {"id": checkpoint_id, **dict(zip(_FIELDS, fields, strict=True)), **others}
        stored = {channel_of(name): value for name, value in zip(names, values, strict=False) if value}
        large = {name: self.load(value) for name, value in stored.items() if channels is None or name in channels}
        checkpoint["channel_values"] = {**inline, **large}
        return checkpoint, metadata, parent

    def write_rows(self, writes: Sequence[tuple[int, str, Any]], task_id: str, task_path: str, run: bytes) -> bytes:
        """Write what a node wrote, as (index, channel, value), to be appended to earlier writes.

        A task that answers a question writes beside the checkpoint of the task that asked: `run`, of `run_mark`, tells
        its writes from those.
        """
        return _row(run, task_id, task_path, self.dump([list(write) for write in writes]))

    def read_rows(self, segments: Iterable[bytes]) -> list[PendingWrite]:
        """Read the writes of a checkpoint in LangGraph's order.

        A repeated regular write counts once, the first; of a special one (index below 0: an error, an interrupt, an
        answer) the last counts.
        """
        found: dict[tuple[str, int], tuple[str, str, Any]] = {}
        for _, task_id, task_path, text in _rows(b"".join(segments)):
            for index, channel, value in self.load(text):
                if index < 0 or (task_id, index) not in found:
                    found[task_id, index] = (task_path, channel, value)
        order = sorted(found, key=lambda key: writes_sort_key(found[key][0], *key))
        return [(key[0], *found[key][1:]) for key in order]

    def move(self, text: bytes, target: "Codec") -> bytes:
        """Write for another thread what was written for this one."""
        return text if self.is_plain and target.is_plain else target.dump(self.load(text))

    def move_record(self, record: bytes, target: "Codec") -> bytes:
        """Write a record for another thread."""
        start = 3 + int.from_bytes(record[1:3])
        return record[:start] + self.move(record[start:], target)

    def move_rows(self, rows: bytes, target: "Codec") -> bytes:
        """Write writes for another thread."""
        if self.is_plain and target.is_plain:
            return rows
        return b"".join(_row(run, task, path, self.move(text, target)) for run, task, path, text in _rows(rows))


def value_name(channel: str, version: Any) -> str:
    """Return the name of a value in its namespace."""
    return f"{len(channel)}:{channel}:{version}"


def value_field(namespace: str, name: str) -> bytes:
    """Return the field of a value in its thread's hash."""
    return b"v" + namespace_prefix(namespace) + name.encode("utf-8", "surrogatepass")


def channel_of(name: str) -> str:
    """Return the channel of a value's name."""
    length, _, rest = name.partition(":")
    return rest[: int(length)] if length.isdigit() else rest


def packed_header(record: bytes) -> bytes:
    """Return the header of a record as it is stored."""
    return record[3 : 3 + int.from_bytes(record[1:3])]


def read_header(packed: bytes) -> Header:
    """Read a header, which may be anything.

    Raises:
        RefusedStateError: no saver wrote it.
    """
    try:
        parent, names, unseeded, root, run, *task = ormsgpack.unpackb(packed)
        lists = [str(name) for name in names], [str(name) for name in unseeded]
        return str(parent), *lists, str(root), str(run), str(task[0]) if task else ""
    except (TypeError, ValueError) as error:
        raise RefusedStateError(f"state: expected the header of a checkpoint, got: {error}") from None


def _row(run: bytes, task_id: str, task_path: str, text: bytes) -> bytes:
    row = ormsgpack.packb([short_id(task_id), task_path, text])
    return len(row).to_bytes(4) + run + row


def _rows(data: bytes) -> Iterator[tuple[bytes, str, str, bytes]]:
    """Yield (run, node's task, its path, text) of appended writes, which may be anything."""
    at = 0
    try:
        while at < len(data):
            start = at + 4 + RUN_BYTES
            end = start + int.from_bytes(data[at : at + 4])
            task, task_path, text = ormsgpack.unpackb(data[start:end])
            task_id = long_id(task) if isinstance(task, bytes) else str(task)
            yield data[at + 4 : start], task_id, str(task_path), bytes(text)
            at = end
    except (TypeError, ValueError) as error:
        raise RefusedStateError(f"state: expected what a node wrote, got: {error}") from None


def _split(text: bytes) -> tuple[str, bytes]:
    form, data = text[:1], text[1:]
    if form == bytes((_MSGPACK,)):
        return "msgpack", data
    if form == bytes((_ZLIB,)):
        return "msgpack", _inflate(data)
    size = int.from_bytes(data[:1])
    return data[1 : 1 + size].decode("ascii", "replace"), data[1 + size :]


def _inflate(data: bytes) -> bytes:
    inflating = zlib.decompressobj()
    try:
        inflated = inflating.decompress(data, _LONGEST_BYTES)
    except zlib.error as error:
        raise RefusedStateError(f"state: expected compressed data, got: {error}") from None
    if inflating.unconsumed_tail or not inflating.eof:
        raise RefusedStateError(f"state: expected at most {_LONGEST_BYTES} bytes, complete, got: others")
    return inflated


def _is_small(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return len(value) <= SMALL_BYTES // 4
    return value is None or kind is bool or kind is float or (kind is int and -_INT64 <= value < _INT64)


def header_of(found: CheckpointTuple) -> Header:
    """Return the header of a checkpoint whose values are a part of it."""
    parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else ""
    return (parent, [], *_told_by(found.checkpoint, found.metadata))


def _told_by(checkpoint: Checkpoint, metadata: CheckpointMetadata) -> tuple[list[str], str, str, str]:
    """Return a header from its third part on: delta channels that are rebuilt from ancestors, root, run and task."""
    unseeded = [
        channel
        for channel in metadata.get("counters_since_delta_snapshot") or ()
        if channel in checkpoint["channel_versions"] and channel not in checkpoint["channel_values"]
    ]
    root, run = (metadata.get("parents") or {}).get("", ""), metadata.get("run_id") or ""
    return unseeded, str(root), str(run), task_name(str(metadata.get("task_id") or ""))
