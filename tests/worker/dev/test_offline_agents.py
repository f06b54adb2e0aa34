"""What graphs do with a model, over each of the offline server's APIs and with the clients that graphs use."""

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

QUESTION = {"messages": [("user", "What is the weather in Lima for 3 days?")]}


class Trip(BaseModel):
    """A trip."""

    place: str
    days: int


@tool
def get_weather(place: str) -> str:
    """Look up the forecast for a place."""
    return f"sunny in {place}"


def chat_completions(server, **options):
    given = {"model": "gpt-4o", "stream_usage": True, **options}
    return ChatOpenAI(base_url=server.url, api_key="k", max_retries=0, **given)


def responses(server, **options):
    return chat_completions(server, use_responses_api=True, **options)


def messages_api(server, **options):
    return ChatAnthropic(model="claude-opus-4-8", base_url=server.anthropic_url, api_key="k", max_retries=0, **options)


@pytest.fixture(params=[chat_completions, responses, messages_api], ids=lambda make: make.__name__)
def model(request, server):
    return request.param(server)


def test_agent_calls_its_tool_and_answers(model, server):
    said = create_agent(model, [get_weather]).invoke(QUESTION)
    assert [message.type for message in said["messages"]] == ["human", "ai", "tool", "ai"]
    assert "sunny in Lima" in said["messages"][-1].text
    assert len(server.admin.calls()) == 2


def test_agent_with_a_response_format_fills_it(model):
    said = create_agent(model, [get_weather], response_format=Trip).invoke(QUESTION)
    assert said["structured_response"] == Trip(place="Lima", days=1)


def test_agent_streams_its_tokens(model):
    agent = create_agent(model, [get_weather])
    chunks = [chunk for chunk, _ in agent.stream(QUESTION, stream_mode="messages")]
    pieces = [chunk.text for chunk in chunks if chunk.type == "AIMessageChunk" and chunk.text]
    assert len(pieces) > 5
    assert "sunny in Lima" in "".join(pieces)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_fits_its_class(model, method):
    trip = model.with_structured_output(Trip, method=method).invoke("Go to Lima for 3 days.")
    assert trip == Trip(place="Lima", days=3)


def test_usage_is_the_same_invoked_and_streamed_and_as_the_server_bills(model, server):
    invoked = (model.invoke("Why?")).usage_metadata
    first, *rest = model.stream("Why?")
    streamed = sum(rest, start=first)
    for name in ("input_tokens", "output_tokens"):
        assert streamed.usage_metadata[name] == invoked[name]
        assert [call[name] for call in server.admin.calls()] == [invoked[name]] * 2


def test_history_with_an_unanswered_call_fails_as_it_would_in_production(model):
    bound = model.bind_tools([get_weather])
    history = [HumanMessage("What is the weather in Lima?")]
    history.append(bound.invoke(history))
    with pytest.raises(Exception, match=r"must be followed by tool|No tool output found|without `tool_result`"):
        bound.invoke([*history, HumanMessage("Well?")])


def test_tool_message_without_its_call_fails_as_it_would_in_production(model):
    orphan = ToolMessage("sunny", tool_call_id="c1")
    with pytest.raises(Exception, match=r"must be a response to|No tool call found|unexpected `tool_use_id`"):
        model.invoke([HumanMessage("Why?"), orphan])


@pytest.mark.parametrize(
    "make",
    [
        lambda server: responses(server, model="gpt-5", reasoning={"effort": "low", "summary": "auto"}),
        lambda server: messages_api(server, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2000}),
    ],
    ids=["responses", "messages_api"],
)
def test_reasoning_goes_through_an_agent_and_is_counted(make, server):
    agent = create_agent(make(server), [get_weather])
    said = agent.invoke(QUESTION)
    assert "sunny in Lima" in said["messages"][-1].text
    for message in said["messages"][1::2]:
        details = message.usage_metadata["output_token_details"]
        assert 0 < details["reasoning"] < message.usage_metadata["output_tokens"]


def test_model_may_change_in_the_middle_of_a_conversation(server):
    history = [HumanMessage("What is the weather in Lima?")]
    for make in (chat_completions, responses, messages_api, chat_completions):
        said = create_agent(make(server), [get_weather]).invoke({"messages": history})
        history = [*said["messages"], HumanMessage("And what is the weather in Rome?")]
    assert sum(message.type == "tool" for message in history) == 4
