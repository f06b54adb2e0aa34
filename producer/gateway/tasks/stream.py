"""A task's events as server-sent events (the HTML standard's `text/event-stream`).

An event's `id` is its place in the task's stream in Redis, which every gateway process reads: a client that comes back
with `Last-Event-ID`, here or elsewhere, misses nothing and sees nothing twice.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.types import Receive, Scope, Send

from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.problems import documented
from langgraph_rq.producer.gateway.streamed import Streamed, piece
from langgraph_rq.producer.gateway.tasks.bodies import StrictRoute
from langgraph_rq.producer.gateway.tasks.routes import TaskPath
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.queue.events import BEGINNING, Event, EventType

_RETRY_MS = 1_000
_HEARTBEAT = b": \n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No proxy caches or buffers the stream."""

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="Go on after this event; empty: from the beginning.",
        pattern=r"^([0-9]{1,19}-[0-9]{1,19})?$",
    ),
]

router = APIRouter(route_class=StrictRoute, tags=["tasks"])


@router.get(
    "/tasks/{task_id}/events",
    response_class=Response,
    responses={
        200: {
            "description": f"Events until the task has ended: {', '.join(EventType)}",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 1795354754673-0\nevent: state\ndata: {"state":"running","attempt":1}\n\n',
                }
            },
        },
        204: {"description": "The end was seen: do not come back"},
        **documented(401, 404, 422, 429, 503),
    },
)
async def events(
    task_id: TaskPath,
    caller: FromCaller,
    after: LastEventId = None,
) -> Response:
    """Follow a task: what happened so far, then what happens, up to its end with the result."""
    with ExitStack() as stack:
        stack.enter_context(caller.gateway.streams.admit(caller.tenant))
        heartbeat_s = caller.gateway.settings.heartbeat_s
        # In parts: a client that reads slowly may not hold a long event in the gateway's memory.
        following = await caller.client.follow(task_id, after or BEGINNING, heartbeat_s, in_parts=True)
        if following is None:
            return Response(status_code=204)
        return EventsResponse(_write(task_id, caller, following), stack.pop_all())


class EventsResponse(Streamed):
    """An event stream that counts as open until it has ended, and whose page is freed then, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncGenerator[bytes, None], admission: ExitStack) -> None:
        super().__init__(_HEADERS)
        self._content = content
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._admission:
            try:
                await super().__call__(scope, receive, send)
            finally:
                # A cancelled send leaves cycles of frames and tracebacks behind: a page must not wait for their end.
                await self._content.aclose()

    async def write(self, send: Send) -> None:
        """Send the events."""
        async for event in self._content:
            await send(piece(event))
        await send(piece(b"", is_last=True))


async def _write(
    task_id: str, caller: Caller, following: AsyncGenerator[Event | None, None]
) -> AsyncGenerator[bytes, None]:
    yield b"retry: %d\n" % _RETRY_MS
    # A failure from here on only ends the stream: the client reconnects and gets the error then.
    with suppress(LanggraphRqError):
        async with aclosing(following) as events:
            is_within = False
            async for event in events:
                if event:
                    is_within = event.part[0] < event.part[1]
                    yield await _encode(task_id, caller, event)
                elif not is_within:  # there it would be data
                    yield _HEARTBEAT


async def _encode(task_id: str, caller: Caller, event: Event) -> bytes:
    """Encode an event, or a part of one: its id follows the last part, so that what is cut off is asked for again."""
    number, count = event.part
    text = event.text
    if count > 1:
        before = f"event: {event.type}\ndata: " if number == 1 else ""
        after = f"\nid: {event.id}\n\n" if number == count else ""
        return f"{before}{text}{after}".encode()
    if event.is_last:
        document = await caller.client.result_json(task_id)
        text = f'{text[:-1]},"result":{document.decode() if document else "null"}}}'
    return f"id: {event.id}\nevent: {event.type}\ndata: {text}\n\n".encode()
