"""One trace per task, over two worker processes: spans are collected by an OTLP receiver, as a collector would."""

import os
import socket
import subprocess
import sys
from functools import partial
from itertools import chain
from urllib.request import urlopen

import psutil
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from langgraph_rq import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.tasks import DEFAULT_LIMITS, Task
from langgraph_rq.shared.telemetry import tracing
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.installation import ROOT, start_worker
from tests.otlp import Received, no_tracer_provider, receiver
from tests.waiting import until_sync

TASKS = 200
LOST = 80
COUNTED = 40
WORKLOAD = str(ROOT / "benchmarks/systems/graphs/langgraph.json")
NAMES = {"submit w", "attempt 1", "invoke_agent w", "node classify", "node answer", "node finish"}
NAMES |= {"chat gpt-4o-mini"}
CANARY = "canary-5f1e"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Run 200 tasks on two processes, and more while one of them is killed; answers results, spans and counts."""
    with EmbeddedRedis() as redis, OfflineLLM(latency_s=0.3) as model, receiver() as received:
        tracing_on = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_RESOURCE_ATTRIBUTES": "team=desk"}
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
        with (
            start_worker(folder, environment, *arguments) as worker,
            pytest.MonkeyPatch.context() as patch,
            no_tracer_provider(),
        ):
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
            worker.wait_until_ready(processes=2)
            with exported_spans(), Client(redis.url) as client:
                quick = client.submit_many([{"graph": "w0", "input": {"question": "?"}} for _ in range(COUNTED)])
                list(client.wait_each([receipt.task_id for receipt in quick], 60))
                ports = [event["port"] for event in worker.events("metrics.served")]
                counts = until_sync(partial(finished_tasks, ports), 10)
                whole = submit(client, TASKS)
                list(client.wait_each(whole, 60))
                until_sync(lambda: ended_attempts(received, whole) == TASKS)
                lost = submit(client, LOST)
                next(client.wait_each(lost, 60))
                psutil.Process(worker.process.pid).children()[0].kill()
                results = list(client.wait_each(lost, 60))
            assert worker.end() == 0
        yield whole, results, received, counts


def submit(client: Client, tasks: int) -> list[str]:
    documents = [{"graph": "w", "input": {"question": f"{CANARY} {n}"}} for n in range(tasks)]
    return [receipt.task_id for receipt in client.submit_many(documents)]


def trace_of(received, task_ids) -> list[list[Received]]:
    """The traces of these tasks."""
    wanted = set(task_ids)
    found = received.traces().values()
    return [spans for spans in found if wanted & {span.attributes.get("messaging.message.id") for span in spans}]


def ended_attempts(received, task_ids) -> int:
    return sum(span.name.startswith("attempt") for span in chain(*trace_of(received, task_ids)))


@pytest.fixture(scope="module")
def traces(fleet) -> list[list[Received]]:
    whole, _, received, _ = fleet
    return trace_of(received, whole)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def finished_tasks(ports: list[int]) -> list[float] | None:
    """What each process counted, once they have counted all: a count may come a moment after its task's end."""
    counts = []
    for port in ports:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        of_tasks = [line for line in lines if line.startswith("agent_requests_total{")]
        counts.append(sum(float(line.rpartition(" ")[2]) for line in of_tasks))
    return counts if sum(counts) >= COUNTED else None


def test_counters_of_all_processes_add_up(fleet):
    *_, counts = fleet
    assert len(counts) == 2
    assert sum(counts) == COUNTED


def test_tasks_on_two_processes_are_as_many_trees(traces):
    assert len(traces) == TASKS
    for spans in traces:
        known = {span.span for span in spans}
        assert [span.name for span in spans if span.parent not in known] == ["submit w"]
        assert len({span.attributes["messaging.message.id"] for span in spans if span.name == "submit w"}) == 1
    instances = {span.resource["service.instance.id"] for span in chain(*traces) if span.name == "attempt 1"}
    assert len(instances) == 2


def test_each_trace_is_complete(traces):
    for spans in traces:
        assert {span.name for span in spans} == NAMES
        assert [span.attributes["langgraph_rq.state"] for span in spans if span.name == "attempt 1"] == ["success"]


def test_task_of_a_killed_process_goes_on_in_its_trace_with_a_link_to_the_lost_attempt(fleet):
    _, results, received, _ = fleet
    resumed = {result.task_id for result in results if result.metadata.attempts > 1}
    assert resumed
    traces = trace_of(received, {result.task_id for result in results})
    assert len(traces) == LOST
    seen = set()
    for span in chain(*traces):
        if span.name == "attempt 2":
            (link,) = span.links
            task_id = span.attributes["messaging.message.id"]
            assert int(link, 16) == tracing.derived_attempt(int(span.trace, 16), task_id, 1).span_id
            seen.add(task_id)
    assert seen == resumed


def test_tree_of_a_killed_process_lacks_nothing_but_what_that_process_had_not_exported(fleet):
    _, results, received, _ = fleet
    traces = trace_of(received, {result.task_id for result in results})
    survivors = {span.resource["service.instance.id"] for span in chain(*traces) if span.name == "attempt 2"}
    for spans in traces:
        known = {span.span for span in spans}
        hanging = [span for span in spans if span.parent not in known and span.name != "submit w"]
        assert all(span.resource["service.instance.id"] not in survivors for span in hanging)


def test_spans_of_a_step_lie_within_the_step_that_they_belong_to(traces):
    for spans in traces:
        by_id = {span.span: span for span in spans}
        for span in spans:
            if span.name.startswith(("node", "chat")):
                parent = by_id[span.parent]
                assert parent.start_ns - 5_000_000 <= span.start_ns <= span.end_ns <= parent.end_ns + 5_000_000


def test_model_calls_have_opentelemetrys_names(traces):
    span = next(span for span in chain(*traces) if span.name == "chat gpt-4o-mini")
    assert span.attributes.keys() == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
    }
    assert (span.attributes["gen_ai.operation.name"], span.attributes["gen_ai.provider.name"]) == ("chat", "openai")


def test_no_span_holds_what_was_asked_or_answered(fleet):
    _, _, received, _ = fleet
    assert received.bodies
    assert not any(CANARY.encode() in body for body in received.bodies)


def test_spans_say_which_service_they_come_from(traces):
    resources = [span.resource for span in chain(*traces) if span.name.startswith("attempt")]
    assert {resource["service.name"] for resource in resources} == {"langgraph-rq"}
    assert {resource["team"] for resource in resources} == {"desk"}


REMOTE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def submitted(**fields) -> Task:
    return tracing.submitted(Task.parse({"input": {}, "graph": "g", **fields}, DEFAULT_LIMITS), "agent_tasks")


def test_task_without_a_tracer_provider_keeps_the_trace_of_its_caller():
    with no_tracer_provider():
        assert submitted(traceparent=REMOTE).traceparent == REMOTE
        assert submitted().traceparent is None
        with trace.use_span(trace.get_current_span(tracing.parent_of(submitted(traceparent=REMOTE)))):
            assert submitted().traceparent == REMOTE


def test_task_is_below_its_own_submit_span_in_the_trace_of_its_caller():
    with no_tracer_provider():
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
        with provider.get_tracer("users").start_as_current_span("mine") as mine:
            _, trace_id, span_id, flags = submitted().traceparent.split("-")
        assert int(trace_id, 16) == mine.get_span_context().trace_id
        assert int(span_id, 16) != mine.get_span_context().span_id
        assert int(flags, 16) & 1
        _, given_trace, given_span, _ = submitted(traceparent=REMOTE).traceparent.split("-")
        assert (given_trace, given_span == "b" * 16) == ("a" * 32, False)


def test_task_that_its_caller_does_not_sample_stays_unsampled():
    with no_tracer_provider():
        trace.set_tracer_provider(TracerProvider())
        assert submitted(traceparent=REMOTE[:-2] + "00").traceparent.endswith("-00")


def test_traceparent_that_names_no_trace_is_none():
    empty = Task.parse({"input": {}, "graph": "g", "traceparent": f"00-{'0' * 32}-{'0' * 16}-00"}, DEFAULT_LIMITS)
    assert not trace.get_current_span(tracing.parent_of(empty)).get_span_context().is_valid


def test_attempt_has_the_same_ids_in_every_process():
    assert tracing.derived_trace_id("t1") == tracing.derived_trace_id("t1") != tracing.derived_trace_id("t2")
    one, two = (tracing.derived_attempt(7, "t1", epoch).span_id for epoch in (1, 2))
    assert one != two
    assert one == tracing.derived_attempt(7, "t1", 1).span_id


def test_client_imports_nothing_that_exports_spans():
    program = (
        "import sys; from langgraph_rq import Client;"
        "sdk = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'opentelemetry.proto', 'grpc');"
        "print([one for one in sys.modules if one.startswith(sdk)])"
    )
    wanted = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    said = subprocess.run([sys.executable, "-c", program], env=wanted, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


THIN_WORKER = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None  # as if the extra were not installed
from langgraph_rq.worker.command import main
main()
"""


@pytest.mark.slow
def test_worker_without_the_extra_says_what_to_install(redis_url, tmp_path):
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "REDIS_URL": redis_url}
    command = [sys.executable, "-c", THIN_WORKER, "--config", WORKLOAD, "--unsafe-redis"]
    environment |= {"OPENAI_API_KEY": "unused"}
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    *_, said = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert said.startswith("error: tracing: expected opentelemetry-sdk")
    assert "langgraph-rq[otel]" in said
