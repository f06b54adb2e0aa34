"""The trace of a request: what its headers say, in the formats of OTEL_PROPAGATORS, is current while it is answered."""

from opentelemetry import context, propagate, trace
from starlette.types import ASGIApp, Receive, Scope, Send


class TraceContext:
    """Middleware that makes a request's trace current, unless an instrumentation around it has done so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the headers; those that name no trace are ignored."""
        if scope["type"] != "http" or trace.get_current_span().get_span_context().is_valid:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        token = context.attach(propagate.extract(headers))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
