"""Users' texts that stopped workers: each ends its task, in time that the other tasks do not notice."""

import asyncio
import io
import json
import logging
import threading
import time
from collections import defaultdict
from typing import Any, TypedDict

import pytest
import structlog

from langgraph_rq import Client, State
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry import logs
from langgraph_rq.worker.task.redacted import LONG_BYTES, Redaction
from tests.fleet import one_node_graph, worker

LONG_WORD = "a text whose last word is long: " + "a" * 48_000


class Data(TypedDict):
    data: Any


class Watched(Redactor):
    """Records in which threads it masks."""

    def __init__(self) -> None:
        super().__init__()
        self.threads_by_size = defaultdict(set)

    def redact_json(self, value):
        is_whole = isinstance(value, dict)
        size = "large" if len(json.dumps(value)) > LONG_BYTES else "small"
        if is_whole:
            self.threads_by_size[size].add(threading.current_thread().name)
        return super().redact_json(value)


@pytest.fixture
def log():
    root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers
    out = io.StringIO()
    logs.configure(stream=out)
    yield out
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.reset()


async def ended(client: Client, *arguments: Any, **options: Any):
    receipt = client.submit(*arguments, **options)
    return await asyncio.to_thread(client.wait, receipt.task_id, timeout_s=60)


async def test_text_whose_last_word_is_long_stops_no_worker(redis_url, client, log):
    async def fail(state):
        logs.get_logger("graph").warning("graph.failed", error=state["data"])
        raise ValueError(state["data"])

    graphs = {"echo": one_node_graph(lambda state: state, Data), "fail": one_node_graph(fail, Data)}
    began = time.process_time()
    async with worker(redis_url, graphs, redaction=Redaction(Redactor())):
        echoed = await ended(client, {"data": LONG_WORD}, graph="echo", stream=["values", "updates"])
        failed = await ended(client, {"data": LONG_WORD}, graph="fail", stream=["values", "updates"])
    assert time.process_time() - began < 5
    assert (echoed.status, echoed.result["data"]) == (State.SUCCESS, LONG_WORD)
    assert failed.status is State.ERROR
    (line,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "graph.failed"]
    assert line["error"].startswith("a text whose last word is ")
    assert line["error"].endswith("... (48,032 characters)")


async def test_long_id_in_the_state_of_a_thread_stops_no_worker_at_the_second_task(redis_url, client, log):
    constructor = {"lc": 1, "type": "constructor", "id": ["a" * 40_000]}
    began = time.process_time()
    async with worker(redis_url, {"g": one_node_graph(lambda state: {}, Data)}, checkpoints=True):
        for _ in range(2):
            assert await ended(client, {"data": constructor}, graph="g", thread_id="t")
        neighbour = await ended(client, {"data": 1}, graph="g")
    assert time.process_time() - began < 5
    assert neighbour.status is State.SUCCESS
    assert all(len(line) < 10_000 for line in log.getvalue().splitlines())


async def test_other_tasks_go_on_while_a_large_result_or_event_is_masked(redis_url, client):
    redactor = Watched()
    large = {"data": ["(212) 555-1234 " * 60] * 50}
    async with worker(redis_url, {"g": one_node_graph(lambda state: state, Data)}, redaction=Redaction(redactor)):
        result = await ended(client, large, graph="g", stream=["values"])
    assert result.result == {"data": ["[phone] " * 60] * 50}
    assert redactor.threads_by_size == {"large": {"masking_0"}, "small": {threading.current_thread().name}}


async def test_event_of_many_parts_is_masked_whole(redis_url, client):
    redactor = Watched()
    output = {"data": "(212) 555-1234 " * 6_000}
    async with worker(redis_url, {"g": one_node_graph(lambda _state: output, Data)}, redaction=Redaction(redactor)):
        result = await ended(client, {"data": 0}, graph="g", stream=["updates"])
        events = await asyncio.to_thread(lambda: list(client.events(result.task_id)))
    (update,) = [event for event in events if event.type == "updates"]
    assert update.data["data"] == {"node": result.result}
    assert result.result["data"].count("[phone]") > 5_900
    assert redactor.threads_by_size["large"] == {"masking_0"}
