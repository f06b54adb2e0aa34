"""What a failed task says of its failure: enough to find it, and no more than is allowed."""

import asyncio
from io import StringIO
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from redis import Redis
from rich.console import Console
from rq.job import Job
from rq.serializers import JSONSerializer

from langgraph_rq import Client, State
from langgraph_rq.producer.cli.views import output
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry import logs
from langgraph_rq.worker.outputs.failures import ErrorDetail, describe
from langgraph_rq.worker.task.redacted import Redaction
from tests.fleet import one_node_graph, worker
from tests.otlp import exporting
from tests.waiting import until

THIS_FILE = "tests/worker/task/test_failures.py"
SECRET = "ada@example.com"


class Steps(TypedDict, total=False):
    given: Any
    first: str
    third: str


async def first(_state: Steps) -> Steps:
    return {"first": "paid for"}


def look_up() -> None:
    raise KeyError(SECRET)


async def third(_state: Steps) -> Steps:
    try:
        look_up()
    except KeyError as error:
        raise ValueError(f"no address {SECRET}") from error
    return {}


def failing() -> Any:
    graph = StateGraph(Steps).add_node("first", first).add_node("third", third)
    return graph.add_edge(START, "first").add_edge("first", "third").add_edge("third", END).compile()


async def run(redis_url: str, client: Client, graph: Any, fields: Any = None, **options: Any):
    async with worker(redis_url, {"g": graph}, **options):
        task = client.submit({"given": 1}, graph="g", **(fields or {}))
        return await asyncio.to_thread(client.wait, task.task_id, 20)


def shown_by_rq(redis_url: str, task_id: str) -> str:
    with Redis.from_url(redis_url) as redis:
        return Job.fetch(task_id, redis, serializer=JSONSerializer).latest_result().exc_string


def own_functions(frames) -> list[str]:
    assert {frame.file for frame in frames if frame.user} <= {THIS_FILE}
    return [frame.function for frame in frames if frame.user]


@pytest.mark.parametrize("stream", [[], ["values"]], ids=["", "streamed"])
async def test_failure_names_its_node_class_frames_and_causes_and_keeps_the_last_state(redis_url, client, stream):
    result = await run(redis_url, client, failing(), {"stream": stream}, checkpoints=True)
    error = result.error
    assert (result.status, error.node, error.exception) == (State.ERROR, "third", "ValueError")
    assert error.message == f"ValueError: no address {SECRET}"
    assert own_functions(error.frames) == ["third"]
    assert error.frames[-1].line == third.__code__.co_firstlineno + 4
    assert any(frame.file.startswith("langgraph/") for frame in error.frames)
    (cause,) = error.causes
    assert (cause.exception, cause.message) == ("KeyError", repr(SECRET))
    assert own_functions(cause.frames) == ["third", "look_up"]
    assert error.last_state == {"given": 1, "first": "paid for"}
    assert result.result is None


async def test_node_of_a_subgraph_is_named_with_the_node_around_it(redis_url, client):
    graph = StateGraph(Steps).add_node("outer", failing()).add_edge(START, "outer").compile()
    result = await run(redis_url, client, graph)
    assert result.error.node == "outer|third"


async def test_deadline_names_the_node_that_ran_and_keeps_the_last_state(redis_url, client):
    async def hang(_state):
        await asyncio.Event().wait()

    graph = StateGraph(Steps).add_node("first", first).add_node("slow", hang)
    graph = graph.add_edge(START, "first").add_edge("first", "slow").compile()
    result = await run(redis_url, client, graph, {"deadline_s": 1.5}, checkpoints=True)
    assert (result.status, result.error.node) == (State.TIMEOUT, "slow")
    assert result.error.last_state == {"given": 1, "first": "paid for"}


async def test_last_state_that_does_not_fit_does_not_cost_the_failure(redis_url, client):
    async def large(_state):
        return {"first": "x" * 10_000_000}

    graph = StateGraph(Steps).add_node("first", large).add_node("third", third)
    graph = graph.add_edge(START, "first").add_edge("first", "third").compile()
    result = await run(redis_url, client, graph, checkpoints=True)
    assert (result.error.type, result.error.node, result.error.last_state) == ("graph_error", "third", None)


@pytest.mark.parametrize(
    ("detail", "message", "has_frames"),
    [
        (ErrorDetail.CLASS, "ValueError", False),
        (ErrorDetail.MESSAGE, f"ValueError: no address {SECRET}", False),
        (ErrorDetail.FRAMES, f"ValueError: no address {SECRET}", True),
    ],
)
async def test_setting_decides_how_much_is_told(redis_url, client, detail, message, has_frames):
    result = await run(redis_url, client, failing(), error_detail=detail)
    error = result.error
    assert (error.exception, error.node, error.message) == ("ValueError", "third", message)
    assert bool(error.frames) is has_frames
    assert bool(error.causes) is (detail is not ErrorDetail.CLASS)
    shown = shown_by_rq(redis_url, result.task_id)
    assert (SECRET in shown) is (detail is not ErrorDetail.CLASS)


async def test_rq_shows_the_node_and_the_frames(redis_url, client):
    result = await run(redis_url, client, failing())
    shown = shown_by_rq(redis_url, result.task_id).splitlines()
    assert shown[:2] == [f"graph_error: ValueError: no address {SECRET}", "in node third"]
    assert f"> {THIS_FILE}:{third.__code__.co_firstlineno + 4} third" in shown
    assert f"from KeyError: {SECRET!r}" in shown


async def test_log_and_span_have_all_but_the_message_also_when_only_errors_are_logged(
    redis_url, client, lines, monkeypatch
):
    logs.configure("warning", stream=lines)
    with exporting(monkeypatch) as received:
        await run(redis_url, client, failing())
        await until(lambda: lines.named("task.failed"))
    (failed,) = lines.named("task.failed")
    assert (failed["node"], failed["exception"]) == ("third", "ValueError")
    assert f"> {THIS_FILE}:{third.__code__.co_firstlineno + 4} third" in failed["frames"]
    assert "from KeyError" in failed["frames"]
    assert SECRET not in lines.getvalue()
    sent = b"".join(received.bodies)
    assert b"exception.stacktrace" in sent
    assert THIS_FILE.encode() in sent
    assert SECRET.encode() not in sent


async def test_masked_messages_are_in_the_log_and_the_span_too(redis_url, client, lines, monkeypatch):
    with exporting(monkeypatch) as received:
        result = await run(redis_url, client, failing(), redaction=Redaction(Redactor()), checkpoints=True)
        await until(lambda: lines.named("task.failed"))
    (failed,) = lines.named("task.failed")
    assert result.error.message == failed["message"] == "ValueError: no address [email]"
    assert result.error.causes[0].message == "'[email]'"
    assert b"no address [email]" in b"".join(received.bodies)


@pytest.mark.parametrize(("refuses", "kept"), [(False, {"given": 1, "first": "[email]"}), (True, None)])
async def test_last_state_is_masked_or_withheld(redis_url, client, refuses, kept):
    async def contact(_state):
        return {"first": SECRET}

    graph = StateGraph(Steps).add_node("first", contact).add_node("third", third)
    graph = graph.add_edge(START, "first").add_edge("first", "third").compile()
    result = await run(redis_url, client, graph, redaction=Redaction(Redactor(), refuses), checkpoints=True)
    assert result.error.last_state == kept


async def test_command_line_shows_the_node_and_the_users_frames(redis_url, client):
    result = await run(redis_url, client, failing())
    console = Console(file=StringIO(), width=200)
    console.print(output.result(result))
    shown = console.file.getvalue()
    assert "node third" in " ".join(shown.split())
    assert f"{THIS_FILE}:{third.__code__.co_firstlineno + 4} third" in shown


async def test_exceptions_of_a_group_are_told(redis_url, client):
    async def several(_state):
        raise ExceptionGroup("two", [KeyError("a"), OSError("b")])

    result = await run(redis_url, client, one_node_graph(several, Steps))
    assert [cause.exception for cause in result.error.causes] == ["KeyError", "OSError"]


def test_causes_that_go_in_circles_end():
    one, other = ValueError("1"), KeyError("2")
    one.__cause__, other.__cause__ = other, one
    assert [cause.exception for cause in describe(one, ErrorDetail.FRAMES).causes] == ["KeyError"]


def test_message_that_cannot_be_made_costs_nothing():
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    error = ValueError("outer")
    error.__cause__ = OddError()
    (cause,) = describe(error, ErrorDetail.MESSAGE).causes
    assert cause.message == ""
