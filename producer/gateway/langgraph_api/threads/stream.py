"""The stream of a thread: the events of its runs, in the order in which they began, for as long as the reader stays."""

import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from itertools import islice
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Header, Query, Response
from redis.exceptions import RedisError

from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.langgraph_api.lists import Listed
from langgraph_rq.producer.gateway.langgraph_api.objects import MOST_LISTED, Run, newest_runs, read_runs, read_thread
from langgraph_rq.producer.gateway.langgraph_api.runs.stream import (
    ALL_MODES,
    HEARTBEAT,
    HEARTBEAT_S,
    Frames,
    frame,
    read_end,
)
from langgraph_rq.producer.gateway.langgraph_api.texts import TextRoute
from langgraph_rq.producer.gateway.langgraph_api.threads.routes import ThreadPath
from langgraph_rq.producer.gateway.problems import documented
from langgraph_rq.producer.gateway.tasks.stream import EventsResponse
from langgraph_rq.shared.errors import LanggraphRqError, UnknownTaskError
from langgraph_rq.shared.queue.events import BEGINNING, is_place
from langgraph_rq.shared.queue.keys import events_key
from langgraph_rq.shared.tasks import task_key, thread_key
from langgraph_rq.shared.threads.rows import wake_key

_NEWEST = 100
"""Runs among which new ones are looked for, and of which the beginning is waited for. Others are looked for after
`HEARTBEAT_S`."""
_LISTENED_MS = 60_000
_FROM_START = frozenset({"-", "-1", "0", "0-0"})

_Mode = Literal["run_modes", "lifecycle", "state_update"]
_MODES = {"lifecycle": (), "state_update": ("values",)}
"""What of its runs a mode tells, besides that they began, failed and ended; run_modes: what the runs were asked for."""

router = APIRouter(route_class=TextRoute, tags=["langgraph: threads"])


@router.get("/threads/{thread}/stream", response_class=Response, responses=documented(401, 404, 422, 429, 503))
async def stream(
    thread: ThreadPath,
    caller: FromCaller,
    stream_mode: Annotated[list[_Mode] | None, Listed, Query(description="run_modes if nothing is said.")] = None,
    stream_modes: Annotated[list[_Mode] | None, Listed, Query(description="Its name in LangGraph's OpenAPI.")] = None,
    after: Annotated[str | None, Header(alias="Last-Event-ID", description="`-`: from the first run on.")] = None,
) -> Response:
    """Stream the events of all runs of a thread: of those that have not ended, or all that come after an event."""
    await read_thread(caller, thread)
    asked = stream_mode or stream_modes or ["run_modes"]
    with ExitStack() as stack:
        stack.enter_context(caller.gateway.streams.admit(caller.tenant))
        content = _write(caller, _Runs(caller, thread), asked, after or "")
        response = EventsResponse(content, stack.pop_all())
        path = f"/threads/{quote(thread, safe='')}/stream"
        response.headers["Location"] = f"{path}?{urlencode({'stream_mode': asked}, doseq=True)}"
        return response
    raise AssertionError


class _Runs:
    """The runs of a thread that a reader has not heard of, in the order in which they began."""

    def __init__(self, caller: Caller, thread_id: str) -> None:
        self._caller = caller
        self._thread_id = thread_id
        self._wake_key = wake_key(thread_key(thread_id, caller.tenant))
        self._listens_until = 0.0
        self._places: dict[str, str] = {}
        """Of the streams that tell of new runs, and of the beginning of those that wait."""
        self._known: set[str] = set()
        self._waiting: dict[str, None] = {}
        """In the order in which they were accepted."""

    async def begin(self, after: str) -> tuple[Run | None, str]:
        """Find the run with which the reader goes on, and the place in it; None: the next one that begins."""
        place, _, run_id = after.partition(".")
        await self._look(MOST_LISTED)
        runs = await self._begun()
        seen = next((run for run in runs if run.run_id == run_id and is_place(place)), None)
        if seen:
            told = [run for run in runs if run.started_ms <= seen.started_ms]
        else:
            told = [] if after in _FROM_START else [run for run in runs if run.state.is_terminal]
        for run in told:
            del self._waiting[run.run_id]
        return seen, place

    async def next(self) -> Run | None:
        """Return the next run that has begun."""
        await self._listen()
        await self._look(_NEWEST)
        run = min(await self._begun(), key=lambda one: one.started_ms, default=None)
        if run:
            del self._waiting[run.run_id]
        return run

    async def wait(self, timeout_s: float) -> None:
        """Wait until another run may have begun."""
        keys = [events_key(task_key(one, self._caller.tenant)) for one in islice(self._waiting, _NEWEST)]
        self._places = {key: self._places.get(key, BEGINNING) for key in (self._wake_key, *keys)}
        news = await self._caller.client.news(self._places, timeout_s, most=1, is_drained=True)
        self._places |= {key: events[-1].id for key, events in news.items()}

    async def _listen(self) -> None:
        """Let submits tell of new runs from here on, for a while."""
        if time.monotonic() < self._listens_until:
            return
        pipeline = self._caller.client.redis.pipeline(transaction=True)
        pipeline.xadd(self._wake_key, {"": ""}, maxlen=1, approximate=False)
        pipeline.pexpire(self._wake_key, _LISTENED_MS)
        place, _ = await pipeline.execute(raise_on_error=False)
        if isinstance(place, bytes):  # not the error of a key of another type
            self._places[self._wake_key] = place.decode()
        self._listens_until = time.monotonic() + _LISTENED_MS / 2_000

    async def _look(self, most: int) -> None:
        for run in reversed(await newest_runs(self._caller, self._thread_id, most, self._known)):
            self._known.add(run.run_id)
            self._waiting[run.run_id] = None

    async def _begun(self) -> list[Run]:
        ids = list(self._waiting)
        found = await read_runs(self._caller, self._thread_id, ids)
        for run_id, run in zip(ids, found, strict=True):
            if run is None or (run.state.is_terminal and not run.started_ms):  # gone, or it never began
                del self._waiting[run_id]
        return [run for run in found if run and run.started_ms]


async def _write(caller: Caller, runs: _Runs, asked: list[_Mode], after: str) -> AsyncGenerator[bytes, None]:
    # A failure ends the stream: the client reconnects and gets the error then.
    with suppress(LanggraphRqError, RedisError, OSError):
        run, place = await runs.begin(after)
        beat_at = time.monotonic() + HEARTBEAT_S
        while not caller.client.is_ending:
            if run:
                with suppress(UnknownTaskError):  # it was rolled back, and is forgotten
                    async with aclosing(_write_run(caller, run, asked, place)) as frames:
                        async for one in frames:
                            yield one
                beat_at = time.monotonic() + HEARTBEAT_S
            run, place = await runs.next(), BEGINNING
            if run is None:
                await runs.wait(max(0.0, beat_at - time.monotonic()))
                if time.monotonic() >= beat_at:
                    yield HEARTBEAT
                    beat_at = time.monotonic() + HEARTBEAT_S


async def _write_run(caller: Caller, run: Run, asked: list[_Mode], place: str) -> AsyncGenerator[bytes, None]:
    modes: list[str] = [mode for name in asked for mode in _MODES.get(name, ())]
    if "run_modes" in asked:
        modes += run.record.get("kwargs", {}).get("stream_mode") or ALL_MODES
    frames = Frames(run.run_id, modes, place, suffix=f".{run.run_id}")
    following = await caller.client.follow(run.run_id, frames.read_from, HEARTBEAT_S)
    if following is None:
        return
    async with aclosing(following) as events:
        async for event in events:
            if event is None:
                yield HEARTBEAT
            elif event.is_last and not frames.is_known(event):
                for one in (await read_end(caller, run.run_id, event, has_begun=frames.has_begun))[:-1]:
                    yield one
                done: dict[str, Any] = {"status": "run_done", "run_id": run.run_id}
                yield frame("metadata", done, f"{event.id}.{run.run_id}")
            elif not event.is_last:
                for one in frames.take(event):
                    yield one
