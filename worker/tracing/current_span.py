"""A span as the user's code sees it in OpenTelemetry's context: once it has ended, the one that was current before it.

What is attached where a node starts stays attached there: LangChain reports the end in a copy of the context, in which
nothing can be detached. LangGraph may start a node in the context of the code that called its graph, such as another
node, which goes on after it.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanContext, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue


class CurrentSpan(Span):
    """Passes everything on to the span itself, or after its end to the one before. Made current where it is made."""

    def __init__(self, span: Span) -> None:
        before = trace.get_current_span()
        # Of a span that has ended, what is before it: a loop of nodes in one context must not make a chain.
        self._before = before.seen if isinstance(before, CurrentSpan) else before
        self._span = span
        self._has_ended = False
        context.attach(trace.set_span_in_context(self))

    def leave(self) -> None:
        """Be from now on what was current before, in every context."""
        self._has_ended = True

    @property
    def seen(self) -> Span:
        """The first of this one and those before it that has not ended."""
        if not self._has_ended:
            return self
        return self._before.seen if isinstance(self._before, CurrentSpan) else self._before

    @property
    def _target(self) -> Span:
        seen = self.seen
        return seen._span if isinstance(seen, CurrentSpan) else seen  # noqa: SLF001 - its own class

    def __getattr__(self, name: str) -> Any:
        """Pass on what the SDK's spans have beyond the API's, such as `attributes`."""
        if name.startswith("_"):  # asked for before they are set, by copy and pickle
            raise AttributeError(name)
        return getattr(self._target, name)

    def get_span_context(self) -> SpanContext:
        """Return the ids that a span below this one is given."""
        return self._target.get_span_context() if self._has_ended else self._span.get_span_context()

    def is_recording(self) -> bool:
        """Return whether attributes are kept."""
        return self._target.is_recording()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes."""
        self._target.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self._target.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        self._target.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link."""
        self._target.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Rename it."""
        self._target.update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set whether it has failed."""
        self._target.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event of an exception."""
        self._target.record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: it ends with its node."""
