"""Answers that are sent while they are made, and given up when their client goes away."""

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_CANCEL_AGAIN_S = 0.2


class Streamed(Response):
    """The base of such answers; `write` sends the body.

    Starlette's StreamingResponse does the same with a task group, whose cancellation costs 60 us of each answer, and
    ends every body with a write of its own.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._cancellations = 0
        self.init_headers(headers)

    @property
    def is_given_up(self) -> bool:
        """Whether the client has gone away before the end, as opposed to a gateway that stops, or a failure here."""
        return self._cancellations > 0

    async def write(self, send: Send) -> None:
        """Send the body's pieces. Cancelled when the client goes away."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it; returns early when the client goes away."""
        own = asyncio.current_task()
        assert own
        leaving = asyncio.create_task(self._give_up(own, receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self.write(send)
        except asyncio.CancelledError:
            if not self._cancellations or own.cancelling() > self._cancellations:  # the server stops
                raise
        finally:
            leaving.cancel()
            for _ in range(self._cancellations):
                own.uncancel()

    async def _give_up(self, own: "asyncio.Task[object]", receive: Receive) -> None:
        """Cancel `own` when the client has gone away, until it ends.

        Once is not enough: before Python 3.12 `asyncio.wait_for`, which redis-py calls, may lose a cancellation
        (python/cpython#86296).
        """
        while (await receive())["type"] != "http.disconnect":
            pass
        while True:
            self._cancellations += 1
            own.cancel()
            await asyncio.sleep(_CANCEL_AGAIN_S)


def piece(body: bytes, *, is_last: bool = False) -> Message:
    """Return the message that sends a piece of a body."""
    return {"type": "http.response.body", "body": body, "more_body": not is_last}
