"""Unchanged ChatOpenAI models ask for the usage of their streams, and no call fails by it."""

import asyncio

import pytest
from langchain_openai.chat_models.base import BaseChatOpenAI

from langgraph_rq.worker.calls import stream_usage
from langgraph_rq.worker.calls.stream_usage import ask_for_usage

QUESTION = "What is 2 + 2?"


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    for name in ("_stream", "_astream"):
        monkeypatch.setattr(BaseChatOpenAI, name, getattr(BaseChatOpenAI, name))
    monkeypatch.setattr(stream_usage, "_rejecting", set())
    ask_for_usage()
    ask_for_usage()  # as a second context in one process does


async def astream(model, **parameters):
    return [chunk async for chunk in model.astream(QUESTION, **parameters)]


async def stream(model, **parameters):
    return await asyncio.to_thread(lambda: list(model.stream(QUESTION, **parameters)))


WAYS = pytest.mark.parametrize("call", [astream, stream])


def said(chunks):
    return "".join(chunk.text for chunk in chunks)


def usage(chunks):
    return [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]


@WAYS
async def test_stream_of_a_model_that_says_nothing_about_usage_reports_it(call, llm, chat):
    chunks = await call(chat(stream_usage=None))
    assert "You asked" in said(chunks)
    assert len(usage(chunks)) == 1
    assert len(llm.calls()) == 1


@WAYS
@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"stream_usage": False}, {}),
        ({"stream_usage": None}, {"stream_usage": False}),
        ({"stream_usage": None}, {"stream_options": {"include_usage": False}}),
        ({"stream_usage": None, "model_kwargs": {"stream_options": {"include_usage": False}}}, {}),
    ],
)
async def test_graph_that_wants_no_usage_gets_none(fields, parameters, call, llm, chat):
    chunks = await call(chat(**fields), **parameters)
    assert "You asked" in said(chunks)
    assert usage(chunks) == []


@WAYS
async def test_endpoint_that_rejects_the_option_is_called_without_it_from_then_on(call, llm, chat):
    llm.set_faults([{"fault": "context_length", "times": 1}])  # a 400, as for an option that is not known
    model = chat(stream_usage=None)
    chunks = await call(model)
    assert "You asked" in said(chunks)
    assert usage(chunks) == []
    assert len(llm.calls()) == 2
    assert usage(await call(model)) == []
    assert len(llm.calls()) == 3


@WAYS
async def test_request_that_is_wrong_in_itself_fails_as_without_the_option(call, llm, chat):
    llm.set_faults([{"fault": "context_length"}])
    model = chat(stream_usage=None)
    with pytest.raises(Exception, match="maximum context length"):
        await call(model)
    llm.set_faults([])
    assert len(usage(await call(model))) == 1


@WAYS
async def test_other_failures_are_not_tried_again(call, llm, chat):
    llm.set_faults([{"fault": "500"}])
    with pytest.raises(Exception, match="500"):
        await call(chat(stream_usage=None))
    assert len(llm.calls()) == 1


async def test_stream_that_is_broken_off_closes_its_connection(llm, chat):
    async for _chunk in chat(stream_usage=None).astream(QUESTION):
        break
    assert len(llm.calls()) == 1
