"""What the result of a task says of what its graph returned, and how it is cut, masked and refused."""

from base64 import b64decode
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import MessagesState

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.tasks import State, TaskLimits
from langgraph_rq.worker.task.redacted import Redaction
from tests.fleet import Number, ended, one_node_graph, worker


async def test_messages_are_written_as_langgraph_server_does(redis_url, client):
    async def answer(_state):
        return {"messages": [AIMessage("hello", id="2")]}

    async with worker(redis_url, {"g": one_node_graph(answer, MessagesState)}):
        task = client.submit({"messages": [{"role": "user", "content": "hi", "id": "1"}]}, graph="g")
        result = await ended(client, task.task_id)
    assert [(m["type"], m["content"], m["id"]) for m in result.result["messages"]] == [
        ("human", "hi", "1"),
        ("ai", "hello", "2"),
    ]
    assert HumanMessage(**result.result["messages"][0]).content == "hi"


@pytest.mark.parametrize("redaction", [None, Redaction(Redactor())], ids=["as it is", "masked"])
async def test_what_has_no_json_form_is_null_and_named_while_the_rest_of_the_result_stays(redis_url, client, redaction):
    async def odd(_state):
        return {"n": {"paid": b"\xff", "tools": [1, lambda: None], "text": "\ud83d", "nan": float("nan")}}

    async with worker(redis_url, {"g": one_node_graph(odd, Number)}, redaction=redaction):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert result.status is State.SUCCESS
    assert result.result == {"n": {"paid": "/w==", "tools": [1, None], "text": "?", "nan": None}}
    assert result.metadata.not_written == ["result.n.tools[1]: function"]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"task_metadata": {"colour": "red"}}, "task_metadata: colour: unknown field, known: graph, model"),
        ({"task_metadata": {"complexity": object()}}, "task_metadata: complexity: expected a valid string"),
        ({"task_metadata": ["simple"]}, "task_metadata: expected a dict"),
        ({"task_error": {"type": "sadness", "message": "no"}}, "task_error: expected {type, message}"),
        ({"task_error": "no"}, "task_error: expected {type, message}"),
    ],
    ids=["unknown key", "wrong value", "no dict", "unknown type", "no error"],
)
async def test_graph_that_says_it_wrongly_keeps_its_output(redis_url, client, told, message):
    async def tell(_state):
        return {"answer": "paid for", **told}

    class Told(TypedDict):
        answer: str
        task_metadata: Any
        task_error: Any

    async with worker(redis_url, {"g": one_node_graph(tell, Told)}):
        result = await ended(client, client.submit({"answer": ""}, graph="g").task_id)
    assert (result.error.type, result.result) == (ErrorType.GRAPH_ERROR, {"answer": "paid for"})
    assert result.error.message.startswith(message)


async def test_text_within_bytes_is_masked_before_base64_hides_it(redis_url, client):
    async def contact(_state):
        return {"n": b"write to ada@example.com"}

    async with worker(redis_url, {"g": one_node_graph(contact, Number)}, redaction=Redaction(Redactor())):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert b64decode(result.result["n"]) == b"write to [email]"


async def test_words_that_look_like_numbers_are_only_words(redis_url, client):
    async def text(_state):
        return {"n": "NaN, and Infinity"}

    async with worker(redis_url, {"g": one_node_graph(text, Number)}):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert (result.status, result.result) == (State.SUCCESS, {"n": "NaN, and Infinity"})


async def test_result_over_the_limit_is_a_named_error(redis_url, client):
    async def long(_state):
        return {"n": "x" * 5000}

    async with worker(redis_url, {"g": one_node_graph(long, Number)}, limits=TaskLimits(result_bytes=4000)):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert result.error.type is ErrorType.RESULT_TOO_LARGE
    assert "at most 4,000 bytes" in result.error.message


async def test_error_message_is_cut_to_its_limit(redis_url, client):
    async def fail(_state):
        raise ValueError("ü" * 20_000)

    async with worker(redis_url, {"g": one_node_graph(fail, Number)}):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert 7_990 < len(result.error.message.encode()) <= 8_000


async def test_graph_says_more_about_its_result_under_two_keys(redis_url, client):
    class Told(TypedDict):
        answer: str
        task_metadata: dict
        task_error: dict

    async def apologise(_state):
        return {
            "answer": "sorry",
            "task_metadata": {"complexity": "simple", "fallback_used": True},
            "task_error": {"type": "provider_unavailable", "message": "all down"},
        }

    async with worker(redis_url, {"g": one_node_graph(apologise, Told)}):
        result = await ended(client, client.submit({"answer": ""}, graph="g").task_id)
    assert (result.status, result.result) == (State.ERROR, {"answer": "sorry"})
    assert (result.error.type, result.metadata.complexity) == (ErrorType.PROVIDER_UNAVAILABLE, "simple")


@pytest.mark.parametrize(
    "told", [{"task_metadata": {"moodel": "x"}}, {"task_error": {"type": "nope", "message": ""}}, {"task_error": "no"}]
)
async def test_what_a_graph_says_wrongly_is_an_error_too(redis_url, client, told):
    class Told(TypedDict):
        n: int
        task_metadata: dict
        task_error: object

    async def tell(_state):
        return told

    async with worker(redis_url, {"g": one_node_graph(tell, Told)}):
        result = await ended(client, client.submit({"n": 1}, graph="g").task_id)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)
