"""The stream of a run as LangGraph's server-sent events, made of the task's events, which any gateway can read."""

import asyncio
import json
from collections.abc import AsyncGenerator, Collection
from contextlib import ExitStack, aclosing, suppress
from typing import Any

from starlette.types import Receive, Scope, Send

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.ids import thread_of_its_own
from langgraph_rq.producer.gateway.langgraph_api.messages import Messages, Repeats
from langgraph_rq.producer.gateway.langgraph_api.objects import RUN_STATUS, failure
from langgraph_rq.producer.gateway.langgraph_api.runs.bodies import joins_messages, task_mode
from langgraph_rq.producer.gateway.tasks.stream import EventsResponse
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.queue.events import BEGINNING, Event, EventType, is_place, order
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State, own_thread

HEARTBEAT_S = 5.0
"""LangGraph's clients give up a silent stream soon after."""
DISCONNECTED = "its client has disconnected"
"""Why a run was cancelled."""
HEARTBEAT = b": heartbeat\n\n"
ALL_MODES = ("values", "updates", "messages-tuple", "custom", "events", "debug", "tasks", "checkpoints")
_MODES = frozenset(
    {
        EventType.VALUES,
        EventType.UPDATES,
        EventType.CUSTOM,
        EventType.MESSAGES,
        EventType.TASKS,
        EventType.CHECKPOINTS,
        EventType.DEBUG,
        EventType.EVENTS,
    }
)


class RunStream(EventsResponse):
    """The events of a run; with `cancels` the run is cancelled when its reader goes away before the end."""

    def __init__(self, content: AsyncGenerator[bytes, None], admission: ExitStack, on_left: Any = None) -> None:
        super().__init__(content, admission)
        self._on_left = on_left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_left and self.is_given_up:
                # The gateway may be stopping: what is awaited here has to outlive the request.
                await asyncio.shield(self._on_left())


async def open_stream(
    caller: Caller,
    run_id: str,
    after: str | None,
    modes: Collection[str],
    admission: ExitStack,
    *,
    cancels: bool = False,
    is_new: bool = False,
) -> RunStream:
    """Begin to stream a run after an event; from its beginning after none, or one that is none.

    Args:
        caller: Whose run it is.
        run_id: The run.
        after: `Last-Event-ID` of a client that comes back.
        modes: The stream modes to tell of, in LangGraph's words.
        admission: What counts the stream as open; what is in it is taken over, and closed with the stream.
        cancels: Whether the run is cancelled when the reader goes away before its end.
        is_new: Whether it was submitted just now: then an outage of Redis ends the stream, and is no error, after which
            a client would start the run once more.
    """
    place = after if after and is_place(after) and after != "0-0" else BEGINNING
    frames = Frames(run_id, modes, place)
    following = await caller.client.follow(run_id, frames.read_from, HEARTBEAT_S, is_new=is_new)
    reading = _Reading()
    content = _write(caller, run_id, following, frames, reading)

    async def leave() -> None:
        if not reading.has_ended:
            with suppress(LanggraphRqError):
                await caller.client.cancel(run_id, reason=DISCONNECTED)

    return RunStream(content, admission.pop_all(), leave if cancels else None)


class _Reading:
    has_ended = False


async def _write(
    caller: Caller,
    run_id: str,
    following: AsyncGenerator[Event | None, None] | None,
    frames: "Frames",
    reading: _Reading,
) -> AsyncGenerator[bytes, None]:
    if following is None:  # its end was seen
        reading.has_ended = True
        return
    # A failure from here on only ends the stream: the client reconnects and gets the error then.
    with suppress(LanggraphRqError):
        async with aclosing(following) as events:
            async for event in events:
                if event is None:
                    yield HEARTBEAT
                elif event.is_last:
                    reading.has_ended = True
                    if not frames.is_known(event):
                        for one in await read_end(caller, run_id, event, has_begun=frames.has_begun):
                            yield one
                else:
                    for one in frames.take(event):
                        yield one
    # The gateway ends, or cannot read on: the reader is still there, and comes back.
    reading.has_ended = True


class Frames:
    """Writes what events say, to a reader that has seen those up to a place.

    What is said of a message depends on its earlier pieces: with messages those are read again, and not written.
    """

    def __init__(self, run_id: str, modes: Collection[str], place: str, suffix: str = "") -> None:
        self._run_id = run_id
        self._own = own_thread(run_id).encode(), thread_of_its_own(run_id).encode()
        """The thread of a run without one: as the worker names it, and as it is shown elsewhere."""
        self._suffix = suffix
        self._modes = {task_mode(mode) for mode in modes}
        self._place = order(place)
        self._repeats = Repeats()
        self._messages = Messages() if joins_messages(modes) else None
        self.has_begun = place != BEGINNING
        self.read_from = BEGINNING if EventType.MESSAGES in self._modes else place

    def is_known(self, event: Event) -> bool:
        """Whether the reader has seen an event."""
        return order(event.id) <= self._place

    def _id(self, event: Event) -> str:
        return event.id + self._suffix

    def take(self, event: Event) -> list[bytes]:
        """Write what an event says."""
        if self.is_known(event):
            if event.type == EventType.MESSAGES:
                self._told(event, event.data)
            return []
        if event.type == EventType.STATE:
            state = event.data
            if state.get("state") != State.RUNNING or state.get("waits_for"):
                return []
            self.has_begun = True
            return [frame("metadata", {"run_id": self._run_id, "attempt": state.get("attempt", 1)}, self._id(event))]
        if event.type not in _MODES or event.type not in self._modes:
            return []
        data = event.data
        told = self._told(event, data)
        if not told:
            return []
        attempt = data.get("attempt", 1)
        begin = [] if self.has_begun else [frame("metadata", {"run_id": self._run_id, "attempt": attempt})]
        self.has_begun = True
        inside = data.get("namespace", ())
        frames = [frame("|".join([name, *inside]), value) for name, value in told[:-1]]
        # Only the last one has the place: who comes back after another one gets all of them.
        frames += [frame("|".join([name, *inside]), value, self._id(event)) for name, value in told[-1:]]
        return [*begin, *(one.replace(*self._own) for one in frames)]

    def _told(self, event: Event, data: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return what an event of a mode says, as (event, data)."""
        if event.type == EventType.DEBUG:
            return [(event.type, _with_checkpoints(data.get("data")))]
        if event.type != EventType.MESSAGES:
            return [(event.type, data.get("data"))]
        piece = self._repeats.take(data["message"], data.get("attempt", 1)) if "message" in data else None
        if piece is None:  # told already
            return []
        metadata = data.get("metadata", {})
        return self._messages.take(piece, metadata) if self._messages else [(event.type, [piece, metadata])]


_CHECKPOINT = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def _with_checkpoints(record: Any) -> Any:
    """Name the checkpoints of a record of one, as LangGraph's server does besides their configs."""
    if not isinstance(record, dict) or record.get("type") != "checkpoint":
        return record
    payload = dict(record["payload"])
    for name, config in (("checkpoint", payload.get("config")), ("parent_checkpoint", payload.get("parent_config"))):
        known = (config or {}).get("configurable", {})
        payload[name] = {part: known[part] for part in _CHECKPOINT if part in known} or None
    payload["tasks"] = [
        {**task, "checkpoint": ((task.get("state") or {}).get("configurable"))} for task in payload.get("tasks", ())
    ]
    return {**record, "payload": payload}


async def read_end(caller: Caller, run_id: str, event: Event, *, has_begun: bool) -> list[bytes]:
    """Write the end of a run: what went wrong, if anything did, and how it ended."""
    document = await caller.client.result_json(run_id)
    result: Any = read_json(document) if document else {}
    frames = [] if has_begun else [frame("metadata", {"run_id": run_id, "attempt": 1})]
    if not has_begun and result.get("result") is not None:  # its events are forgotten
        frames.append(frame("values", result["result"]))
    if error := failure(result):
        frames.append(frame("error", error))
    status = RUN_STATUS[State(result.get("status") or event.data["state"])]
    return [*frames, frame("end", {"run_id": run_id, "status": status}, event.id)]


def frame(name: str, data: Any, id_: str | None = None) -> bytes:
    """Write one server-sent event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    place = f"id: {id_}\n" if id_ else ""
    return f"{place}event: {name}\ndata: {text}\n\n".encode()
