"""The limit on the size of a request's body: by its header, or counted while it arrives."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langgraph_rq.producer.gateway.problems import ProblemError


class BodyLimit:
    """Answers 413 to a request whose body is longer than `limit_bytes`, without reading it to its end."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or pass the request on and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        if said.isdecimal() and int(said) > self._limit_bytes:
            await self._too_long(said).response()(scope, receive, send)
            return
        read_bytes = 0

        async def counted() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._limit_bytes:
                raise self._too_long(str(read_bytes))
            return message

        await self._app(scope, counted, send)

    def _too_long(self, got_bytes: str) -> ProblemError:
        detail = f"expected a body of at most {self._limit_bytes:,} bytes, got: {got_bytes}"
        return ProblemError(413, "body_too_large", detail, headers={"Connection": "close"})
