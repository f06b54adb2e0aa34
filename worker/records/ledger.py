"""The ledger: what has become of calls that are made once, such as a refund.

A call is reserved before it starts and recorded when it has ended. A node that runs again gets the recorded result; a
call that was reserved and never recorded may have been made or not. The entries stand at the thread, because a task
that continues a failed one runs the same node. They go when the checkpoint behind their node is saved.

Keys:
    agent:ledger:<thread>  hash  key of a call -> the token of its caller, and its result, as checkpoints are written;
        until a thread's TTL after the last of them
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.worker.records.codec import Codec, seal, unseal
from langgraph_rq.worker.records.journal import forget_call
from langgraph_rq.worker.records.position import NodeRun, Positions, digest

MOST_CALLS = 1_000
"""Of a thread, between two checkpoints; a further one is refused."""
MOST_BYTES = 256_000
"""Of one result; a larger one is not kept."""
TTL_MS = 7 * 24 * 3_600_000


def ledger_key(thread: str) -> str:
    """Return the key of a thread's ledger."""
    return f"agent:ledger:{thread}"


@dataclass(slots=True)
class Ledger:
    """The calls of one attempt at a task.

    Args:
        thread: The thread of its checkpoints.
        codec: Writes and reads results.
        ttl_ms: How long entries are kept.
    """

    thread: str
    codec: Codec
    ttl_ms: int = TTL_MS
    _calls: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key -> the number of the call, the checkpoint on which its node began, and what is counted."""
    _positions: Positions = field(default_factory=Positions)

    def key(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the key of the next call: the same when its node runs again, and no other call's.

        Raises:
            RuntimeError: this context belongs to no node.
            TypeError: the arguments are no plain data, by which a repeated call could be told.
        """
        node = NodeRun.current()
        if node is None:
            raise RuntimeError(f"expected {name!r} to be called inside a node, because it is made once, got: no node")
        given = _text_of(name, arguments)
        call = (node.began_at, node.name, node.attempt, name, given)
        number = self._positions.next(*call)
        hashed = hashlib.sha256(digest(self.thread, node.name, name, given, number).encode()).digest()
        key = str(UUID(bytes=hashed[:16], version=4))
        self._calls[key] = (number, *call)
        return key

    def free(self, key: str) -> None:
        """Give the key of a call that failed to the next equal one of its node, which tries it again."""
        if key in self._calls:
            self._positions.free(*self._calls[key])

    def slots(self, key: str, token: str, *, takes_key: bool) -> tuple[list[str], list[Argument]]:
        """Return keys and arguments of the functions in functions/entries.lua."""
        return [ledger_key(self.thread)], [key, token, int(takes_key), self.ttl_ms, MOST_CALLS]

    def read(self, key: str, text: bytes) -> Any:
        """Read a recorded result.

        Raises:
            Exception: it cannot be read.
        """
        return unseal(self.codec, self._place(key), text)

    def write(self, key: str, result: Any) -> bytes:
        """Write a result.

        Raises:
            Exception: it holds a type that checkpoints cannot hold.
            ValueError: it is too large.
        """
        text = seal(self.codec, self._place(key), result)
        if len(text) > MOST_BYTES:
            raise ValueError(f"expected a result of at most {MOST_BYTES:,} bytes, got: {len(text):,}")
        return text

    def end_call(self, key: str, token: str, result: bytes | None) -> Call[bool]:
        """Record the result of a call; empty: it cannot be kept, None: the call was not made."""
        args: list[Argument] = [key, token, int(result is not None), result or b"", self.ttl_ms]
        return Call(load_script("worker/records/scripts/end_once"), [ledger_key(self.thread)], args, bool)

    def forget_call(self, saved: str) -> Call[int] | None:
        """Forget the calls of nodes behind which the checkpoint `saved` is. None: there are none."""
        keys = {key for key, (_, began_at, *_) in [*self._calls.items()] if began_at < saved}
        for key in keys:
            del self._calls[key]
        self._positions.forget(saved)
        return forget_call(ledger_key(self.thread), keys) if keys else None

    def _place(self, key: str) -> str:
        return f"ledger:{self.thread}:{key}"


def _text_of(name: str, arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps(to_jsonable_python(arguments, fallback=_refuse), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected the arguments of {name!r} to be plain data, because it is made once for equal arguments, "
            f"got: {error}"
        ) from None


def _refuse(value: Any) -> Any:
    raise TypeError(type(value).__qualname__)
