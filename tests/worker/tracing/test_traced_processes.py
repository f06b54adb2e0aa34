"""Traces of worker processes, as users run them: their own TracerProvider, isolated tasks, and LangSmith's traces."""

import json
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.installation import ROOT, start_worker
from tests.otlp import grpc_receiver, receiver
from tests.waiting import until_sync

TRACED = str(ROOT / "tests/projects/traced/langgraph.json")
WORKLOAD = str(ROOT / "benchmarks/systems/graphs/langgraph.json")


@pytest.fixture(scope="module")
def redis():
    with EmbeddedRedis() as server:
        yield server


@contextmanager
def serving(folder, redis, config: str, *arguments: str, **environment: str):
    environment |= {"REDIS_URL": redis.url, "OPENAI_API_KEY": "unused", "LGRQ_CHECKPOINTS": "0"}
    with start_worker(folder, environment, "--config", config, *arguments) as worker:
        worker.wait_until_ready()
        with Client(redis.url) as client:
            yield client, worker
        assert worker.end() == 0, worker.said()


def test_provider_that_a_graphs_module_sets_is_used_and_not_replaced(tmp_path, redis):
    with receiver() as ours, receiver() as own:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": ours.url, "OWN_COLLECTOR": f"{own.url}/v1/traces"}
        with serving(tmp_path, redis, TRACED, **variables) as (client, _):
            assert client.wait(client.submit({}, graph="own").task_id, 30).status is State.SUCCESS
    assert not ours.bodies
    (spans,) = own.traces().values()
    by_name = {span.name: span for span in spans}
    assert by_name["user span"].parent == by_name["node work"].span
    assert {span.resource["service.name"] for span in spans} == {"the-users-own"}


@pytest.mark.parametrize("protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.slow)])
def test_isolated_task_exports_its_spans_before_its_process_ends(protocol, tmp_path, redis):
    with (grpc_receiver if protocol == "grpc" else receiver)() as received:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        variables |= {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OWN_COLLECTOR": "unused"}
        killers = str(ROOT / "tests/projects/killers/langgraph.json")
        with Client(redis.url) as client, Redis.from_url(redis.url) as raw:
            task_id = client.submit({"seconds": 0}, graph="killer").task_id
            raw.hset(f"agent:task:{task_id}", "crashes", 2)
        with serving(tmp_path, redis, killers, **variables) as (client, worker):
            assert client.wait(task_id, 60).status is State.SUCCESS
            assert worker.events("task.isolated")
            (spans,) = received.traces().values()
            instances = {span.resource["service.instance.id"] for span in spans}
    assert {"attempt 1", "invoke_agent killer", "node prepare", "node strike"} <= {span.name for span in spans}
    assert len(instances) == 1


@contextmanager
def langsmith():
    """Serve as much of LangSmith's API as its client calls; yields the runs, by id, as they were last written."""
    runs: dict[str, dict] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            limits = {"size_limit": 100, "size_limit_bytes": 20_000_000, "scale_up_nthreads_limit": 1}
            body = {"batch_ingest_config": {**limits, "scale_up_qsize_trigger": 1000, "use_multipart_endpoint": False}}
            self.answer(json.dumps(body).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = zlib.decompress(body, 31)
            for part in json.loads(body).values():
                for run in part:
                    runs.setdefault(run["id"], {}).update({name: value for name, value in run.items() if value})
            self.answer(b"{}")

        def do_PATCH(self) -> None:
            raise AssertionError("expected runs in batches")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", runs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    "is_traced",
    [pytest.param(True, id="with our spans"), pytest.param(False, id="without our spans", marks=pytest.mark.slow)],
)
def test_langsmith_gets_one_right_tree_of_a_task(is_traced, tmp_path, redis):
    with langsmith() as (endpoint, runs), receiver() as received, OfflineLLM() as model:
        variables = {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": endpoint, "LANGSMITH_API_KEY": "unused"}
        variables |= {"OPENAI_BASE_URL": model.url}
        variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url} if is_traced else {}
        with serving(tmp_path, redis, WORKLOAD, **variables) as (client, _):
            assert client.wait(client.submit({"question": "?"}, graph="w").task_id, 30).status is State.SUCCESS
            until_sync(lambda: runs and all(run.get("end_time") for run in list(runs.values())), 20)
    (root,) = [run for run in runs.values() if not run.get("parent_run_id")]
    assert root["name"] == "w"
    assert {run["trace_id"] for run in runs.values()} == {root["id"]}
    nodes = {run["name"]: run["id"] for run in runs.values() if run.get("parent_run_id") == root["id"]}
    assert {"classify", "answer", "finish"} <= nodes.keys()
    models = [run for run in runs.values() if run["run_type"] == "llm"]
    assert len(models) == 2
    assert {run["parent_run_id"] for run in models} <= {nodes["classify"], nodes["answer"]}
    assert bool(received.spans) == is_traced
