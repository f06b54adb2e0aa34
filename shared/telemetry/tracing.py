"""One trace per task, over processes: what happened when, under which name, without any content.

    submit ─┬─ queue wait
            ├─ attempt 1 ─┬─ claim
            │             ├─ invoke_agent <graph> ── node <name> ── chat <model>
            │             └─ finish
            └─ attempt 2, linked to attempt 1, after a crash or a release

The producer writes the W3C traceparent of its `submit` span into the task, and attempts are its children. Spans are
collected while an attempt runs and written to Redis with the very commit that ends it, parents first, so whatever dies
afterwards, what was written is a tree. Any worker sends them on to the OTLP endpoint (worker/telemetry/span_export.py).

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set; OTEL_SDK_DISABLED, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES and OTEL_TRACES_SAMPLER (_ARG) are honoured. Without a tracer of OpenTelemetry's SDK: creating
and encoding its spans costs 430 microseconds for the ten spans of a small task, these 40; and what its batch processor
holds is lost with the process.

Key:
    agent:spans  stream  `spans`: an OTLP ExportTraceServiceRequest; about the last 10,000 attempts; an hour

Names: OpenTelemetry's semantic conventions for generative AI and for messaging.
"""

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.telemetry import otlp
from langgraph_rq.shared.telemetry.otlp import SCOPE
from langgraph_rq.shared.telemetry.spans import Kind, Span, SpanId, Value, new_span_id

SPANS = "agent:spans"
KEPT_ATTEMPTS = 10_000
KEEP_MS = 3_600_000


def is_on(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether spans are made: an endpoint is set, nothing switches them off, and the extra `otel` is there.

    A service that only submits may have an endpoint for spans of its own, and not our extra; its trace still goes on.
    """
    return is_asked_for(environ) and otlp.is_installed()


def is_asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether the environment asks for spans."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(endpoint(environ))


def endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL that spans are sent to; None: none is set."""
    if given := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return given
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


def new_trace(task_id: str, environ: Mapping[str, str] = os.environ) -> SpanId:
    """Begin the trace of a task that came without one; the same in every process."""
    trace = sha256(f"langgraph-rq:{task_id}".encode()).hexdigest()[:32]
    return SpanId(trace, new_span_id(), _is_sampled(trace, environ))


def check_sampler(environ: Mapping[str, str] = os.environ) -> None:
    """Raise SettingsError when traces cannot be sampled as it is asked for."""
    _is_sampled("0" * 32, environ)


def current() -> SpanId | None:
    """Name the span of the calling program, if it uses OpenTelemetry itself."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - only where the program has it loaded already

    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return SpanId(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)


def submit_span(task_id: str, graph: str, queue: str, above: SpanId | None = None) -> tuple[SpanId, Span]:
    """Begin the span of a submit, below `above`, else below the calling program's span if it has one."""
    parent = above or current()
    where = parent.child() if parent else _new_root()
    attributes: dict[str, Value] = {
        "messaging.system": SCOPE,
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
    }
    above_id = parent.span if parent else None
    return where, Span(f"submit {graph}", where.trace, where.span, above_id, Kind.PRODUCER, attributes=attributes)


def send_call(spans: Sequence[Span], fence: tuple[str, int, str] | None = None) -> Call[bool]:
    """Write ended spans to Redis, for a worker to send on.

    Args:
        spans: Parents first.
        fence: Of an attempt: task id, epoch and worker. They are written only while it owns the task, so this call
            goes before the one that ends it.
    """
    task_id, epoch, worker = fence or ("", "", "")
    keys = [SPANS, task_hash(task_id) if fence else SPANS]
    payload = otlp.encode(spans, {"service.instance.id": worker} if worker else {})
    return Call(
        load_script("shared/telemetry/send_spans"), keys, [payload, KEPT_ATTEMPTS, KEEP_MS, epoch, worker], bool
    )


def _new_root(environ: Mapping[str, str] = os.environ) -> SpanId:
    trace = secrets.token_hex(16)
    return SpanId(trace, new_span_id(), _is_sampled(trace, environ))


def _is_sampled(trace: str, environ: Mapping[str, str]) -> bool:
    """Decide by the trace's id, as OpenTelemetry's TraceIdRatioBased does; other samplers take all or none."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler == "traceidratio":
        return int(trace[16:], 16) < round(_ratio(environ) * 2**64)
    return sampler != "always_off"


def _ratio(environ: Mapping[str, str]) -> float:
    given = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    try:
        ratio = float(given)
    except ValueError:
        ratio = -1
    if not 0 <= ratio <= 1:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got: {given}")
    return ratio
