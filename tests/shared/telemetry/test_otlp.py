"""Spans as bytes: what OpenTelemetry's own messages read from them is what was put in."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Read

from langgraph_rq.shared.telemetry.otlp import encode
from langgraph_rq.shared.telemetry.spans import Kind, Span, SpanId

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
trace_ids, span_ids = (st.binary(min_size=n, max_size=n).map(bytes.hex) for n in (16, 8))
instants = st.integers(0, 2**63)
values = text | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False)
IDS = ["messaging.message.id", "gen_ai.conversation.id"]
spans = st.builds(
    Span,
    name=text,
    trace=trace_ids,
    id=span_ids,
    parent=st.none() | span_ids,
    kind=st.sampled_from(Kind),
    start_ns=instants,
    end_ns=instants,
    attributes=st.dictionaries(text, values, max_size=5) | st.dictionaries(st.sampled_from(IDS), text),
    error=st.none() | text.filter(bool),
    links=st.lists(st.builds(SpanId, trace_ids, span_ids), max_size=2).map(tuple),
)


def read(encoded: bytes) -> list[Read]:
    request = ExportTraceServiceRequest.FromString(encoded)
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def attributes_of(pairs: Iterable) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@given(spans)
def test_span_is_read_as_it_was(span):
    (found,) = read(encode([span], {}))
    assert (found.name, found.trace_id.hex(), found.span_id.hex()) == (span.name, span.trace, span.id)
    assert (found.parent_span_id.hex(), found.kind, found.flags) == (span.parent or "", span.kind, 1)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (span.start_ns, max(span.start_ns, span.end_ns))
    error = {"error.type": span.error} if span.error else {}
    assert attributes_of(found.attributes) == span.attributes | error
    assert found.status.code == (2 if span.error else 0)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in found.links] == [link[:2] for link in span.links]


@given(st.lists(spans, max_size=3), st.lists(spans, max_size=3))
def test_requests_that_are_joined_are_one(some, others):
    joined = read(encode(some, {"service.instance.id": "a"}) + encode(others, {"service.instance.id": "b"}))
    assert [span.name for span in joined] == [span.name for span in (*some, *others)]


def test_resource_says_which_service_it_was():
    (resource,) = ExportTraceServiceRequest.FromString(encode([], {"service.instance.id": "w1"})).resource_spans
    about = attributes_of(resource.resource.attributes)
    assert (about["service.name"], about["service.instance.id"]) == ("langgraph-rq", "w1")
    assert resource.scope_spans[0].scope.name == "langgraph-rq"
