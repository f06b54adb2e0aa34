"""The audit log: who submitted, read, cancelled or resumed which task when, and how it ended; never what was in it.

Each process that writes keeps a chain of its own, so that nobody waits for anybody: an entry carries its writer, its
number, and the HMAC of itself and of the entry before. The newest number and digest of each writer are recorded beside
the stream. So whoever has no key can neither change, insert nor remove an entry without `verify` telling it; who can
write to Redis and cuts the newest entries of a writer must forge its head too, and has no key for that.

On when LGRQ_AUDIT_KEY is set. Bounded by age: entries go after LGRQ_AUDIT_DAYS (90). Memory: about 450 bytes an entry.

Keys:
    agent:audit        stream  writer, seq, prev, at (ms), prev_at (ms), action, task, details (JSON), digest;
                               entries older than the age are trimmed with each append
    agent:audit:heads  hash    writer -> "<seq> <digest> <at>" of its newest entry; those older than the age go when a
                               new writer begins
Both are forgotten a day after the age of the newest entry.

Source: hash chains of RFC 5848 (signed syslog) and Schneier and Kelsey, "Secure Audit Logs" (1999).
"""

import getpass
import hmac
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Any
from uuid import uuid4

from pydantic_core import to_json

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script

STREAM = "agent:audit"
HEADS = "agent:audit:heads"
GENESIS = ""
_DAY_MS = 86_400_000
_OVERDUE_S = 2.0
_PATIENCE_S = 5.0
"""When Redis has taken none for so long, the oldest is written without those before it, which a failover may have lost:
the gap shows."""
_KEPT = 2_000
"""Entries kept for sending again; of more the oldest are given up."""
_SIGNED = ("writer", "seq", "prev", "at", "prev_at", "action", "task", "details")

actor: ContextVar[str | None] = ContextVar("actor", default=None)
"""On whose behalf the process acts now, such as the owner of an API key; None: the user who runs it."""


class Action(StrEnum):
    """What was done to a task."""

    SUBMITTED = "submitted"
    READ = "read"
    CANCELLED = "cancelled"
    RESUMED = "resumed"
    ENDED = "ended"
    FENCED = "fenced"
    """The end before it was refused: mostly, another worker owns the task by now."""


class Audit:
    """One process' chain; safe to share between threads, and a fork begins a chain of its own.

    Args:
        key: Signs; all processes and whoever verifies must have it.
        keep_days: Entries older than this are forgotten.
    """

    def __init__(self, key: str, keep_days: int = 90) -> None:
        if not key:
            raise ValueError("expected the audit log's key to be set, got: nothing")
        self._key = key.encode()
        self._keep_ms = keep_days * _DAY_MS
        self._lock = Lock()
        self._unacknowledged: dict[int, tuple[float, Mapping[str, str], Call[None]]] = {}
        """By number: when it was told (monotonic), the entry, and the call that appends it."""
        self._has_progress, self._has_given_up, self._progress_s = True, False, 0.0
        self._default_actor = f"{_user()}@{socket.gethostname()}"
        self._seq, self._digest, self._at_ms = 1, GENESIS, 0
        self._begin()

    def entry_call(self, action: Action, task: str, **details: Any) -> Call[None]:
        """Append an entry; `details` are words and numbers about the task, None for what there is not.

        Redis takes a writer's entries in their order only. One that it refused, or that came before its turn, must be
        sent again: see `unacknowledged` and `overdue`.
        """
        told = {name: value for name, value in details.items() if value is not None}
        told.setdefault("actor", actor.get() or self._default_actor)
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
                "details": _encode(told),
            }
            entry["digest"] = sign(self._key, entry)
            seq, self._seq, self._digest, self._at_ms = self._seq, self._seq + 1, entry["digest"], now_ms
            if not self._unacknowledged:
                self._progress_s = time.monotonic()
            elif len(self._unacknowledged) >= _KEPT:  # refused for good, such as for want of a permission
                del self._unacknowledged[next(iter(self._unacknowledged))]
                self._has_given_up = True
            call = self._call(seq, entry)
            self._unacknowledged[seq] = time.monotonic(), entry, call
        return call

    def unacknowledged(self, *, is_last: bool = False) -> list[Call[None]]:
        """List the entries that Redis has not confirmed, in order, for whoever gave up on a call to send again.

        The first of them, and no other, may follow a gap once waiting cannot close it: those before it were given up,
        Redis has taken nothing for a while, or `is_last`: nobody will send them again.
        """
        with self._lock:
            calls = [call for _, _, call in self._unacknowledged.values()]
            is_late = time.monotonic() - self._progress_s >= _PATIENCE_S
            if calls and (is_last or is_late or self._has_given_up):
                seq, (_, entry, _) = next(iter(self._unacknowledged.items()))
                calls[0] = self._call(seq, entry, may_follow_gap=True)
        return calls

    def overdue(self) -> list[Call[None]]:
        """List the entries that Redis has not confirmed, if there are any for longer than a round trip takes.

        All of them, but as long as Redis takes none the oldest alone: those after it cannot pass it.
        """
        with self._lock:
            oldest_s = next((told_s for told_s, _, _ in self._unacknowledged.values()), None)
            if oldest_s is None or time.monotonic() - oldest_s < _OVERDUE_S:
                return []
            has_progress, self._has_progress = self._has_progress, False
        calls = self.unacknowledged()
        return calls if has_progress else calls[:1]

    def _call(self, seq: int, entry: Mapping[str, str], *, may_follow_gap: bool = False) -> Call[None]:
        def acknowledge(reply: bytes | None) -> None:
            if reply is not None:
                with self._lock:
                    self._unacknowledged.pop(seq, None)
                    self._has_progress, self._has_given_up, self._progress_s = True, False, time.monotonic()

        args: list[Argument] = [self._keep_ms, *entry.values(), int(may_follow_gap)]
        return Call(load_script("shared/telemetry/append_audit"), [STREAM, HEADS], args, acknowledge)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._writer = f"{socket.gethostname()}-{self._pid}-{uuid4().hex[:8]}"
        self._seq, self._digest, self._at_ms = 1, GENESIS, 0
        self._unacknowledged.clear()
        self._has_progress, self._has_given_up, self._progress_s = True, False, 0.0


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
    """Something that cannot have come about by itself."""

    writer: str
    seq: int
    what: str


def read_entries(rows: Iterable[tuple[Any, Mapping[bytes, bytes]]]) -> Iterator[dict[str, str]]:
    """Read entries as Redis returns them."""
    for _, fields in rows:
        yield {name.decode(): value.decode() for name, value in fields.items()}


def sign(key: bytes, entry: Mapping[str, str]) -> str:
    """Compute an entry's digest, over all its fields and so over the entry before."""
    return hmac.digest(key, json.dumps([entry[name] for name in _SIGNED]).encode(), "sha256").hex()


def verify(
    entries: Iterable[Mapping[str, str]], heads: Mapping[str, str], key: str, *, keep_days: int, now_ms: int
) -> Iterator[Fault]:
    """Follow every writer's chain through `entries`, in the order of the stream, up to its recorded head.

    A chain may begin in the middle when what came before is older than `keep_days`. Entries that were on their way when
    `heads` was read must not be given: read the heads first, then the entries.
    """
    last: dict[str, Mapping[str, str]] = {}
    trimmed_ms = now_ms - keep_days * _DAY_MS
    for entry in entries:
        writer = entry.get("writer", "?")
        what = _fault_of(entry, last.get(writer), key.encode(), trimmed_ms)
        if what:
            yield Fault(writer, int(entry.get("seq", 0)), what)
        last[writer] = entry
    for writer in heads.keys() | last.keys():
        fault = _fault_of_head(writer, heads.get(writer), last.get(writer), trimmed_ms)
        if fault:
            yield fault


def _fault_of(entry: Mapping[str, str], before: Mapping[str, str] | None, key: bytes, trimmed_ms: int) -> str | None:
    if entry.keys() != {*_SIGNED, "digest"} or not hmac.compare_digest(entry["digest"], sign(key, entry)):
        return "altered, or signed with another key"
    seq = int(entry["seq"])
    if before is None:
        was_removed = seq > 1 and int(entry["prev_at"]) > trimmed_ms
        return f"{seq - 1} entries before it were removed" if was_removed else None
    if entry["prev"] != before.get("digest"):
        return f"expected to follow entry {before.get('seq')} of this writer: entries were removed or moved"
    return None


def _fault_of_head(writer: str, head: str | None, newest: Mapping[str, str] | None, trimmed_ms: int) -> Fault | None:
    if head is None:
        return Fault(writer, 0, "its head was removed")
    number, digest, at = head.split()
    if newest is None:
        is_old = int(at) <= trimmed_ms
        return None if is_old else Fault(writer, int(number), "all entries up to this one were removed")
    seq = int(newest.get("seq", 0))
    if seq < int(number):
        return Fault(writer, seq + 1, f"removed, up to entry {number}")
    if seq == int(number) and newest.get("digest") != digest:
        return Fault(writer, seq, "its head was altered")
    return None
