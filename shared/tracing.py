"""One trace per task, over processes: what happened when, under which name, without any content.

    submit ─┬─ queue wait
            ├─ attempt 1 ─┬─ claim
            │             ├─ invoke_agent <graph> ── node <name> ── chat <model>
            │             └─ finish
            └─ attempt 2, linked to attempt 1, after a crash or a release

The producer writes the W3C traceparent of its `submit` span into the task, and attempts are its children. Spans are
collected while an attempt runs and written to Redis with the very commit that ends it, parents first, so whatever dies
afterwards, what was written is a tree. Any worker sends them on to the OTLP endpoint (worker/span_export.py).

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set; OTEL_SDK_DISABLED, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES and OTEL_TRACES_SAMPLER (_ARG) are honoured. Without a tracer of OpenTelemetry's SDK: creating
and encoding its spans costs 430 microseconds for the ten spans of a small task, these 50; and what its batch processor
holds is lost with the process.

Key:
    agent:spans  stream  `spans`: an OTLP ExportTraceServiceRequest; about the last 10,000 attempts; an hour

Names: OpenTelemetry's semantic conventions for generative AI and for messaging. Encoding: opentelemetry-proto.
"""

import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, Self

from shared.errors import SettingsError
from shared.lua import Call, load_script
from shared.task_queue import task_hash

SPANS = "agent:spans"
KEPT_ATTEMPTS = 10_000
KEEP_MS = 3_600_000
SCOPE = "langgraph-rq"

Value = str | int | float | bool


class Kind(IntEnum):
    """OTLP's numbers of span kinds."""

    INTERNAL = 1
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanId(NamedTuple):  # made ten times a task: a frozen dataclass takes four times as long
    """A place in a trace, as W3C's traceparent names it."""

    trace: str
    span: str
    is_sampled: bool = True

    @classmethod
    def parse(cls, traceparent: str) -> Self:
        """Read a traceparent that the task's contract has checked."""
        _, trace, span, flags = traceparent.split("-")
        return cls(trace, span, bool(int(flags, 16) & 1))

    @property
    def traceparent(self) -> str:
        """Write it for another process."""
        return f"00-{self.trace}-{self.span}-{int(self.is_sampled):02x}"

    def child(self) -> "SpanId":
        """Name a new span of the same trace."""
        return SpanId(self.trace, _new_span(), self.is_sampled)

    def attempt(self, task_id: str, epoch: int) -> "SpanId":
        """Name an attempt at a task, the same in every process, so that the next attempt can link to it."""
        digest = sha256(f"{self.trace}:{task_id}:{epoch}".encode()).hexdigest()
        return SpanId(self.trace, digest[:16], self.is_sampled)


@dataclass(slots=True)
class Span:
    """One span; instants in nanoseconds since the epoch. `error` is the type of what went wrong, never its message."""

    name: str
    id: SpanId
    parent: str | None
    kind: Kind = Kind.INTERNAL
    start_ns: int = field(default_factory=time.time_ns)
    end_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str | None = None
    links: tuple[SpanId, ...] = ()

    def end(self, error: str | None = None) -> None:
        """Close it now."""
        self.end_ns = time.time_ns()
        self.error = error


def is_on(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether spans are made: an endpoint is set, nothing switches them off, and the extra `otel` is there.

    A service that only submits may have an endpoint for spans of its own, and not our extra; its trace still goes on.
    """
    return is_asked_for(environ) and is_installed()


def is_asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether the environment asks for spans."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(endpoint(environ))


@cache
def is_installed() -> bool:
    """Say whether OTLP's messages can be loaded: the extra `otel`."""
    try:
        _wire()
    except ImportError:
        return False
    return True


def endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name the URL that takes spans; None: nobody does."""
    if given := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return given
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


def new_trace(task_id: str, environ: Mapping[str, str] = os.environ) -> SpanId:
    """Begin the trace of a task that came without one; the same in every process."""
    trace = sha256(f"langgraph-rq:{task_id}".encode()).hexdigest()[:32]
    return SpanId(trace, _new_span(), _is_sampled(trace, environ))


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


def submit_span(task_id: str, graph: str, queue: str, above: SpanId | None = None) -> Span:
    """Begin the span of a submit, below `above`, else below the calling program's span if it has one."""
    parent = above or current()
    where = parent.child() if parent else _new_root()
    attributes: dict[str, Value] = {
        "messaging.system": SCOPE,
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
    }
    return Span(f"submit {graph}", where, parent.span if parent else None, Kind.PRODUCER, attributes=attributes)


def send_call(spans: Sequence[Span], fence: tuple[str, int, str] | None = None) -> Call[bool]:
    """Write ended spans to Redis, for a worker to send on.

    Args:
        spans: Parents first.
        fence: Of an attempt: task id, epoch and worker. They are written only while it owns the task, so this call
            goes before the one that ends it.
    """
    task_id, epoch, worker = fence or ("", "", "")
    keys = [SPANS, task_hash(task_id) if fence else SPANS]
    payload = encode(spans, {"service.instance.id": worker} if worker else {})
    return Call(load_script("tracing_send"), keys, [payload, KEPT_ATTEMPTS, KEEP_MS, epoch, worker], bool)


def encode(spans: Iterable[Span], resource: Mapping[str, Value]) -> bytes:
    """Encode spans as an OTLP ExportTraceServiceRequest; several of them joined are one, too."""
    wire = _wire()
    request = wire.Request()
    # Built from the outside in: a message that is given to another is copied.
    scope = request.resource_spans.add(resource=_described(tuple(resource.items()))).scope_spans.add()
    scope.scope.name = SCOPE
    for span in spans:
        _add_span(scope.spans, span)
    encoded: bytes = request.SerializeToString()
    return encoded


def _add_span(spans: Any, span: Span) -> None:
    added = spans.add(
        trace_id=bytes.fromhex(span.id.trace),
        span_id=bytes.fromhex(span.id.span),
        parent_span_id=bytes.fromhex(span.parent or ""),
        flags=int(span.id.is_sampled),
        name=span.name,
        kind=span.kind,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=max(span.end_ns, span.start_ns),
    )
    attributes = [_attribute(name, value) for name, value in span.attributes.items()]
    if span.error:
        added.status.code = 2
        attributes.append(_attribute("error.type", span.error))
    if attributes:
        added.MergeFromString(b"".join(attributes))
    for link in span.links:
        added.links.add(trace_id=bytes.fromhex(link.trace), span_id=bytes.fromhex(link.span))


@lru_cache(maxsize=4096, typed=True)
def _attribute(name: str, value: Value) -> bytes:
    """Encode a span that has nothing but this attribute; merged into another, it adds it. Most come again and again."""
    wire = _wire()
    encoded: bytes = wire.Span(attributes=[_pair(wire, name, value)]).SerializeToString()
    return encoded


@lru_cache(maxsize=16)
def _described(resource: tuple[tuple[str, Value], ...]) -> Any:
    wire = _wire()
    pairs = {**_resource(), **dict(resource)}.items()
    return wire.Resource(attributes=[_pair(wire, name, value) for name, value in pairs])


def _pair(wire: Any, name: str, value: Value) -> Any:
    if isinstance(value, bool):
        typed = wire.AnyValue(bool_value=value)
    elif isinstance(value, int):
        typed = wire.AnyValue(int_value=value)
    else:
        typed = wire.AnyValue(double_value=value) if isinstance(value, float) else wire.AnyValue(string_value=value)
    return wire.KeyValue(key=name, value=typed)


def _new_root(environ: Mapping[str, str] = os.environ) -> SpanId:
    trace = secrets.token_hex(16)
    return SpanId(trace, _new_span(), _is_sampled(trace, environ))


def _new_span() -> str:
    return f"{random.getrandbits(64):016x}"


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


@cache
def _resource() -> Mapping[str, Value]:
    """Describe this process once."""
    pairs = (pair.split("=", 1) for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if "=" in pair)
    given = {name.strip(): value.strip() for name, value in pairs}
    service = os.environ.get("OTEL_SERVICE_NAME") or given.get("service.name") or SCOPE
    return {**given, "service.name": service, "host.name": socket.gethostname()}


@cache
def _wire() -> Any:
    """Load OTLP's messages, which only a traced program needs."""
    from types import SimpleNamespace  # noqa: PLC0415

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415
    from opentelemetry.proto.common.v1 import common_pb2 as common  # noqa: PLC0415
    from opentelemetry.proto.resource.v1 import resource_pb2 as resource  # noqa: PLC0415
    from opentelemetry.proto.trace.v1 import trace_pb2 as trace  # noqa: PLC0415

    return SimpleNamespace(
        Request=ExportTraceServiceRequest,
        Span=trace.Span,
        Resource=resource.Resource,
        KeyValue=common.KeyValue,
        AnyValue=common.AnyValue,
    )
