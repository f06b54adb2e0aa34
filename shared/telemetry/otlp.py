"""Encode spans as OTLP wants them.

opentelemetry-proto makes what comes again and again (a name with its kind, an attribute, the resource), once. Ids,
instants and lengths, which are new in each span, are packed here: through messages of the library the ten spans of a
small task take 35 microseconds, so 25.

Source: opentelemetry-proto's trace.proto, and Protocol Buffers' encoding: a field is a tag (number and wire type), and
text or a message follows its length.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from struct import Struct
from typing import Any

from langgraph_rq.shared.telemetry.spans import Kind, Span, SpanId, Value

SCOPE = "langgraph-rq"

_TRACE, _SPAN, _PARENT, _START, _END, _LINK = b"\x0a\x10", b"\x12\x08", b"\x22\x08", 0x39, 0x41, 0x6A
"""Tags of a span's fields, with the length of those that always have the same."""
_SPANS, _SCOPE_SPANS, _RESOURCE_SPANS = 0x12, 0x12, 0x0A
_ATTRIBUTES, _VALUE, _STRING = 0x4A, 0x12, 0x0A
_IDS = frozenset({"messaging.message.id", "gen_ai.conversation.id"})
"""Attributes whose values seldom come twice."""
_FIXED = Struct("<2s16s2s8sBQBQ")


@cache
def is_installed() -> bool:
    """Say whether OTLP's messages can be loaded: the extra `otel`."""
    try:
        _wire()
    except ImportError:
        return False
    return True


def encode(spans: Iterable[Span], resource: Mapping[str, Value]) -> bytes:
    """Encode spans as an OTLP ExportTraceServiceRequest; several of them joined are one, too."""
    scope_spans = _scope() + b"".join([_message(_SPANS, _span(span)) for span in spans])
    resource_spans = _described(tuple(resource.items())) + _message(_SCOPE_SPANS, scope_spans)
    return _message(_RESOURCE_SPANS, resource_spans)


def _span(span: Span) -> bytes:
    unhex, start_ns = bytes.fromhex, span.start_ns
    fixed = _FIXED.pack(
        _TRACE, unhex(span.trace), _SPAN, unhex(span.id), _START, start_ns, _END, max(span.end_ns, start_ns)
    )
    parts = [fixed, _named(span.name, span.kind, span.error)]
    if span.parent:
        parts.append(_PARENT + unhex(span.parent))
    parts += [
        _id(name, str(value)) if name in _IDS else _attribute(name, value) for name, value in span.attributes.items()
    ]
    parts += [_message(_LINK, _place(link)) for link in span.links]
    return b"".join(parts)


def _place(link: SpanId) -> bytes:
    return _TRACE + bytes.fromhex(link.trace) + _SPAN + bytes.fromhex(link.span)


def _message(tag: int, body: bytes) -> bytes:
    length = len(body)
    head = bytearray((tag,))
    while length > 0x7F:  # seven bits at a time, the lowest first; the eighth says that more follow
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


@lru_cache(maxsize=1024)
def _named(name: str, kind: Kind, error: str | None) -> bytes:
    """Encode a span that has nothing but these, and that is sampled; fields of a message may come in any order."""
    wire = _wire()
    span = wire.Span(name=name, kind=kind, flags=1)
    if error:
        span.status.code = 2
        span.attributes.append(_pair(wire, "error.type", error))
    encoded: bytes = span.SerializeToString()
    return encoded


def _id(name: str, value: str) -> bytes:
    """Encode as `_attribute` does, without keeping it."""
    return _message(_ATTRIBUTES, _key(name) + _message(_VALUE, _message(_STRING, value.encode())))


@cache
def _key(name: str) -> bytes:
    encoded: bytes = _wire().KeyValue(key=name).SerializeToString()
    return encoded


@lru_cache(maxsize=4096, typed=True)
def _attribute(name: str, value: Value) -> bytes:
    """Encode a span that has nothing but this attribute. Most come again and again."""
    wire = _wire()
    encoded: bytes = wire.Span(attributes=[_pair(wire, name, value)]).SerializeToString()
    return encoded


@cache
def _scope() -> bytes:
    encoded: bytes = _wire().ScopeSpans(scope={"name": SCOPE}).SerializeToString()
    return encoded


@lru_cache(maxsize=16)
def _described(resource: tuple[tuple[str, Value], ...]) -> bytes:
    wire = _wire()
    pairs = {**_resource(), **dict(resource)}.items()
    described = wire.Resource(attributes=[_pair(wire, name, value) for name, value in pairs])
    encoded: bytes = wire.ResourceSpans(resource=described).SerializeToString()
    return encoded


def _pair(wire: Any, name: str, value: Value) -> Any:
    if isinstance(value, bool):
        typed = wire.AnyValue(bool_value=value)
    elif isinstance(value, int):
        typed = wire.AnyValue(int_value=value)
    else:
        typed = wire.AnyValue(double_value=value) if isinstance(value, float) else wire.AnyValue(string_value=value)
    return wire.KeyValue(key=name, value=typed)


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

    from opentelemetry.proto.common.v1 import common_pb2 as common  # noqa: PLC0415
    from opentelemetry.proto.resource.v1 import resource_pb2 as resource  # noqa: PLC0415
    from opentelemetry.proto.trace.v1 import trace_pb2 as trace  # noqa: PLC0415

    return SimpleNamespace(
        Span=trace.Span,
        ScopeSpans=trace.ScopeSpans,
        ResourceSpans=trace.ResourceSpans,
        Resource=resource.Resource,
        KeyValue=common.KeyValue,
        AnyValue=common.AnyValue,
    )
