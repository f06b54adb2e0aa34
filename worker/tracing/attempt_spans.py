"""The spans of one attempt.

A span below another is given its parent, not the one that is current: LangGraph may run a node in the very context in
which the one before ran. What is current is for the user's code, whose own spans are below it.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.tasks import Task
from langgraph_rq.shared.telemetry.tracer_provider import is_set
from langgraph_rq.shared.telemetry.tracing import SCOPE, derived_attempt, derived_trace_id, end, parent_of
from langgraph_rq.worker.tracing.current_span import CurrentSpan

_LARGEST = 2**63 - 1
"""OTLP's largest integer; a larger one would cost its whole batch."""

_ids: ContextVar[tuple[int, int] | None] = ContextVar("ids", default=None)
"""The ids of the trace and the span that is being started."""


class _DerivedIds:
    """The SDK's id generator, but for attempts, whose ids the next attempt must know, also after a crash."""

    def __init__(self, others: Any) -> None:
        self._others = others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)

    def generate_trace_id(self) -> int:
        derived = _ids.get()
        return derived[0] if derived else int(self._others.generate_trace_id())

    def generate_span_id(self) -> int:
        derived = _ids.get()
        return derived[1] if derived else int(self._others.generate_span_id())


def find_tracer() -> Tracer | None:
    """Return the tracer of this process' TracerProvider; None: it has none.

    Call it when the user's code was loaded, which may set one.
    """
    if not is_set():
        return None
    tracer: Any = trace.get_tracer(SCOPE)
    others = getattr(tracer, "id_generator", None)
    if others and not isinstance(others, _DerivedIds):
        tracer.id_generator = _DerivedIds(others)
    return tracer  # type: ignore[no-any-return]


class AttemptSpans:
    """The span of an attempt and those below it that have not ended."""

    def __init__(self, tracer: Tracer, own: Span) -> None:
        self._tracer = tracer
        self._own = own
        self._open: dict[Span, CurrentSpan] = {}
        """Spans that have not ended, and each as the user's code sees it."""

    @classmethod
    def begin(cls, tracer: Tracer | None, claimed: Claimed, task: Task) -> Self | None:
        """Begin the attempt's span, and make it current; None: the attempt has no spans, but its trace goes on."""
        above = parent_of(task)
        if tracer is None:
            context.attach(above)
            return None
        own = _start_attempt(tracer, above, claimed)
        context.attach(trace.set_span_in_context(own, above))
        return cls(tracer, own) if own.is_recording() else None

    @property
    def id(self) -> str:
        """The id of the attempt's span, as log lines have it."""
        return span_id(self._own)

    def open(self, name: str, parent: Span | None, attributes: Mapping[str, str] | None = None) -> Span:
        """Begin a span and make it current; None for `parent`: it is directly below the attempt."""
        above = trace.set_span_in_context(parent or self._own)
        span = self._tracer.start_span(name, above, attributes=attributes)
        self._open[span] = CurrentSpan(span)
        return span

    def close(self, span: Span, error: str | None = None) -> None:
        """End a span, once; what was current before it is so again."""
        current = self._open.pop(span, None)
        if current:
            current.leave()
            end(span, error)

    def add_model_call(self, called: Mapping[str, Any]) -> None:
        """Record a model call that has ended, by its log event, below what is current where it was made."""
        now_ns = time.time_ns()
        is_below = trace.get_current_span().get_span_context().is_valid
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": called["provider"],
            "gen_ai.request.model": called["model"],
            "gen_ai.usage.input_tokens": min(called["input_tokens"], _LARGEST),
            "gen_ai.usage.output_tokens": min(called["output_tokens"], _LARGEST),
        }
        if called["estimated"]:
            attributes["langgraph_rq.usage_estimated"] = True
        span = self._tracer.start_span(
            f"chat {called['model']}",
            None if is_below else trace.set_span_in_context(self._own),
            SpanKind.CLIENT,
            attributes,
            start_time=now_ns - called["duration_ms"] * 1_000_000,
        )
        end(span, None if called["outcome"] == "ok" else called["outcome"])

    def leave_graph(self, state: str | None) -> None:
        """End what LangChain has reported no end of; the attempt lasts until its outcome is written.

        Args:
            state: The task's; None: it goes back to the queue.
        """
        self._close_all("cancelled")
        if state is None:
            self._own.set_attribute("langgraph_rq.released", True)
        else:
            self._own.set_attribute("langgraph_rq.state", state)

    def add_exception(self, told: Mapping[str, Any]) -> None:
        """Record the exception that ended the task: its node, class, message and frames, where they are told."""
        found = {
            "exception.type": told.get("exception"),
            "exception.message": told.get("message"),
            "exception.stacktrace": "\n".join(told.get("frames", ())),
            "langgraph_rq.node": told.get("node"),
        }
        attributes = {name: value for name, value in found.items() if value}
        if attributes:
            self._own.add_event("exception", attributes)

    def end(self, error: str | None) -> None:
        """End the attempt's span, and what is open below it."""
        self._close_all(error)
        end(self._own, error)

    def _close_all(self, error: str | None) -> None:
        for span in reversed(list(self._open)):
            self.close(span, error)


def _start_attempt(tracer: Tracer, above: Context, claimed: Claimed) -> Span:
    submit = trace.get_current_span(above).get_span_context()
    trace_id = submit.trace_id if submit.is_valid else derived_trace_id(claimed.id)
    has_derived_ids = isinstance(getattr(tracer, "id_generator", None), _DerivedIds)
    links = []
    if has_derived_ids and claimed.epoch > 1:
        links.append(Link(derived_attempt(trace_id, claimed.id, claimed.epoch - 1)))
    attributes: dict[str, str | int] = {
        "messaging.system": SCOPE,
        "messaging.operation.type": "process",
        "messaging.destination.name": claimed.queue,
        "messaging.message.id": claimed.id,
        "langgraph_rq.attempt": claimed.epoch,
        "langgraph_rq.queued_ms": claimed.claimed_at_ms - claimed.created_at_ms,
    }
    token = _ids.set((trace_id, derived_attempt(trace_id, claimed.id, claimed.epoch).span_id))
    try:
        name, start_ns = f"attempt {claimed.epoch}", claimed.claimed_at_ms * 1_000_000
        return tracer.start_span(name, above, SpanKind.CONSUMER, attributes, links, start_ns)
    finally:
        _ids.reset(token)


def span_id(span: Span) -> str:
    """Return a span's id, as log lines and W3C's traceparent have it."""
    return f"{span.get_span_context().span_id:016x}"
