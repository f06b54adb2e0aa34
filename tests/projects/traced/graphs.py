"""A graph whose project sets up OpenTelemetry itself, as a user's may."""

import os

from langgraph.graph import END, START, StateGraph
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource({"service.name": "the-users-own"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["OWN_COLLECTOR"])))
trace.set_tracer_provider(provider)


async def work(_state: dict[str, str]) -> dict[str, str]:
    """Make a span."""
    with trace.get_tracer("users").start_as_current_span("user span"):
        return {}


own = StateGraph(dict).add_node("work", work).add_edge(START, "work").add_edge("work", END).compile()
