"""OTLP receivers, over HTTP and over gRPC, that group spans by trace."""

import gzip
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.util._once import Once

from langgraph_rq.shared.telemetry.tracer_provider import exported_spans


@dataclass(frozen=True)
class Received:
    """One span, decoded."""

    trace: str
    span: str
    parent: str
    name: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    is_error: bool
    scope: str
    start_ns: int
    end_ns: int
    resource: dict[str, Any]


class Receiver:
    """Store requests; respond with the statuses in `answers` first, then with 200."""

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], Received] = {}
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        self.url = ""

    def take(self, body: bytes) -> int:
        self.bodies.append(body)
        if self.answers:
            return self.answers.pop(0)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    one = Received(
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.name,
                        _values(span.attributes),
                        tuple(link.span_id.hex() for link in span.links),
                        span.status.code == 2,
                        scope.scope.name,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        resource,
                    )
                    self.spans[one.trace, one.span] = one
        return 200

    def traces(self) -> dict[str, list[Received]]:
        found: dict[str, list[Received]] = defaultdict(list)
        for span in list(self.spans.values()):
            found[span.trace].append(span)
        return found


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@contextmanager
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.headers.append({"path": self.path} | {name.lower(): value for name, value in self.headers.items()})
            self.send_response(received.take(body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            received.headers.append(dict(context.invocation_metadata()))
            received.take(request.SerializeToString())
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
    received.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield received
    finally:
        server.stop(None).wait()


@contextmanager
def exporting(monkeypatch: Any, protocol: str = "http/protobuf") -> Iterator[Receiver]:
    """Export the spans of this process to a receiver of its own."""
    with (grpc_receiver if protocol == "grpc" else receiver)() as received, no_tracer_provider():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        with exported_spans():
            yield received


@contextmanager
def no_tracer_provider() -> Iterator[None]:
    """Forget the TracerProvider of this process, which can be set once, and the one that the block sets."""
    before = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    try:
        yield
    finally:
        shutdown = getattr(trace._TRACER_PROVIDER, "shutdown", None)
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = before
        if shutdown:
            shutdown()
