"""One trace per task, in one tree, whatever dies: spans are collected by an OTLP receiver, as a collector would."""

import os
import socket
import subprocess
import sys
from functools import partial
from urllib.request import urlopen

import psutil
import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry import tracing
from langgraph_rq.shared.telemetry.spans import Span, SpanId, new_span_id
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.telemetry.span_export import SpanExport
from tests.installation import ROOT, start_worker
from tests.otlp import Received, Receiver, receiver
from tests.waiting import until_sync

TASKS = 200
COUNTED = 100
WORKLOAD = str(ROOT / "benchmarks/systems/graphs/langgraph.json")
NAMES = {"submit w", "attempt", "claim", "invoke_agent w", "node classify", "node answer", "node finish"}
NAMES |= {"chat gpt-4o-mini", "finish"}
CANARY = "canary-5f1e"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Run 200 tasks on two processes of which one is killed in the middle; answers what the receiver got."""
    with EmbeddedRedis() as redis, OfflineLLM(latency_s=0.3) as model, receiver() as received:
        tracing_on = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_RESOURCE_ATTRIBUTES": "team=desk"}
        tracing_on |= {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        environment = {
            "REDIS_URL": redis.url,
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "offline",
            "LGRQ_BUDGET_DAILY_TOKENS": "none",
            "LGRQ_LEASE_S": "2",
            "LGRQ_CHECKPOINTS": "0",
            "LGRQ_METRICS_PORT": str(free_port()),
            "LGRQ_METRICS_HOST": "127.0.0.1",
            **tracing_on,
        }
        arguments = ("--config", WORKLOAD, "--processes", "2", "--concurrency", "40")
        folder = tmp_path_factory.mktemp("traced")
        with start_worker(folder, environment, *arguments) as worker, pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
            worker.wait_until_ready(processes=2)
            with Client(redis.url) as client:
                quick = client.submit_many([{"graph": "w0", "input": {"question": "?"}} for _ in range(COUNTED)])
                list(client.wait_each([receipt.task_id for receipt in quick], 60))
                ports = [event["port"] for event in worker.events("metrics.served")]
                counts = [until_sync(partial(finished_tasks, port), 10) for port in ports]
                tasks = [{"graph": "w", "input": {"question": f"{CANARY} {n}"}} for n in range(TASKS)]
                ids = [receipt.task_id for receipt in client.submit_many(tasks)]
                next(client.wait_each(ids, 60))
                psutil.Process(worker.process.pid).children()[0].kill()
                results = list(client.wait_each(ids, 60))
            with Redis.from_url(redis.url) as connection:
                until_sync(lambda: connection.xlen(tracing.SPANS) == 0, 30)  # also what the dead process had taken
            assert worker.end() == 0
        yield results, received, counts


@pytest.fixture(scope="module")
def traces(fleet) -> list[list[Received]]:
    found = fleet[1].traces().values()
    return [spans for spans in found if any(span.name == "submit w" for span in spans)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def finished_tasks(port: int) -> float:
    """What a process counted, once it has counted any."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("agent_requests_total{"))


def test_counters_of_all_processes_add_up(fleet):
    _, _, counts = fleet
    assert len(counts) == 2
    assert sum(counts) == COUNTED


def test_each_task_is_one_trace_in_one_tree(traces):
    assert len(traces) == TASKS
    for spans in traces:
        known = {span.span for span in spans}
        assert [span.name for span in spans if span.parent not in known] == ["submit w"]
        assert len({span.attributes["messaging.message.id"] for span in spans if span.name == "submit w"}) == 1


def test_each_trace_is_complete_from_submit_to_finish(traces):
    for spans in traces:
        names = {span.name.split()[0] if span.name.startswith("attempt") else span.name for span in spans}
        assert names - {"queue wait"} == NAMES
        assert sum(span.name == "finish" for span in spans) == 1


def test_task_of_the_killed_worker_goes_on_in_its_trace_with_a_link_to_the_lost_attempt(fleet, traces):
    results, _, _ = fleet
    resumed = {result.task_id for result in results if result.metadata.attempts > 1}
    assert resumed
    seen = set()
    for spans in traces:
        for span in spans:
            if span.name == "attempt 2":
                (link,) = span.links
                lost = SpanId(span.trace, span.span).attempt(span.attributes["messaging.message.id"], 1)
                assert link == lost.span
                seen.add(span.attributes["messaging.message.id"])
    assert seen == resumed


def test_spans_of_a_step_lie_within_the_step_that_they_belong_to(traces):
    for spans in traces:
        by_id = {span.span: span for span in spans}
        for span in spans:
            if span.name.startswith(("node", "chat")):
                parent = by_id[span.parent]
                assert parent.start_ns - 5_000_000 <= span.start_ns <= span.end_ns <= parent.end_ns + 5_000_000


def test_model_calls_have_opentelemetrys_names(traces):
    (span, *_) = [span for spans in traces for span in spans if span.name == "chat gpt-4o-mini"]
    assert span.attributes.keys() == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "langgraph_rq.usage_estimated",
    }
    assert (span.attributes["gen_ai.operation.name"], span.attributes["gen_ai.provider.name"]) == ("chat", "openai")


def test_no_span_holds_what_was_asked_or_answered(fleet):
    _, received, _ = fleet
    assert received.bodies
    assert not any(CANARY.encode() in body for body in received.bodies)


def test_spans_say_which_service_and_worker_they_come_from(traces):
    resources = [span.resource for spans in traces for span in spans if span.name.startswith("attempt")]
    assert {resource["service.name"] for resource in resources} == {"langgraph-rq"}
    assert {resource["team"] for resource in resources} == {"desk"}
    assert len({resource["service.instance.id"] for resource in resources}) >= 1


@pytest.fixture
def export(redis_url):
    """Export what is in Redis to a receiver of one's own, and end."""

    def run(received: Receiver, **environment: str) -> None:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_BSP_SCHEDULE_DELAY": "20", **environment}
        export = SpanExport(redis_url, "me", environment)
        export.start()
        until_sync(lambda: received.spans)
        export.stop()

    return run


def keep_one_span(redis_client, name: str = "one") -> None:
    span = Span(name, tracing.new_trace("t1").trace, new_span_id(), None)
    span.end()
    run_sync(redis_client, tracing.send_call([span]))


def test_spans_that_the_collector_could_not_take_are_sent_again(redis_client, export):
    keep_one_span(redis_client)
    with receiver() as received:
        received.answers = [503, 429]
        # What failed is taken over after a while; the test does not wait for that long.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("langgraph_rq.worker.telemetry.span_export._RECOVERY_MS", 0)
            export(received, OTEL_EXPORTER_OTLP_TIMEOUT="0.2")
        assert len(received.bodies) == 3
    assert redis_client.xlen(tracing.SPANS) == 0


def test_entry_without_spans_does_not_hold_up_the_others(redis_client, export):
    redis_client.xadd(tracing.SPANS, {"other": "x"})
    keep_one_span(redis_client)
    with receiver() as received:
        export(received)
    assert redis_client.xlen(tracing.SPANS) == 0


def test_spans_wait_in_redis_while_what_the_endpoint_answers_is_not_http(redis_client, redis_url, caplog):
    keep_one_span(redis_client)
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = f"http://127.0.0.1:{server.getsockname()[1]}"
        export = SpanExport(redis_url, "me", {"OTEL_EXPORTER_OTLP_ENDPOINT": at, "OTEL_BSP_SCHEDULE_DELAY": "20"})
        export.start()
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"not HTTP\r\n\r\n")
        until_sync(lambda: "spans.delayed" in caplog.text)
        export.stop()
        assert redis_client.xlen(tracing.SPANS) == 1


WELL_SET = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_SAMPLER": "traceidratio"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file.pem"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1e300"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_TRACES_SAMPLER_ARG", "half"),
    ],
)
def test_wrong_setting_of_the_export_is_named(name, value, redis_url):
    with pytest.raises(SettingsError, match=f"{name}.*{value}"):
        SpanExport(redis_url, "me", WELL_SET | {name: value})


def test_spans_of_a_worker_that_ends_at_once_are_sent(redis_client, redis_url):
    keep_one_span(redis_client)
    with receiver() as received:
        export = SpanExport(redis_url, "me", {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url})
        export.start()
        export.stop()
        assert len(received.spans) == 1
    assert redis_client.xlen(tracing.SPANS) == 0


def test_headers_compression_and_path_are_opentelemetrys_own(redis_client, export):
    keep_one_span(redis_client)
    with receiver() as received:
        headers = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        export(received, **headers)
        (sent,) = received.headers
        assert (sent["path"], sent["x-key"], sent["content-encoding"]) == ("/v1/traces", "a b", "gzip")
        assert [span.name for span in received.spans.values()] == ["one"]


def test_spans_are_bounded_and_forgotten(redis_client):
    keep_one_span(redis_client)
    assert 0 < redis_client.pttl(tracing.SPANS) <= tracing.KEEP_MS


def test_tracing_is_off_without_an_endpoint_or_when_it_is_switched_off():
    assert not tracing.is_on({})
    assert tracing.is_on({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    assert not tracing.is_on({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"})
    assert not tracing.is_on({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"})


def test_task_without_a_trace_gets_the_same_one_in_every_process():
    assert tracing.new_trace("t1", {}).trace == tracing.new_trace("t1", {}).trace


@pytest.mark.parametrize(("ratio", "share"), [("0", 0), ("1", 400), ("0.25", 100)])
def test_share_of_traces_is_sampled(ratio, share):
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    sampled = sum(tracing.new_trace(f"task {n}", environ).is_sampled for n in range(400))
    assert abs(sampled - share) <= (0 if share in {0, 400} else 50)


def test_traceparent_is_written_as_it_was_read():
    for traceparent in ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" + "a" * 32 + "-" + "b" * 16 + "-00"):
        assert SpanId.parse(traceparent).traceparent == traceparent


def test_producer_imports_nothing_for_it_while_it_is_off():
    program = (
        "import sys; from langgraph_rq import Client;"
        "print([one for one in sys.modules if one.startswith('opentelemetry.proto')])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


THIN_PRODUCER = """
import sys
sys.modules["opentelemetry.proto"] = None  # as if the extra were not installed
from langgraph_rq import Client
with Client(sys.argv[1]) as client:
    client.submit({}, graph="g", task_id="t1", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
"""


def test_producer_without_the_extra_hands_on_the_trace_and_makes_no_span(redis_client, redis_url):
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    subprocess.run([sys.executable, "-c", THIN_PRODUCER, redis_url], env=environment, check=True, timeout=60)
    assert redis_client.xlen(tracing.SPANS) == 0
    assert "a" * 32 in redis_client.hget("rq:job:t1", "task")


THIN_WORKER = """
import sys
sys.modules["opentelemetry.proto"] = None
from langgraph_rq.worker.__main__ import main
main()
"""


def test_worker_without_the_extra_says_what_to_install(redis_url, tmp_path):
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "REDIS_URL": redis_url}
    command = [sys.executable, "-c", THIN_WORKER, "--config", WORKLOAD, "--unsafe-redis"]
    environment |= {"OPENAI_API_KEY": "unused"}
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    *_, said = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert said.startswith("error: OTEL_EXPORTER_OTLP_ENDPOINT: expected opentelemetry-proto")
    assert "langgraph-rq[otel]" in said


def test_spans_of_an_attempt_that_lost_its_task_are_not_kept(redis_client):
    span = Span("attempt 1", tracing.new_trace("t1").trace, new_span_id(), None)
    redis_client.hset("agent:task:t1", mapping={"state": "running", "epoch": 2, "owner": "other"})
    assert not run_sync(redis_client, tracing.send_call([span], ("t1", 1, "me")))
    assert run_sync(redis_client, tracing.send_call([span], ("t1", 2, "other")))
    assert redis_client.xlen(tracing.SPANS) == 1
