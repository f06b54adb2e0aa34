"""OpenTelemetry's SDK as its variables set it up: what reaches a collector, and what a wrong variable says."""

import os
import socket
import subprocess
import sys
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry import tracer_provider
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans, is_asked_for
from tests.otlp import grpc_receiver, no_tracer_provider, receiver
from tests.waiting import until_sync

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def fresh(monkeypatch):
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    with no_tracer_provider():
        yield


def export_one(name: str = "one") -> None:
    with exported_spans():
        trace.get_tracer("tests").start_span(name).end()


def test_spans_reach_a_collector_over_http_by_default(monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        export_one()
    assert [span.name for span in received.spans.values()] == ["one"]
    assert received.headers[0]["path"] == "/v1/traces"


def test_resource_is_not_written_out_again_for_each_span(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with exported_spans():
        resource = trace.get_tracer_provider().resource
    monkeypatch.setattr("opentelemetry.sdk.resources.dumps", pytest.fail)
    assert hash(resource) == hash(resource)
    assert resource.attributes["service.name"] == "langgraph-rq"


def test_spans_reach_a_collector_over_grpc(monkeypatch):
    with grpc_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
        export_one()
    assert [span.name for span in received.spans.values()] == ["one"]
    assert received.headers[0]["x-key"] == "a b"


def test_headers_and_compression_are_opentelemetrys_own(monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{received.url}/elsewhere")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        export_one()
        (sent,) = received.headers
    assert (sent["path"], sent["x-key"], sent["content-encoding"]) == ("/elsewhere", "a b", "gzip")


def test_batch_is_sent_after_a_second_without_anybody_asking(monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        with exported_spans():
            trace.get_tracer("tests").start_span("one").end()
            until_sync(lambda: received.spans, 4)


def test_spans_that_the_collector_could_not_take_are_sent_again(monkeypatch):
    with receiver() as received:
        received.answers = [503]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        export_one()
        assert len(received.bodies) == 2
    assert [span.name for span in received.spans.values()] == ["one"]


def test_collector_that_is_away_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(tracer_provider, "_END_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
        started = time.monotonic()
        export_one()
        assert time.monotonic() - started < 2


def test_resource_names_the_service_and_what_the_environment_adds(monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=desk,host.name=h7")
        export_one()
        (span,) = received.spans.values()
    assert (span.resource["service.name"], span.resource["team"], span.resource["host.name"]) == (
        "langgraph-rq",
        "desk",
        "h7",
    )
    assert span.resource["service.instance.id"]


@pytest.mark.parametrize(
    "variable", [{"OTEL_SERVICE_NAME": "desk"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=desk"}], ids=str
)
def test_service_is_named_by_the_environment(variable, monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        for name, value in variable.items():
            monkeypatch.setenv(name, value)
        export_one()
        (span,) = received.spans.values()
    assert span.resource["service.name"] == "desk"


@pytest.mark.parametrize(("ratio", "share"), [("0", 0), ("1", 400), ("0.25", 100)])
def test_share_of_traces_is_sampled(ratio, share, monkeypatch):
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
        with exported_spans():
            for _ in range(400):
                trace.get_tracer("tests").start_span("one").end()
    assert abs(len(received.spans) - share) <= (0 if share in {0, 400} else 50)


CONSOLE = """
from opentelemetry import trace
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans
with exported_spans():
    trace.get_tracer("tests").start_span("on the console").end()
"""


def test_exporter_is_found_by_its_name():
    wanted = os.environ | {"OTEL_TRACES_EXPORTER": "console"}
    command = [sys.executable, "-c", CONSOLE]
    ended = subprocess.run(command, env=wanted, capture_output=True, text=True, timeout=60, check=True)
    assert '"name": "on the console"' in ended.stdout


def test_provider_that_the_program_has_set_is_used_and_flushed(monkeypatch):
    flushed = []

    class Own(TracerProvider):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            flushed.append(self)
            return True

    own = Own()
    trace.set_tracer_provider(own)
    with receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        export_one()
        assert trace.get_tracer_provider() is own
        assert not received.bodies
    assert flushed == [own]


def test_there_are_no_spans_without_an_exporter_or_when_they_are_switched_off():
    assert not is_asked_for({})
    assert is_asked_for({"OTEL_TRACES_EXPORTER": "console"})
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert is_asked_for(asked)
    assert not is_asked_for(asked | {"OTEL_SDK_DISABLED": "true"})
    assert not is_asked_for(asked | {"OTEL_TRACES_EXPORTER": "none"})
    with exported_spans():
        assert not tracer_provider.is_set()


WELL_SET = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_SAMPLER": "traceidratio"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file.pem"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1e300"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_TRACES_EXPORTER", "smoke"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "half"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ],
)
def test_wrong_variable_is_named(name, value, monkeypatch):
    for variable, given in (WELL_SET | {name: value}).items():
        monkeypatch.setenv(variable, given)
    with pytest.raises(SettingsError, match=f"{name}.*{value}"), exported_spans():
        pass
    assert not tracer_provider.is_set()


def test_batch_that_is_larger_than_its_queue_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    with pytest.raises(SettingsError, match="max_export_batch_size must be less"), exported_spans():
        pass


MISSING = """
import sys
sys.modules[sys.argv[1]] = None  # as if the package were not installed
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans, is_set
with exported_spans(is_required=sys.argv[2] == "required"):
    print(is_set())
"""


@pytest.mark.parametrize(
    ("module", "protocol", "extra"),
    [
        ("opentelemetry.sdk.trace", "http/protobuf", "otel"),
        ("opentelemetry.exporter.otlp.proto.http", "http/protobuf", "otel"),
        ("opentelemetry.exporter.otlp.proto.grpc", "grpc", "otel-grpc"),
    ],
)
def test_missing_package_is_named_with_its_extra(module, protocol, extra):
    wanted = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    command = [sys.executable, "-c", MISSING, module, "required"]
    ended = subprocess.run(command, env=os.environ | wanted, capture_output=True, text=True, timeout=60, check=False)
    *_, said = ended.stderr.splitlines()
    assert "Error: tracing: expected opentelemetry-" in said
    assert f"Install langgraph-rq[{extra}]" in said


def test_program_that_does_without_spans_does_without_the_package():
    wanted = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    command = [sys.executable, "-c", MISSING, "opentelemetry.sdk.trace", "welcome"]
    ended = subprocess.run(command, env=os.environ | wanted, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "False"
