"""The trace of a task that comes over HTTP or from the command line."""

import subprocess
import sys

import httpx
import pytest
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from langgraph_rq.producer.gateway.trace_context import TraceContext
from tests.gateways import gateway, start_gateway
from tests.installation import clean_environment
from tests.otlp import exporting, no_tracer_provider, receiver

TRACE = "a" * 32
REMOTE = f"00-{TRACE}-{'b' * 16}-01"
BODY = {"input": {"question": "x"}, "graph": "g"}


async def post(redis_url: str, redis_client, path: str, body: dict, **headers: str) -> str:
    """Answers the task's text."""
    async with gateway(redis_url) as http:
        answer = await http.post(path, json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        known = answer.json()
    return redis_client.hget(f"rq:job:{known.get('task_id') or known['request_id']}", "task")


@pytest.mark.parametrize(("path", "body"), [("/tasks", BODY), ("/query?wait=0", {"query": "x"})])
async def test_task_goes_on_in_the_trace_of_its_request(path, body, redis_url, redis_client):
    with no_tracer_provider():
        assert REMOTE in await post(redis_url, redis_client, path, body, traceparent=REMOTE)


async def test_request_is_below_the_span_that_its_headers_name(redis_url, redis_client, monkeypatch):
    with exporting(monkeypatch) as received:
        text = await post(redis_url, redis_client, "/tasks", BODY, traceparent=REMOTE)
    (spans,) = received.traces().values()  # newer versions of FastAPI have spans of their own around ours
    known = {span.span for span in spans}
    (submit,) = [span for span in spans if span.name == "submit g"]
    assert {span.parent for span in spans if span.parent not in known} == {"b" * 16}
    assert f"00-{TRACE}-{submit.span}-01" in text


@pytest.mark.parametrize("traceparent", ["nonsense", f"00-{'0' * 32}-{'b' * 16}-01", "00-é"])
async def test_headers_that_name_no_trace_are_ignored(traceparent, redis_url, redis_client):
    with no_tracer_provider():
        text = await post(redis_url, redis_client, "/tasks", BODY, traceparent=traceparent.encode())
    assert '"traceparent"' not in text or '"traceparent":null' in text


class _OwnFormat(TextMapPropagator):
    fields = frozenset({"x-own-trace"})

    def extract(self, carrier, context=None, getter=None):
        if "x-own-trace" not in carrier:
            return context or {}
        here = SpanContext(int(carrier["x-own-trace"], 16), 7, is_remote=True, trace_flags=TraceFlags(1))
        return trace.set_span_in_context(NonRecordingSpan(here), context)

    def inject(self, carrier, context=None, setter=None):
        raise NotImplementedError


async def test_headers_are_read_in_the_formats_of_the_global_propagator(redis_url, redis_client, monkeypatch):
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", _OwnFormat())
    with no_tracer_provider():
        text = await post(redis_url, redis_client, "/tasks", BODY, **{"x-own-trace": "c" * 32})
    assert f"00-{'c' * 32}-{7:016x}-01" in text


async def test_span_of_an_instrumentation_around_the_gateway_is_kept():
    seen = []

    async def app(_scope, _receive, _send):
        seen.append(trace.get_current_span().get_span_context().span_id)

    here = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    scope = {"type": "http", "headers": [(b"traceparent", REMOTE.encode())]}
    with trace.use_span(here):
        await TraceContext(app)(scope, None, None)
    await TraceContext(app)(scope, None, None)
    assert seen == [2, int("b" * 16, 16)]
    assert not trace.get_current_span().get_span_context().is_valid


def submit(redis_url: str, program: str = "", **environment: str) -> subprocess.CompletedProcess:
    program = f"{program}\nfrom langgraph_rq.producer.cli.main import main\nmain()"
    command = [sys.executable, "-c", program, "submit", "--graph", "g", "--input", "{}"]
    environment = clean_environment({"REDIS_URL": redis_url, **environment})
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_command_line_exports_its_span(redis_url):
    with receiver() as received:
        ended = submit(redis_url, OTEL_EXPORTER_OTLP_ENDPOINT=received.url)
        assert ended.returncode == 0, ended.stderr
    assert [span.name for span in received.spans.values()] == ["submit g"]


def test_gateway_exports_its_spans_before_it_ends(redis_url, tmp_path):
    with receiver() as received:
        variables = {"REDIS_URL": redis_url, "OTEL_EXPORTER_OTLP_ENDPOINT": received.url}
        variables |= {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with start_gateway(tmp_path, variables) as served:
            served.wait_until_ready()
            assert httpx.post(f"{served.url}/tasks", json=BODY).status_code == 202
            served.process.terminate()
            assert served.process.wait(30) == 0
    assert "submit g" in {span.name for span in received.spans.values()}


def test_command_line_without_the_extra_submits_without_a_span(redis_url):
    missing = "import sys; sys.modules['opentelemetry.sdk.trace'] = None"
    ended = submit(redis_url, missing, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")
    assert ended.returncode == 0, ended.stderr


def test_command_line_names_a_wrong_variable(redis_url):
    ended = submit(redis_url, OTEL_EXPORTER_OTLP_ENDPOINT="collector:4317")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "error: OTEL_EXPORTER_OTLP_ENDPOINT: expected an http(s) URL, got: collector:4317"
    )
