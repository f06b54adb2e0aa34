"""The limits on a request's body: on its size, by its header or counted while it arrives, and on its time."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langgraph_rq.producer.gateway.problems import ProblemError


class BodyLimit:
    """Answers 413 or 408 to a body that is too long or takes too long, without reading it to its end.

    Args:
        limit_bytes: The longest body.
        limit_s: Until its last byte has arrived.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int, limit_s: float) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or 408, or pass the request on and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        if said.isdecimal() and int(said) > self._limit_bytes:
            await self._too_long(said).response()(scope, receive, send)
            return
        read_bytes, is_read = 0, False
        give_up_at = asyncio.get_running_loop().time() + self._limit_s

        async def counted() -> Message:
            nonlocal read_bytes, is_read
            if is_read:  # what follows is the end of the connection, whenever that comes
                return await receive()
            try:
                async with asyncio.timeout_at(give_up_at):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(read_bytes) from None
            is_read = not message.get("more_body", False)
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._limit_bytes:
                raise self._too_long(str(read_bytes))
            return message

        await self._app(scope, counted, send)

    def _too_long(self, got_bytes: str) -> ProblemError:
        detail = f"expected a body of at most {self._limit_bytes:,} bytes, got: {got_bytes}"
        return ProblemError(413, "body_too_large", detail, headers={"Connection": "close"})

    def _too_slow(self, got_bytes: int) -> ProblemError:
        detail = f"expected the whole body within {self._limit_s:g} s, got: {got_bytes:,} bytes of it"
        return ProblemError(408, "body_too_slow", detail, headers={"Connection": "close"})
