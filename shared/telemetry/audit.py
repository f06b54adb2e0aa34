"""The audit log: who submitted, read, cancelled or resumed which task and when, and how it ended; no task content.

Each writing process keeps its own chain, so that writers never wait for each other: an entry carries its writer, its
number, and the HMAC of itself and of the entry before. The newest number and digest of each writer, its head, are
stored beside the stream. Without the key an entry cannot be changed, inserted or removed from the middle of a chain
undetected by `verify`. A writer that removes its own newest entries and puts its head back is found by the anchors of
the workers, see anchors.py.

Enabled by LGRQ_AUDIT_KEY; workers sign with LGRQ_AUDIT_WORKER_KEY where that is set. Entries are removed after
LGRQ_AUDIT_DAYS (90). Memory: about 450 bytes an entry.

Keys:
    agent:audit        stream  writer, seq, prev, at (ms), prev_at (ms), action, task, details (JSON), digest;
                               entries older than the age are trimmed with each append
    agent:audit:heads  hash    writer -> "<seq> <digest> <at>" of its newest entry; a new writer looks at 16 others and
                               removes those that are older than the age
Both expire a day after their newest entry would be trimmed.

Source: hash chains of RFC 5848 (signed syslog) and Schneier and Kelsey, "Secure Audit Logs" (1999).
"""

import getpass
import hmac
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from threading import Lock
from typing import Any
from uuid import uuid4

from pydantic_core import to_json

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script

STREAM = "agent:audit"
HEADS = "agent:audit:heads"
GENESIS = ""
DAY_MS = 86_400_000
_OVERDUE_S = 2.0
"""An unacknowledged entry is sent again after this time: longer than a round trip takes."""
_PATIENCE_S = 5.0
"""After so long without an acknowledgement the oldest entry may follow a gap, because a failover may have lost the
entries before it. `verify` reports the gap."""
_KEPT = 2_000
"""Unacknowledged entries that are kept; the oldest is dropped for each further one."""
_SIGNED = ("writer", "seq", "prev", "at", "prev_at", "action", "task", "details")

actor: ContextVar[str | None] = ContextVar("actor", default=None)
"""The principal that the process acts for, such as the owner of an API key; None: the user who runs it."""


class Action(StrEnum):
    """An action on a task, or on the fleet's budget."""

    SUBMITTED = "submitted"
    REFUSED = "refused"
    """The submission recorded before it was refused: under its id nothing new was queued."""
    READ = "read"
    CANCELLED = "cancelled"
    RESUMED = "resumed"
    ENDED = "ended"
    LIMIT_CHANGED = "limit_changed"
    USAGE_RESET = "usage_reset"
    FENCED = "fenced"
    """The end recorded before it was refused, mostly because another worker owns the task by now."""


ALTERED = "altered, or signed with another key"
"""The fault of an entry or anchor whose signature is not that of its key."""

OF_WORKERS = frozenset({Action.ENDED, Action.FENCED})
"""What only workers record, and so sign with their key."""


class _Delivery(Enum):
    """State of a writer's unacknowledged entries. Any acknowledgement leads back to FLOWING."""

    FLOWING = auto()
    """Redis acknowledges entries; all that are overdue are sent again."""
    STALLED = auto()
    """Overdue entries were sent again and none was acknowledged since: only the oldest is sent, as none can pass it."""
    BROKEN = auto()
    """Entries were dropped: as STALLED, and the oldest that is left may follow the gap."""


class Audit:
    """The chain of one process. Thread-safe; a forked process begins its own chain.

    Args:
        key: Signs the entries; that of the workers or that of the producers.
        keep_days: Age in days at which entries are removed.
    """

    def __init__(self, key: str, keep_days: int = 90) -> None:
        if not key:
            raise ValueError("expected the audit log's key to be set, got: nothing")
        self._key = key.encode()
        self._keep_ms = keep_days * DAY_MS
        self._lock = Lock()
        self._unacknowledged: dict[int, tuple[float, Mapping[str, str], Call[None]]] = {}
        """Number -> when it was created (monotonic), the entry, and the call that appends it."""
        self._default_actor = f"{_user()}@{socket.gethostname()}"
        self._seq, self._digest, self._at_ms = 1, GENESIS, 0
        self._begin()

    def entry_call(self, action: Action, task: str, **details: Any) -> Call[None]:
        """Append an entry; `details` are names and numbers, without the task's content. None is left out.

        Redis accepts the entries of a writer only in their order. An entry that was refused, or came before its turn,
        must be sent again: see `unacknowledged` and `overdue`.
        """
        given = {name: value for name, value in details.items() if value is not None}
        given.setdefault("actor", actor.get() or self._default_actor)
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            now_ms = time.time_ns() // 1_000_000
            entry = {
                "writer": self._writer,
                "seq": str(self._seq),
                "prev": self._digest,
                "at": str(now_ms),
                "prev_at": str(self._at_ms),
                "action": action.value,
                "task": task,
                "details": _encode(given),
            }
            entry["digest"] = sign(self._key, entry)
            seq, self._seq, self._digest, self._at_ms = self._seq, self._seq + 1, entry["digest"], now_ms
            if not self._unacknowledged:
                self._progress_at_s = time.monotonic()
            elif len(self._unacknowledged) >= _KEPT:  # refused for good, such as for a missing permission
                del self._unacknowledged[next(iter(self._unacknowledged))]
                self._delivery = _Delivery.BROKEN
            call = self._call(seq, entry)
            self._unacknowledged[seq] = time.monotonic(), entry, call
        return call

    def unacknowledged(self, *, is_last: bool = False) -> list[Call[None]]:
        """List the calls that append the unacknowledged entries, in order.

        Only the first may follow a gap, and only when waiting cannot close it: entries were dropped, nothing was
        acknowledged for `_PATIENCE_S`, or `is_last` says that the caller will not send them again.
        """
        with self._lock:
            calls = [call for _, _, call in self._unacknowledged.values()]
            is_late = time.monotonic() - self._progress_at_s >= _PATIENCE_S
            if calls and (is_last or is_late or self._delivery is _Delivery.BROKEN):
                seq, (_, entry, _) = next(iter(self._unacknowledged.items()))
                calls[0] = self._call(seq, entry, may_follow_gap=True)
        return calls

    def overdue(self) -> list[Call[None]]:
        """List the calls to send again, none before the oldest has waited for `_OVERDUE_S`.

        All unacknowledged entries the first time; then, until Redis acknowledges one, only the oldest.
        """
        with self._lock:
            oldest_at_s = next((created_at_s for created_at_s, _, _ in self._unacknowledged.values()), None)
            if oldest_at_s is None or time.monotonic() - oldest_at_s < _OVERDUE_S:
                return []
            was_flowing = self._delivery is _Delivery.FLOWING
            if was_flowing:
                self._delivery = _Delivery.STALLED
        calls = self.unacknowledged()
        return calls if was_flowing else calls[:1]

    def _call(self, seq: int, entry: Mapping[str, str], *, may_follow_gap: bool = False) -> Call[None]:
        def acknowledge(reply: bytes | None) -> None:
            if reply is not None:
                with self._lock:
                    self._unacknowledged.pop(seq, None)
                    self._delivery, self._progress_at_s = _Delivery.FLOWING, time.monotonic()

        args: list[Argument] = [self._keep_ms, *entry.values(), int(may_follow_gap)]
        return Call(load_script("shared/telemetry/append_audit"), [STREAM, HEADS], args, acknowledge)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._writer = f"{socket.gethostname()}-{self._pid}-{uuid4().hex[:8]}"
        self._seq, self._digest, self._at_ms = 1, GENESIS, 0
        self._unacknowledged.clear()
        self._delivery = _Delivery.FLOWING
        self._progress_at_s = 0.0
        """When an entry was acknowledged last, or when the oldest one began to wait (monotonic)."""


def _encode(details: Mapping[str, Any]) -> str:
    try:
        return to_json(details, fallback=str).decode()  # a third of the time of the standard library's
    except ValueError:  # half of a surrogate pair
        return json.dumps(details, default=str)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return f"uid {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Evidence that entries were changed, removed or lost."""

    writer: str
    seq: int
    what: str
    is_workers: bool = False
    """Of what workers sign, which only their key can tell from a forgery."""


def read_entries(rows: Iterable[tuple[Any, Mapping[bytes, bytes]]]) -> Iterator[dict[str, str]]:
    """Read entries as Redis returns them; bytes that are no UTF-8, which no writer of ours writes, are replaced."""
    for _, fields in rows:
        yield {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}


def sign(key: bytes, entry: Mapping[str, str]) -> str:
    """Compute an entry's digest, over all its fields and so over the entry before."""
    return hmac.digest(key, json.dumps([entry[name] for name in _SIGNED]).encode(), "sha256").hex()


def verify(
    entries: Iterable[Mapping[str, str]],
    heads: Mapping[str, str],
    key: str,
    *,
    keep_days: int,
    now_ms: int,
    worker_key: str | None = None,
) -> Iterator[Fault]:
    """Check every writer's chain through `entries`, in the order of the stream, up to its head; yield the faults.

    What only workers record must be signed with `worker_key`, all else with `key`; without `worker_key` both are one.
    A chain may begin in the middle if the entries before are older than `keep_days`. Read `heads` before `entries`:
    an entry appended in between is then no fault.
    """
    last: dict[str, Mapping[str, str]] = {}
    trimmed_ms = now_ms - keep_days * DAY_MS
    for entry in entries:
        writer = entry.get("writer", "?")
        is_workers = entry.get("action") in OF_WORKERS
        signing = worker_key if worker_key and is_workers else key
        what = _fault_of(entry, last.get(writer), signing.encode(), trimmed_ms)
        if what:
            yield Fault(writer, _number(entry.get("seq")), what, is_workers=is_workers)
        last[writer] = entry
    for writer in heads.keys() | last.keys():
        fault = _fault_of_head(writer, heads.get(writer), last.get(writer), trimmed_ms)
        if fault:
            yield fault


def _fault_of(entry: Mapping[str, str], before: Mapping[str, str] | None, key: bytes, trimmed_ms: int) -> str | None:
    if entry.keys() != {*_SIGNED, "digest"} or not hmac.compare_digest(entry["digest"], sign(key, entry)):
        return ALTERED
    seq = int(entry["seq"])
    if before is None:
        was_removed = seq > 1 and int(entry["prev_at"]) > trimmed_ms
        return f"{seq - 1} entries before it were removed" if was_removed else None
    if entry["prev"] != before.get("digest"):
        return f"expected to follow entry {before.get('seq')} of this writer: entries were removed or moved"
    return None


def _number(text: str | None) -> int:
    """Read an entry's number; 0 for what is none, in an entry that was altered."""
    return int(text) if text and re.fullmatch(r"\d{1,15}", text) else 0


def _fault_of_head(writer: str, head: str | None, newest: Mapping[str, str] | None, trimmed_ms: int) -> Fault | None:
    if head is None:
        return Fault(writer, 0, "its head was removed")
    found = re.fullmatch(r"(\d{1,15}) (\S+) (\d{1,15})", head)
    if found is None:
        return Fault(writer, 0, "its head was altered")
    number, digest, at = found.groups()
    if newest is None:
        is_old = int(at) <= trimmed_ms
        return None if is_old else Fault(writer, int(number), "all entries up to this one were removed")
    seq = _number(newest.get("seq"))
    if seq < int(number):
        return Fault(writer, seq + 1, f"removed, up to entry {number}")
    if seq == int(number) and newest.get("digest") != digest:
        return Fault(writer, seq, "its head was altered")
    return None
