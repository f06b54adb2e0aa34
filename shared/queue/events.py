"""What happens to a task while it happens: the stream `agent:events:<id>`, from its first claim until after its end.

An entry has two fields, `type` and `data`, a JSON object. Every event of a run names the `attempt` that it belongs to:
after a crash the node that was cut off runs again, and its events come again under the next attempt.

    type      data                                                written
    state     {state, attempt}, and of a task that waits for something
              {waits_for, until_ms}                               always
    node      {attempt, node, phase: start | end, error?}         when the task asks for any stream mode
    values    {attempt, data}: the whole state after each step    when the task asks for it, as LangGraph's stream modes
    updates   {attempt, data}: {node: what it returned}
    custom    {attempt, data}: what a node gave to its stream writer
    messages  {attempt, node, message}: a message or a piece of one, under the message's id
    end       {state}: nothing follows                            always

An entry's id is its place for good: whoever goes on after the last id that they saw misses nothing and sees nothing
twice, also through another process. The stream is bounded: of a task with more events the oldest are forgotten.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic_core import from_json

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.keys import events_key, task_hash

BEGINNING = "0-0"
"""The place before every event."""

FORGOTTEN_END = f"{2**63 - 1}-0"
"""The place of a task's end when its events are forgotten: after every event."""

SMALL_PAGE, PAGE = 4, 16
"""Events of one stream that are read at once: few while they are large, since thousands of readers may hold a page."""

_SMALL_BYTES = 16_384

LONGEST_STREAM = 10_000
"""About how many events are kept of one task."""

_ID = re.compile(r"\d{1,20}-\d{1,20}")


class EventType(StrEnum):
    """What an event is about; the table above says what its data hold."""

    STATE = "state"
    NODE = "node"
    VALUES = "values"
    UPDATES = "updates"
    CUSTOM = "custom"
    MESSAGES = "messages"
    END = "end"


_TYPES = frozenset(EventType)


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `id` is its place, `text` its data as JSON."""

    id: str
    type: str
    text: str

    @property
    def data(self) -> Any:
        """The data as an object."""
        return from_json(self.text)

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.type == EventType.END


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
    kind = fields.get(b"type", b"").decode(errors="replace")
    if kind not in _TYPES or b"data" not in fields:
        return Event(place.decode(), "unknown", "null")
    return Event(place.decode(), kind, fields[b"data"].decode(errors="replace"))


def next_page(page: Sequence[Event]) -> int:
    """Decide how many events to read after `page`, so that a page of large ones (64 kB each) has about 256 kB.

    A script that counts bytes would be exact, and costs Redis seven times as much per event.
    """
    return PAGE if sum(len(event.text) for event in page) < _SMALL_BYTES else SMALL_PAGE


def append_call(task_id: str, epoch: int, worker: str, written: int, events: Sequence[tuple[str, bytes]]) -> Call[int]:
    """Add events after the `written` first ones of this attempt; answers how many are written now, -1: fenced off."""
    pairs: list[Argument] = [part for event in events for part in event]
    return Call(
        load_script("shared/queue/scripts/append_events"),
        [task_hash(task_id), events_key(task_id)],
        [epoch, worker, written, LONGEST_STREAM, *pairs],
        int,
    )
