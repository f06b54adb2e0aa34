"""The spans of attempts: released, cancelled, unsampled, of jobs without a trace, under a provider of the user."""

import asyncio
from typing import TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import Client, State
from langgraph_rq.shared.telemetry import logs
from langgraph_rq.shared.telemetry.tracing import derived_trace_id
from tests.fleet import ended, one_node_graph, worker
from tests.otlp import exporting, no_tracer_provider
from tests.waiting import until

REMOTE = "00-" + "a" * 32 + "-" + "b" * 16


class Asked(TypedDict, total=False):
    question: str
    answer: str


async def answer(_state: Asked) -> Asked:
    return {"answer": "x"}


async def run(redis_url: str, client: Client, graph, **fields):
    async with worker(redis_url, {"g": graph}):
        return await ended(client, client.submit({"question": "x"}, graph="g", **fields).task_id)


def one_trace(received):
    (spans,) = received.traces().values()
    known = {span.span for span in spans}
    return {span.name: span for span in spans}, [span.name for span in spans if span.parent not in known]


async def test_released_attempt_is_a_whole_part_of_the_trace(redis_url, client, monkeypatch):
    entered = asyncio.Event()

    async def hang(_state):
        entered.set()
        await asyncio.Event().wait()

    with exporting(monkeypatch) as received:
        async with worker(redis_url, {"g": one_node_graph(hang, Asked)}, drain_s=0.05):
            task = client.submit({"question": "x"}, graph="g").task_id
            await entered.wait()
        async with worker(redis_url, {"g": one_node_graph(answer, Asked)}):
            await ended(client, task)
    by_name, roots = one_trace(received)
    assert roots == ["submit g"]
    assert by_name["attempt 1"].attributes["langgraph_rq.released"]
    assert by_name["attempt 2"].links == (by_name["attempt 1"].span,)
    assert by_name["attempt 2"].attributes["langgraph_rq.state"] == "success"


async def test_cancelled_run_leaves_no_span_open(redis_url, client, monkeypatch):
    entered = asyncio.Event()

    async def hang(_state):
        entered.set()
        await asyncio.Event().wait()

    inner = one_node_graph(hang, Asked)
    graph = StateGraph(Asked).add_node("outer", inner).add_edge(START, "outer").compile()
    with exporting(monkeypatch) as received:
        async with worker(redis_url, {"g": graph}):
            task = client.submit({"question": "x"}, graph="g").task_id
            await entered.wait()
            client.cancel(task)
            assert (await ended(client, task)).status is State.CANCELLED
    by_name, roots = one_trace(received)
    assert roots == ["submit g"]
    assert {"node node", "node outer", "invoke_agent g"} <= by_name.keys()
    assert by_name["node node"].is_error
    assert (by_name["attempt 1"].is_error, by_name["attempt 1"].attributes["langgraph_rq.state"]) == (
        False,
        "cancelled",
    )


async def test_failed_task_is_an_error_by_type_only(redis_url, client, monkeypatch):
    async def fail(_state):
        raise ValueError("canary")

    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(fail, Asked))
    by_name, _ = one_trace(received)
    assert by_name["attempt 1"].attributes["error.type"] == "graph_error"
    assert by_name["node node"].attributes["error.type"] == "ValueError"
    assert not any(b"canary" in body for body in received.bodies)


async def test_question_to_a_person_is_no_error(redis_url, client, monkeypatch):
    async def ask(_state):
        return {"answer": interrupt("really?")}

    with exporting(monkeypatch) as received:
        async with worker(redis_url, {"g": one_node_graph(ask, Asked)}, checkpoints=True):
            task = client.submit({"question": "x"}, graph="g", thread_id="th").task_id
            assert (await ended(client, task)).status is State.INTERRUPTED
    by_name, _ = one_trace(received)
    assert not any(span.is_error for span in by_name.values())
    assert by_name["invoke_agent g"].attributes["gen_ai.conversation.id"] == "th"


async def test_result_that_was_refused_is_an_error_of_its_attempt(redis_url, client, redis_client, monkeypatch):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hang(_state):
        entered.set()
        await leave.wait()

    with exporting(monkeypatch) as received:
        async with worker(redis_url, {"g": one_node_graph(hang, Asked)}) as one:
            task = client.submit({"question": "x"}, graph="g").task_id
            await entered.wait()
            redis_client.hset(f"agent:task:{task}", mapping={"epoch": 2, "owner": "other"})
            leave.set()
            await until(lambda: one.in_flight == 0)
    by_name, _ = one_trace(received)
    assert by_name["attempt 1"].attributes["error.type"] == "fenced"


async def test_attempt_lasts_from_its_claim_until_its_outcome_is_written(redis_url, client, monkeypatch):
    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(answer, Asked))
    by_name, _ = one_trace(received)
    attempt, graph = by_name["attempt 1"], by_name["invoke_agent g"]
    assert attempt.start_ns % 1_000_000 == 0  # Redis' clock, which the claim returned
    assert graph.start_ns < graph.end_ns < attempt.end_ns
    assert attempt.attributes["langgraph_rq.queued_ms"] >= 0


@pytest.mark.parametrize(("flags", "count"), [("00", 0), ("01", 2)])
async def test_caller_decides_whether_the_task_is_sampled(flags, count, redis_url, client, monkeypatch):
    seen = []

    async def look(_state):
        with trace.get_tracer("users").start_as_current_span("mine") as mine:
            seen.append(mine.get_span_context())
        return {"answer": "x"}

    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(look, Asked), traceparent=f"{REMOTE}-{flags}")
    (mine,) = seen
    assert mine.trace_id == int("a" * 32, 16)
    assert sum(span.name in {"mine", "node node"} for span in received.spans.values()) == count


async def test_job_without_a_trace_has_one_for_all_its_attempts(redis_url, client, redis_client, monkeypatch):
    entered = asyncio.Event()

    async def hang(_state):
        entered.set()
        await asyncio.Event().wait()

    queue = Queue("agent_tasks", connection=redis_client, serializer=JSONSerializer)
    queue.enqueue("worker.run_task", {"task_id": "t1", "input": {"question": "x"}, "graph": "g"}, job_id="t1")
    with exporting(monkeypatch) as received:
        async with worker(redis_url, {"g": one_node_graph(hang, Asked)}, drain_s=0.05):
            await entered.wait()
        async with worker(redis_url, {"g": one_node_graph(answer, Asked)}):
            assert (await ended(client, "t1")).status is State.SUCCESS
    by_name, roots = one_trace(received)
    assert {"attempt 1", "attempt 2"} == set(roots)
    assert by_name["attempt 2"].links == (by_name["attempt 1"].span,)
    assert int(by_name["attempt 1"].trace, 16) == derived_trace_id("t1")


async def test_log_lines_name_the_trace_and_the_span_that_they_belong_to(redis_url, client, lines, monkeypatch):
    async def tell(_state):
        logs.get_logger("tests").info("desk.told")
        return {"answer": "x"}

    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(tell, Asked))
    by_name, _ = one_trace(received)
    for event, span in (
        ("task.started", "attempt 1"),
        ("desk.told", "node node"),
        ("task.completed", "attempt 1"),
    ):
        (line,) = lines.named(event)
        assert (line["trace_id"], line["span_id"]) == (by_name[span].trace, by_name[span].span)


async def test_provider_of_the_users_code_gets_all_spans(redis_url, client):
    kept = InMemorySpanExporter()
    with no_tracer_provider():
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(kept))
        trace.set_tracer_provider(provider)
        await run(redis_url, client, one_node_graph(answer, Asked))
    names = {span.name for span in kept.get_finished_spans()}
    assert {"submit g", "attempt 1", "invoke_agent g", "node node"} == names


class _Broken(SpanProcessor):
    def on_start(self, span, parent_context=None):
        raise ValueError("broken")

    def on_end(self, span):
        raise ValueError("broken")


async def test_task_ends_whose_spans_cannot_be_recorded(redis_url, client, lines):
    task = client.submit({"question": "x"}, graph="g").task_id
    with no_tracer_provider():
        provider = TracerProvider()
        provider.add_span_processor(_Broken())
        trace.set_tracer_provider(provider)
        async with worker(redis_url, {"g": one_node_graph(answer, Asked)}):
            result = await ended(client, task)
    assert result.status is State.SUCCESS


CALLED = {"provider": "p", "outcome": "ok", "duration_ms": 1, "input_tokens": 1, "output_tokens": 1}


async def test_usage_that_is_an_estimate_is_flagged(redis_url, client, monkeypatch):
    async def call(_state):
        log = logs.get_logger("tests")
        log.info("model.called", **CALLED, model="told", estimated=False)
        log.info("model.called", **CALLED, model="guessed", estimated=True)

    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(call, Asked))
    by_name, _ = one_trace(received)
    assert by_name["chat guessed"].attributes["langgraph_rq.usage_estimated"] is True
    assert "langgraph_rq.usage_estimated" not in by_name["chat told"].attributes


async def test_model_that_reports_absurd_numbers_costs_no_span(redis_url, client, monkeypatch):
    called = {**CALLED, "model": "m", "estimated": False, "input_tokens": 2**70}  # longer than OTLP's numbers

    async def call(_state):
        logs.get_logger("tests").info("model.called", **called)

    with exporting(monkeypatch) as received:
        await run(redis_url, client, one_node_graph(call, Asked))
    by_name, roots = one_trace(received)
    assert roots == ["submit g"]
    assert by_name["chat m"].attributes["gen_ai.usage.input_tokens"] == 2**63 - 1
