"""What happens to a task while it happens: the stream `agent:events:<id>`, from its first claim until after its end.

An entry has two fields, `type` and `data`, a JSON object. Every event of a run names the `attempt` that it belongs to:
after a crash the node that was cut off runs again, and its events come again under the next attempt. An event of a
subgraph names its `namespace`, outermost first: ["child:<id>"].

Data of more than `PART_BYTES` are in several entries that follow each other without a gap, of the types "values 1/3",
"values 2/3", "values 3/3": joined they are the event's, whose id is that of the last one.

    type      data                                                written
    state     {state, attempt}, and of a task that waits for something
              {waits_for, until_ms}                               always
    node      {attempt, node, phase: start | end, error?}         when the task asks for any stream mode
    values    {attempt, data}: the whole state after each step    when the task asks for it, as LangGraph's stream modes
    updates   {attempt, data}: {node: what it returned}
    custom    {attempt, data}: what a node gave to its stream writer
    messages  {attempt, node, message, metadata}: a message or a piece of one, under the message's id
    tasks, checkpoints, debug
              {attempt, data}: LangGraph's records of them
    events    {attempt, data}: LangChain's `astream_events`, but for the graph's own chunks, which the other modes have
    end       {state}: nothing follows                            always

An entry's id is its place for good: a reader that continues after the last id it has seen misses nothing and
sees nothing twice, also through another process. The stream is bounded: of a task with more events the oldest are
forgotten.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from pydantic_core import from_json

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.keys import events_key, task_hash

BEGINNING = "0-0"
"""The place before every event."""

FORGOTTEN_END = f"{2**63 - 1}-0"
"""The place of a task's end when its events are forgotten: after every event."""

PART_BYTES = 64_000
"""Longest data of one entry."""

SMALL_PAGE, PAGE = 4, 16
"""Events of one stream that are read at once: few while they are large, since thousands of readers may hold a page."""

_SMALL_BYTES = 16_384

LONGEST_STREAM = 10_000
"""About how many events are kept of one task."""

_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


class EventType(StrEnum):
    """What an event is about; the table above says what its data hold."""

    STATE = "state"
    NODE = "node"
    VALUES = "values"
    UPDATES = "updates"
    CUSTOM = "custom"
    MESSAGES = "messages"
    TASKS = "tasks"
    CHECKPOINTS = "checkpoints"
    DEBUG = "debug"
    EVENTS = "events"
    END = "end"


_TYPES = frozenset(EventType)


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `id` is its place, `text` its data as JSON."""

    id: str
    type: str
    text: str
    part: tuple[int, int] = (1, 1)
    """Which part of an event this entry is, from 1, and of how many."""

    @property
    def data(self) -> Any:
        """The data as an object."""
        return from_json(self.text)

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.type == EventType.END


class Parts:
    """Follows the parts of events, entry by entry. The rest of an event whose beginning is forgotten is skipped."""

    def __init__(self) -> None:
        self._seen = 0
        self._texts: list[str] = []

    def next(self, entry: Event) -> Event | None:
        """Return an entry that begins an event, or goes on with the one that has begun; None: another one."""
        number, count = entry.part
        is_next = number in {1, self._seen + 1}
        self._seen = number % count if is_next else 0
        return entry if is_next else None

    def join(self, entry: Event) -> Event | None:
        """Return the event that an entry completes; None: parts of it are missing."""
        number, count = entry.part
        if not self.next(entry):
            return None
        if count == 1:
            return entry
        self._texts = [*(self._texts if number > 1 else ()), entry.text]
        if number < count:
            return None
        text, self._texts = "".join(self._texts), []
        return Event(entry.id, entry.type, text)


def order(place: str) -> tuple[int, int]:
    """Make places comparable."""
    ms, _, sequence = place.partition("-")
    return int(ms), int(sequence or 0)


def is_place(text: str) -> bool:
    """Whether `text` can be an event's id."""
    return bool(_ID.fullmatch(text))


def read_event(entry: tuple[bytes, Mapping[bytes, bytes]]) -> Event:
    """Read one entry of the stream, as redis-py answers it. One of another program is of the type `unknown`."""
    place, fields = entry
    kind, _, part = fields.get(b"type", b"").decode(errors="replace").partition(" ")
    number, count = (int(found[1]), int(found[2])) if (found := _PART.fullmatch(part or "1/1")) else (0, 0)
    if kind not in _TYPES or b"data" not in fields or not 1 <= number <= count:
        return Event(place.decode(), "unknown", "null")
    return Event(place.decode(), kind, fields[b"data"].decode(errors="replace"), (number, count))


def split(kind: str, data: bytes) -> list[tuple[str, bytes]]:
    """Cut an event into the type and the data of its entries; no character is cut."""
    if len(data) <= PART_BYTES:
        return [(kind, data)]
    cuts = [0]
    while (end := cuts[-1] + PART_BYTES) < len(data):
        while data[end] & 0xC0 == 0x80:  # within a character of UTF-8
            end -= 1
        cuts.append(end)
    pieces = [data[start:end] for start, end in pairwise([*cuts, len(data)])]
    return [(f"{kind} {number}/{len(pieces)}", piece) for number, piece in enumerate(pieces, 1)]


def next_page(page: Sequence[Event]) -> int:
    """Decide how many events to read after `page`, so that a page of large ones (64 kB each) has about 256 kB.

    A script that counts bytes would be exact, and costs Redis seven times as much per event.
    """
    return PAGE if sum(len(event.text) for event in page) < _SMALL_BYTES else SMALL_PAGE


def append_call(task_id: str, epoch: int, worker: str, written: int, events: Sequence[tuple[str, bytes]]) -> Call[int]:
    """Add entries after the `written` first ones of this attempt; answers how many are written now, -1: fenced off.

    All entries of an event come in one call.
    """
    pairs: list[Argument] = [part for event in events for part in event]
    return Call(
        load_script("shared/queue/scripts/running/append_events"),
        [task_hash(task_id), events_key(task_id)],
        [epoch, worker, written, LONGEST_STREAM, *pairs],
        int,
    )
