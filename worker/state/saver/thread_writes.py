"""What runs write to their threads: one script call saves all that a run has written since its last one was sent.

LangGraph hands over what a node wrote and the checkpoint behind it one after the other, and of a wide step all that its
nodes wrote: each would wait for the round trip of the one before.
"""

import asyncio
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.worker.state.saver.thread_keys import index_key, run_key, state_key

_MOST_BYTES = 65_536
"""Of one script call, unless a single write is larger."""


class Writer(NamedTuple):
    """Who writes where; the token is empty for a caller that runs no task, the run for one that names none."""

    thread: str
    run: str
    token: Argument


class NodeWrites(NamedTuple):
    """What a node wrote after the checkpoint `name`, as `Codec.write_rows` writes it."""

    name: bytes
    rows: bytes


class NewCheckpoint(NamedTuple):
    """A checkpoint, as `Codec.write` writes it.

    Attributes:
        name: Its name.
        record: What it holds.
        known: Fields of values that are to be there already.
        added: Fields and values in turn.
    """

    name: bytes
    record: bytes
    known: Sequence[bytes]
    added: Sequence[bytes]


class ThreadWrites:
    """Saves the writes of one event loop, each whole or not at all.

    Args:
        trips: Runs script calls in their order.
        ttl_ms: How long a thread is kept after its last write.
    """

    def __init__(self, trips: Batcher, ttl_ms: int) -> None:
        self._trips = trips
        self._ttl_ms = ttl_ms
        self._steps: dict[Writer, _Step] = {}

    def save(self, writer: Writer, what: NodeWrites | NewCheckpoint) -> "asyncio.Future[int]":
        """Save a write, in one script with others of the same writer that wait for their round trip.

        If the caller is cancelled, it may be saved or not.

        Returns:
            The answer, or an outage: 0 if a later task has begun on the thread. Else of a checkpoint the number that
            its namespace has, or -1 if a value is missing, and it was not written; of a node's writes 1.
        """
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if not self.is_joined(writer, what):
            self._steps[writer] = _Step(self._steps, writer, self._ttl_ms)
            self._trips.add(self._steps[writer])
        self._steps[writer].add(what, answer)
        return answer

    def is_joined(self, writer: Writer, what: NodeWrites | NewCheckpoint) -> bool:
        """Whether a write would be saved in one script with others of its writer, which wait for their round trip."""
        step = self._steps.get(writer)
        return step is not None and step.has_room(what)


class _Step:
    """The writes of one writer that are saved together; a source of the batcher."""

    __slots__ = ("_bytes", "_checkpoints", "_steps", "_ttl_ms", "_writer", "_writes")

    def __init__(self, steps: "dict[Writer, _Step]", writer: Writer, ttl_ms: int) -> None:
        self._steps = steps
        self._writer = writer
        self._ttl_ms = ttl_ms
        self._bytes = 0
        self._writes: list[tuple[NodeWrites, asyncio.Future[int]]] = []
        self._checkpoints: list[tuple[NewCheckpoint, asyncio.Future[int]]] = []

    def has_room(self, what: NodeWrites | NewCheckpoint) -> bool:
        """Whether a further write belongs into the same script."""
        return self._bytes + _bytes_of(what) <= _MOST_BYTES

    def add(self, what: NodeWrites | NewCheckpoint, answer: "asyncio.Future[int]") -> None:
        """Save a further write."""
        self._bytes += _bytes_of(what)
        if isinstance(what, NodeWrites):
            self._writes.append((what, answer))
        else:
            self._checkpoints.append((what, answer))

    def next_call(self) -> Call[list[int]] | None:
        """Build the call, of the writes whose callers still wait; what comes from here on is another step's."""
        if self._steps.get(self._writer) is self:
            del self._steps[self._writer]
        self._writes = [one for one in self._writes if not one[1].done()]
        self._checkpoints = [one for one in self._checkpoints if not one[1].done()]
        if not self._writes and not self._checkpoints:
            return None
        thread, run, token = self._writer
        rows: dict[bytes, list[bytes]] = {}  # each append copies what is there, so there is one
        for writes, _ in self._writes:
            rows.setdefault(writes.name, []).append(writes.rows)
        args: list[Argument] = [token, self._ttl_ms, thread, len(rows)]
        for name, some in rows.items():
            args += [name, b"".join(some)]
        for (name, record, known, added), _ in self._checkpoints:
            args += [name, record, len(known), len(added) // 2, *known, *added]
        keys = [state_key(thread), index_key(thread), *([run_key(run)] if run else [])]
        return Call(load_script("worker/state/saver/scripts/save"), keys, args, list)

    def take_reply(self, reply: Any) -> bool:
        """Answer the callers."""
        is_saved, *counts = [reply] if isinstance(reply, Exception) else reply
        for _, answer in self._writes:
            _answer(answer, is_saved)
        for (_, answer), count in zip(self._checkpoints, counts or repeat(is_saved), strict=False):
            _answer(answer, count)
        return False


def _answer(answer: "asyncio.Future[int]", value: int | Exception) -> None:
    if answer.done():
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)


def _bytes_of(what: NodeWrites | NewCheckpoint) -> int:
    return len(what[1]) if isinstance(what, NodeWrites) else len(what.record) + sum(map(len, what.added))
