"""One trace per task, over processes: what happened when, under which name, without any content.

    submit ─┬─ attempt 1 ── invoke_agent <graph> ── node <name> ─┬─ chat <model>
            │                                                    └─ execute_tool <name>
            └─ attempt 2, linked to attempt 1, after a crash or a release

The producer writes the W3C traceparent of its `submit` span into the task, and attempts are its children. Only
OpenTelemetry's API is used here: without a TracerProvider there are no spans, and the trace of the caller is passed on.
tracer_provider.py sets one up, for programs that have none of their own.

Names: OpenTelemetry's semantic conventions for generative AI and for messaging.
"""

from hashlib import sha256

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langgraph_rq.shared.tasks import Task

SCOPE = "langgraph-rq"

_W3C = TraceContextTextMapPropagator()


def parent_of(task: Task) -> Context:
    """Return the context of the span below which a task was submitted; an empty one if it came without a trace."""
    return _W3C.extract({"traceparent": task.traceparent}, Context()) if task.traceparent else Context()


def submitted(task: Task, queue: str) -> Task:
    """Record a `submit` span, and return the task below it.

    The span is below the task's own traceparent, else below the calling program's current span. Without a
    TracerProvider the task is below these themselves.
    """
    attributes = {
        "messaging.system": SCOPE,
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "messaging.message.id": task.key,
    }
    above = parent_of(task) if task.traceparent else None
    span = trace.get_tracer(SCOPE).start_span(f"submit {task.graph}", above, SpanKind.PRODUCER, attributes)
    span.end()
    here = span.get_span_context()
    return task.model_copy(update={"traceparent": _traceparent(here)}) if here.is_valid else task


def end(span: Span, error: str | None = None) -> None:
    """End a span; `error` is the type of what went wrong, never its message."""
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def derived_trace_id(task_id: str) -> int:
    """Return the id of the trace of a task that came without one; the same in every process."""
    return int.from_bytes(sha256(f"{SCOPE}:{task_id}".encode()).digest()[:16])


def derived_attempt(trace_id: int, task_id: str, epoch: int) -> SpanContext:
    """Name an attempt, the same in every process, so that the next attempt can link to it."""
    digest = sha256(f"{trace_id:032x}:{task_id}:{epoch}".encode()).digest()
    return SpanContext(trace_id, int.from_bytes(digest[:8]), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _traceparent(here: SpanContext) -> str:
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"
