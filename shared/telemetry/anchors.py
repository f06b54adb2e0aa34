"""Anchors of the audit log: what workers sign of it, where producers cannot write.

A producer may append to the log, and remove from its end: one that removes its newest entries and puts its head back
leaves a chain that is whole. So workers read the log in its order and sign, every few seconds, how many entries it
has and what they are. An anchor is replaced by one that covers more until it covers `_FULL` entries; then the next one
begins, which holds the signature of the one before. Entries behind the newest anchor are not covered yet.

Keys:
    agent:anchors    hash  number -> anchor (JSON); newest, oldest: numbers; anchors whose entries were trimmed are
                           removed. Expires a day after its newest entry would be trimmed

Source: Crosby and Wallach, "Efficient Data Structures for Tamper-Evident Logging" (2009), whose commitments these are,
as a chain instead of a tree.
"""

import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import pairwise

from redis import Redis

from langgraph_rq.shared.connections.scripts import Call, load_script, run_sync
from langgraph_rq.shared.telemetry.audit import ALTERED, DAY_MS, STREAM, Fault

ANCHORS = "agent:anchors"
WRITER = "anchor"
"""In place of a writer in the faults of an anchor."""
_YOUNG_MS = 1_000
"""Workers leave an anchor of this age alone: one of the fleet renews it, not all."""
_BATCH = 250
"""Entries read at once: well below a millisecond of Redis."""
_FULL = 10_000


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a worker has signed: the entries with ids behind `after`, up to `last`."""

    number: int
    prev: str
    """Signature of the anchor before; empty for the first."""
    after: str
    first: str
    last: str
    count: int
    chain: str
    """SHA-256 over what it was before and "<id> <digest>", entry by entry; begins with `prev`."""
    at: int
    """When the last entry was appended (ms), by Redis' clock."""
    worker: str
    signature: str = ""

    @classmethod
    def parse(cls, text: str | bytes) -> "Anchor | None":
        """Read an anchor; None: it is none."""
        try:
            found = cls(**json.loads(text))
            ids = [_order(found.first), _order(found.last), _order(found.after)]
        except (ValueError, TypeError, AttributeError):
            return None
        return found if ids and isinstance(found.count, int) and isinstance(found.number, int) else None

    def sign(self, key: bytes) -> "Anchor":
        """Return it with its signature."""
        return replace(self, signature=self._signature(key))

    def is_signed(self, key: bytes) -> bool:
        """Check its signature."""
        return hmac.compare_digest(str(self.signature).encode(), self._signature(key).encode())

    def extend(self, lines: Sequence[str], worker: str) -> "Anchor":
        """Cover further entries, each as "<id> <digest>"."""
        last = lines[-1].partition(" ")[0]
        return replace(
            self,
            first=self.first if self.count else lines[0].partition(" ")[0],
            last=last,
            count=self.count + len(lines),
            chain=chained(self.chain, lines),
            at=int(last.partition("-")[0]),
            worker=worker,
            signature="",
        )

    def _signature(self, key: bytes) -> str:
        fields = {**asdict(self), "signature": ""}
        return hmac.digest(key, b"anchor " + json.dumps(fields, sort_keys=True).encode(), "sha256").hex()


def begin(before: Anchor | None) -> Anchor:
    """Make the anchor that follows `before`, with no entry yet."""
    if before is None:
        return Anchor(1, "", "0-0", "0-0", "0-0", 0, "", 0, "")
    return Anchor(before.number + 1, before.signature, before.last, "0-0", before.last, 0, before.signature, 0, "")


def chained(chain: str, lines: Sequence[str]) -> str:
    """Continue a chain by entries."""
    for line in lines:
        chain = sha256(f"{chain}\n{line}".encode()).hexdigest()
    return chain


class AnchorWriter:
    """Signs what is new in the log. Any number of workers may do it at once.

    Args:
        key: The workers'.
        keep_days: As in `Audit`.
    """

    def __init__(self, key: str, keep_days: int = 90) -> None:
        self._key = key.encode()
        self._keep_ms = keep_days * DAY_MS

    def write(self, redis: Redis, worker: str, *, is_last: bool = False) -> bool:
        """Cover up to `_BATCH` entries in two round trips; True: there are more.

        `is_last` says that the worker leaves, so that it does not leave a young anchor to others.
        """
        young_ms = 0 if is_last else _YOUNG_MS
        read, lines = run_sync(redis, unanchored_call(young_ms))
        if not lines:
            return False
        newest = Anchor.parse(read) if read else None
        is_whole = newest is not None and newest.is_signed(self._key)
        # One that was not signed with this key stays as it is: signed again it would be covered up.
        anchor = newest if newest and is_whole and newest.count < _FULL else begin(newest)
        anchor = anchor.extend(lines, worker).sign(self._key)
        is_written = run_sync(redis, write_anchor_call(read, anchor, self._keep_ms))
        return is_written and len(lines) == _BATCH


def unanchored_call(young_ms: int, now_ms: int | str = "") -> Call[tuple[bytes, list[str]]]:
    """Read the newest anchor and the entries behind it, unless the anchor is younger than `young_ms`."""
    return Call(
        load_script("shared/telemetry/unanchored"),
        [STREAM, ANCHORS],
        [_BATCH, young_ms, now_ms],
        lambda reply: (reply[0], [line.decode(errors="replace") for line in reply[1:]]),
    )


def write_anchor_call(read: bytes, anchor: Anchor, keep_ms: int, now_ms: int | str = "") -> Call[bool]:
    """Write an anchor that was made of the newest one as it was `read`; False: another worker was first."""
    text = json.dumps(asdict(anchor), separators=(",", ":"))
    return Call(
        load_script("shared/telemetry/write_anchor"), [ANCHORS], [read, anchor.number, text, keep_ms, now_ms], bool
    )


class AnchorCheck:
    """Compares anchors with the log: give it each entry in order, then ask for the faults.

    Read the anchors before the entries: entries that are appended in between are then behind them.

    Args:
        anchors: The hash as Redis returns it.
        key: The workers'.
        trimmed_ms: Entries older than this may be missing.
    """

    def __init__(self, anchors: Mapping[bytes, bytes], key: str, trimmed_ms: int) -> None:
        self._key = key.encode()
        self._trimmed_ms = trimmed_ms
        numbers = sorted(int(name) for name in anchors if name.isdigit())
        self._faults: list[Fault] = []
        self._anchors: list[Anchor] = []
        for number in numbers:
            anchor = Anchor.parse(anchors[str(number).encode()])
            if anchor and anchor.number == number and anchor.is_signed(self._key):
                self._anchors.append(anchor)
            else:
                self._faults.append(_fault(number, ALTERED))
        for before, anchor in pairwise(self._anchors):
            if anchor.number == before.number + 1 and anchor.prev != before.signature:
                self._faults.append(_fault(anchor.number, "expected to follow the anchor before it"))
        for one, other in pairwise(numbers):
            if other != one + 1:
                self._faults.append(_fault(one + 1, f"removed, up to anchor {other - 1}"))
        self._next = 0
        self._seen, self._chain = 0, self._anchors[0].prev if self._anchors else ""
        self.behind = 0
        """Entries that no anchor covers."""

    @property
    def anchored_at_ms(self) -> int | None:
        """When the newest entry that an anchor covers was appended; None: there is no anchor."""
        return self._anchors[-1].at if self._anchors else None

    def see(self, entry_id: str, digest: str) -> None:
        """Take the next entry of the log."""
        while self._next < len(self._anchors) and _order(entry_id) > _order(self._anchors[self._next].last):
            self._close()
        if self._next < len(self._anchors):
            if _order(entry_id) <= _order(self._anchors[self._next].after):
                return  # of an anchor that was removed because of its age; Redis trims whole blocks of entries
            self._seen += 1
            self._chain = chained(self._chain, [f"{entry_id} {digest}"])
        else:
            self.behind += 1

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong, after the last entry."""
        while self._next < len(self._anchors):
            self._close()
        yield from self._faults

    def _close(self) -> None:
        anchor = self._anchors[self._next]
        is_trimmed = int(anchor.first.partition("-")[0]) <= self._trimmed_ms
        if not is_trimmed and (self._seen, self._chain) != (anchor.count, anchor.chain):
            what = f"expected its {anchor.count:,} entries, from {anchor.first} to {anchor.last}, got: "
            what += f"{self._seen:,}" if self._seen != anchor.count else "others"
            self._faults.append(_fault(anchor.number, f"{what}; entries were removed, altered or moved"))
        self._next += 1
        if self._next < len(self._anchors):
            self._seen, self._chain = 0, self._anchors[self._next].prev


def _fault(number: int, what: str) -> Fault:
    return Fault(WRITER, number, what, is_workers=True)


def _order(entry_id: str) -> tuple[int, int]:
    """Read an id of a stream as Redis orders it."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
