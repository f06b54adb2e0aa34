"""What a worker tells about its tasks: log events, metrics, spans and audit entries, and what it must not tell."""

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from redis import Redis

from langgraph_rq import Client, State
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.errors import ErrorType, SettingsError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.settings import RedactionSettings
from langgraph_rq.shared.telemetry import logs
from langgraph_rq.shared.telemetry.audit import STREAM, Audit
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from langgraph_rq.worker.telemetry.metrics_server import MetricsServer
from tests.fleet import ended, one_node_graph, worker
from tests.model_calls import chat_models
from tests.otlp import exporting
from tests.waiting import until, until_sync

CANARY = "canary-7d3a"


class Asked(TypedDict, total=False):
    question: str
    answer: str


@pytest.fixture
def metrics():
    metrics = WorkerMetrics(lambda: 7)
    with metrics.listen():
        yield metrics


@pytest.fixture(scope="module")
def model_api():
    with OfflineLLM() as server:
        yield server


@pytest.fixture
async def chat(model_api):
    """A guarded model on the offline server."""
    async with chat_models(model_api.url) as make:
        yield guarded_chat_model(make(max_tokens=1_000))


async def answer(state: Asked) -> Asked:
    return {"answer": state["question"].upper()}


async def refuse(state: Asked) -> Asked:
    raise ValueError(f"no answer to {state['question']}")


def asking(chat):

    async def ask(state: Asked) -> Asked:
        return {"answer": str((await chat.ainvoke(state["question"])).text)}

    return one_node_graph(ask, Asked)


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_no_event_is_lost_or_counted_twice_while_threads_tell_and_scrape(metrics):
    log = logs.get_logger("langgraph_rq.tests")

    def tell(_thread: int) -> None:
        for number in range(1_000):
            log.debug("model.retried", model="m")
            if number % 100 == 0:
                metrics.page()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(tell, range(4)))
    until_sync(lambda: value(metrics, "agent_retries_total", model="m") == 4_000)


async def test_life_of_a_task_is_told_with_what_it_belongs_to(redis_url, client, lines):
    async with worker(redis_url, {"g": one_node_graph(answer, Asked)}) as one:
        task = client.submit({"question": "why"}, graph="g", user_id="ann", thread_id="th").task_id
        await ended(client, task)
        await until(lambda: lines.named("task.completed"))
    bound = {"task_id": task, "attempt": 1, "worker": one.name}
    about = {"graph": "g", "user_id": "ann", "thread_id": "th"}
    (claimed,), (started,) = lines.named("task.claimed"), lines.named("task.started")
    assert bound.items() <= claimed.items()
    for line in (started, *lines.named("node.started"), *lines.named("node.completed")):
        assert (bound | about).items() <= line.items()
    (done,) = lines.named("task.completed")
    assert (done["state"], done["graph"], "node" in done) == ("success", "g", False)
    assert {"duration_ms", "total_ms", "input_bytes", "result_bytes"} <= done.keys()
    (node,) = lines.named("node.completed")
    assert (node["node"], node["writes"]) == ("node", 1)


async def test_failed_node_and_task_are_told_by_type_only(redis_url, client, lines):
    async with worker(redis_url, {"g": one_node_graph(refuse, Asked)}):
        await ended(client, client.submit({"question": CANARY}, graph="g").task_id)
        await until(lambda: lines.named("task.failed"))
    (node,), (task,) = lines.named("node.failed"), lines.named("task.failed")
    assert (node["error"], task["error"], task["level"]) == ("ValueError", "graph_error", "warning")
    assert CANARY not in lines.getvalue()


async def test_question_to_a_person_is_no_failure_of_its_node(redis_url, client, lines):
    async def ask(_state):
        return {"answer": interrupt("really?")}

    async with worker(redis_url, {"g": one_node_graph(ask, Asked)}, checkpoints=True):
        result = await ended(client, client.submit({"question": "x"}, graph="g", thread_id="th").task_id)
        await until(lambda: lines.named("task.completed"))
    assert result.status is State.INTERRUPTED
    assert lines.named("node.interrupted")
    assert not lines.named("node.failed")


async def test_nodes_of_a_subgraph_and_of_sync_functions_are_told_too(redis_url, client, lines):
    inner = one_node_graph(lambda state: {"answer": state["question"]}, Asked)
    graph = StateGraph(Asked).add_node("outer", inner).add_edge(START, "outer").add_edge("outer", END).compile()
    async with worker(redis_url, {"g": graph}):
        await ended(client, client.submit({"question": "x"}, graph="g").task_id)
        await until(lambda: lines.named("task.completed"))
    assert [line["node"] for line in lines.named("node.completed")] == ["node", "outer"]


async def test_metrics_count_what_the_log_tells(redis_url, client, metrics, chat):
    graphs = {"ask": asking(chat), "bad": one_node_graph(refuse, Asked)}
    async with worker(redis_url, graphs):
        for graph in ("ask", "ask", "bad"):
            await ended(client, client.submit({"question": "why"}, graph=graph).task_id)
        await until(lambda: value(metrics, "agent_requests_total", graph="bad", state="error"))
    assert value(metrics, "agent_requests_total", graph="ask", state="success") == 2
    assert value(metrics, "agent_errors_total", type="graph_error") == 1
    assert value(metrics, "agent_latency_seconds_count", graph="ask") == 2
    assert value(metrics, "agent_queue_wait_seconds_count") == 3
    assert value(metrics, "agent_node_seconds_count", graph="ask", node="node") == 2
    assert value(metrics, "agent_model_calls_total", model="gpt-4o-mini", outcome="ok") == 2
    assert value(metrics, "agent_tokens_total", model="gpt-4o-mini", direction="output") > 0
    assert value(metrics, "agent_cost_usd_total", model="gpt-4o-mini") > 0
    assert value(metrics, "agent_tasks_in_flight") == 7


async def test_refusals_of_the_budget_are_counted(redis_url, client, metrics, chat):
    async with worker(redis_url, {"ask": asking(chat)}, budget=BudgetLimits(daily_tokens=500)):
        result = await ended(client, client.submit({"question": "why"}, graph="ask").task_id)
    assert result.error.type is ErrorType.BUDGET_EXCEEDED
    await until(lambda: value(metrics, "agent_budget_refusals_total", scope="global") == 1)


async def test_alerts_of_the_budget_are_counted_from_zero(redis_url, client, metrics, chat):
    budget = BudgetLimits(daily_tokens=2_000, alert_percents=(1,))
    assert value(metrics, "agent_budget_alerts_total", scope="global", unit="tokens") == 0
    async with worker(redis_url, {"ask": asking(chat)}, budget=budget):
        await ended(client, client.submit({"question": "why"}, graph="ask").task_id)
    await until(lambda: value(metrics, "agent_budget_alerts_total", scope="global", unit="tokens") == 1)


async def test_canary_is_in_no_log_span_metric_audit_entry_or_description(
    redis_url, client, lines, metrics, chat, monkeypatch
):
    with exporting(monkeypatch) as received:
        audit = Audit("key")
        graphs = {"ask": asking(chat), "say": one_node_graph(answer, Asked), "bad": one_node_graph(refuse, Asked)}
        async with worker(redis_url, graphs, checkpoints=True, audit=audit):
            for graph in graphs:
                told = {"question": f"{CANARY} {graph}"}
                task = client.submit(told, graph=graph, thread_id=f"th-{graph}", stream=["messages", "values"])
                await ended(client, task.task_id)
            await until(lambda: lines.named("task.failed"))
            redis = Redis.from_url(redis_url)
            await until(lambda: redis.xlen(STREAM) == len(graphs))
            await until(lambda: "node node" in {span.name for span in received.spans.values()})
            for places, text in {
                "logs": lines.getvalue().encode(),
                "spans": b"".join(received.bodies),
                "metrics": metrics.page()[2],
                "audit": b"".join(b"".join(fields.values()) for _, fields in redis.xrange(STREAM)),
                "descriptions": b"".join(redis.hget(key, "description") or b"" for key in redis.keys("rq:job:*")),
            }.items():
                assert CANARY.encode() not in text.lower(), places
            found = {key.split(b":")[0] for key in redis.keys("*") if holds(redis, key)}
            redis.close()
    assert found <= {b"agent", b"rq"}


def holds(redis: Redis, key: bytes) -> bool:
    """Say whether the canary is in a key's value, and fail where it must not be."""
    allowed = (b"agent:events:", b"agent:result:", b"rq:job:", b"rq:results:", b"agent:thread_state:")
    kind = redis.type(key)
    if kind == b"string":
        text = redis.get(key)
    elif kind == b"hash":
        text = b" ".join(value for value in redis.hgetall(key).values())
    elif kind == b"stream":
        text = b" ".join(value for _, fields in redis.xrange(key) for value in fields.values())
    else:
        return False
    is_there = CANARY.encode() in text.lower()
    assert not is_there or key.startswith(allowed), key
    return is_there


async def test_end_of_a_task_is_in_the_audit_log_with_what_it_cost(redis_url, client, redis_client, chat):
    async with worker(redis_url, {"ask": asking(chat)}, audit=Audit("key")):
        task = client.submit({"question": "why"}, graph="ask").task_id
        await ended(client, task)
        await until(lambda: redis_client.xlen(STREAM))
    ((_, entry),) = redis_client.xrange(STREAM)
    details = json.loads(entry["details"])
    assert (entry["action"], entry["task"], details["outcome"]) == ("ended", task, "success")
    assert details["model"] == "gpt-4o-mini"
    assert details["cost_nano_usd"] > 0


async def test_end_that_was_refused_is_taken_back_in_the_audit_log(redis_url, client, redis_client):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hang(_state):
        entered.set()
        await leave.wait()

    async with worker(redis_url, {"g": one_node_graph(hang, Asked)}, audit=Audit("key")):
        task = client.submit({"question": "x"}, graph="g").task_id
        await entered.wait()
        redis_client.hset(f"agent:task:{task}", mapping={"epoch": 2, "owner": "other"})
        leave.set()
        await until(lambda: redis_client.xlen(STREAM) == 2)
    entries = [entry for _, entry in redis_client.xrange(STREAM)]
    assert [(entry["action"], entry["task"]) for entry in entries] == [("ended", task), ("fenced", task)]
    assert [json.loads(entry["details"])["attempts"] for entry in entries] == [1, 1]


@contextmanager
def forbidden_audit_log(redis_client):
    """Let Redis refuse all that touches the audit log, for want of a permission."""
    redis_client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~rq:*", "~agent:[^a]*")
    try:
        yield
    finally:
        redis_client.execute_command("ACL", "SETUSER", "default", "allkeys")


async def test_ends_that_could_not_be_recorded_are_recorded_once_that_is_possible(
    redis_url, client, redis_client, lines, monkeypatch
):
    monkeypatch.setattr("langgraph_rq.shared.telemetry.audit._OVERDUE_S", 0.05)
    audit = Audit("key")
    async with worker(redis_url, {"g": one_node_graph(answer, Asked)}, audit=audit):
        with forbidden_audit_log(redis_client):
            tasks = [client.submit({"question": "x"}, graph="g").task_id for _ in range(3)]
            for task in tasks:
                await ended(client, task)
            await until(lambda: len(lines.named("record.refused")) >= 3)
        await until(lambda: redis_client.xlen(STREAM) == 3)
    entries = [entry for _, entry in redis_client.xrange(STREAM)]
    assert [entry["seq"] for entry in entries] == ["1", "2", "3"]
    assert {entry["task"] for entry in entries} == set(tasks)


async def test_worker_that_ends_records_what_is_left(redis_url, client, redis_client, lines):
    audit = Audit("key")
    async with worker(redis_url, {"g": one_node_graph(answer, Asked)}, audit=audit):
        with forbidden_audit_log(redis_client):
            await ended(client, client.submit({"question": "x"}, graph="g").task_id)
            await until(lambda: lines.named("record.refused"))
    assert redis_client.xlen(STREAM) == 1


async def test_end_that_redis_could_not_decide_is_taken_back_in_the_audit_log(redis_url, client, redis_client):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hang(_state):
        entered.set()
        await leave.wait()

    async with worker(redis_url, {"g": one_node_graph(hang, Asked)}, audit=Audit("key")) as one:
        task = client.submit({"question": "x"}, graph="g").task_id
        await entered.wait()
        redis_client.set(f"agent:task:{task}", "somebody else's")
        leave.set()
        await until(lambda: redis_client.xlen(STREAM) == 2)
        await until(lambda: one.in_flight == 0)
    assert [entry["action"] for _, entry in redis_client.xrange(STREAM)] == ["ended", "fenced"]


def masking(mode: str) -> Redaction | None:
    return Redaction.of(RedactionSettings(mode=mode))


async def test_result_is_masked_on_request(redis_url, client):
    async def leak(state):
        return {"answer": f"{state['question']} and sk-abcdEFGH1234567890abcd"}

    async with worker(redis_url, {"g": one_node_graph(leak, Asked)}, redaction=masking("mask")):
        result = await ended(client, client.submit({"question": "ann@example.com"}, graph="g").task_id)
    assert result.result == {"question": "[email]", "answer": "[email] and [secret]"}


async def test_result_is_refused_on_request_and_an_innocent_one_is_not(redis_url, client):
    async def echo(state):
        return {"answer": state["question"]}

    async with worker(redis_url, {"g": one_node_graph(echo, Asked)}, redaction=masking("refuse")):
        bad = await ended(client, client.submit({"question": "ann@example.com"}, graph="g").task_id)
        good = await ended(client, client.submit({"question": "ann"}, graph="g").task_id)
    assert (bad.status, bad.error.type, bad.result) == (State.ERROR, ErrorType.RESULT_REFUSED, None)
    assert "2 values" in bad.error.message
    assert good.result == {"question": "ann", "answer": "ann"}


async def test_streamed_tokens_are_masked_across_their_borders(redis_url, client, chat):
    async def ask(_state):
        return {"answer": str((await chat.ainvoke("Repeat: write to ann.lee@example.com or +49 30 901820 today")).text)}

    async with worker(redis_url, {"g": one_node_graph(ask, Asked)}, redaction=masking("mask")):
        task = client.submit({"question": "x"}, graph="g", stream=["messages"]).task_id
        await ended(client, task)
        events = [event async for event in _events(client, task)]
    told = "".join(event.data["message"]["content"] for event in events if event.type == "messages")
    assert "ann.lee" not in told
    assert "901820" not in told
    assert "[email] or [phone] today" in told, told


async def _events(client: Client, task_id: str):
    for event in await asyncio.to_thread(lambda: list(client.events(task_id))):
        yield event


def test_own_pattern_that_cannot_be_used_is_a_settings_error():
    with pytest.raises(SettingsError, match="LGRQ_REDACTION_PATTERNS: pattern x: expected a regular expression"):
        Redaction.of(RedactionSettings(mode="mask", patterns={"x": "("}))


def test_masking_is_off_by_default():
    assert Redaction.of(RedactionSettings()) is None
    assert isinstance(masking("mask").redactor, Redactor)


@pytest.fixture
def server():
    server = MetricsServer("127.0.0.1", 0)
    server.start()
    yield server
    server.stop()


def get(server: MetricsServer, path: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_server_answers_its_routes_and_names_them_otherwise(server, metrics):
    server.routes["/metrics"] = metrics.page
    server.routes["/health"] = lambda: (503, "text/plain", b"stuck")
    assert b"agent_tasks_in_flight 7.0" in get(server, "/metrics?x=1")[1]
    assert get(server, "/health") == (503, b"stuck")
    assert get(server, "/")[1] == b"expected one of /health, /metrics\n"


def test_route_that_fails_is_an_error_of_one_request(server, lines):
    server.routes["/bad"] = lambda: 1 / 0
    assert get(server, "/bad")[0] == 500
    assert get(server, "/bad")[0] == 500
    assert lines.named("metrics.failed")[0]["exception"]["type"] == "ZeroDivisionError"


def test_each_process_takes_the_next_free_port(server):
    second = MetricsServer("127.0.0.1", server.port)
    second._server.server_close()
    assert server.port < second.port < server.port + 256


def test_address_of_another_machine_is_one_clear_error():
    with pytest.raises(SettingsError, match=r"metrics: cannot listen on 192\.0\.2\.1:9100"):
        MetricsServer("192.0.2.1", 9100)
