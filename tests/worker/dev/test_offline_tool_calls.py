"""The offline model's choice of tools and of their arguments."""

import json

import pytest

from tests.offline_model import NOTE, TIME, WEATHER, after_a_tool, ask, body_of, call_tools, say


async def test_tool_that_the_question_is_about_is_called_with_arguments_from_it(client):
    calls = await call_tools(client, "What is the forecast in San Francisco, CA for 3 days?", [WEATHER])
    assert calls == [("get_weather", {"place": "San Francisco, CA", "days": 3})]


async def test_arguments_stay_inside_the_bounds_of_their_schema(client):
    assert await call_tools(client, "Forecast in Lima for 90 days?", [WEATHER]) == [
        ("get_weather", {"place": "Lima", "days": 7})
    ]


async def test_unrelated_question_calls_no_tool(client):
    choice = await ask(client, "Who wrote Hamlet?", tools=[WEATHER])
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


async def test_required_calls_a_tool_for_any_question(client):
    calls = await call_tools(client, "Hello!", [TIME, WEATHER], tool_choice="required")
    assert calls == [("get_time", {})]


async def test_required_goes_on_to_the_next_tool_after_the_first_has_spoken(client):
    calls = await call_tools(client, after_a_tool("sunny"), [WEATHER, TIME], tool_choice="required")
    assert calls == [("get_time", {})]


async def test_forced_tool_is_called_and_no_other(client):
    choice = {"type": "function", "function": {"name": "get_time"}}
    calls = await call_tools(client, "What is the weather?", [WEATHER, TIME], tool_choice=choice)
    assert [name for name, _ in calls] == ["get_time"]


async def test_choice_none_calls_no_tool(client):
    assert await call_tools(client, "What is the weather?", [WEATHER], tool_choice="none") == []


async def test_all_tools_that_a_question_names_are_called(client):
    calls = await call_tools(client, "Use get_time and get_weather.", [WEATHER, TIME])
    assert [name for name, _ in calls] == ["get_weather", "get_time"]


async def test_one_tool_at_a_time_without_parallel_calls(client):
    question = "Use get_time and get_weather."
    calls = await call_tools(client, question, [WEATHER, TIME], parallel_tool_calls=False)
    assert [name for name, _ in calls] == ["get_weather"]


async def test_answer_after_tools_quotes_what_they_said(client):
    text = await say(client, after_a_tool("sunny", "12 degrees"), tools=[WEATHER])
    assert "sunny" in text
    assert "12 degrees" in text


async def test_streamed_tool_call_has_the_same_arguments(client):
    stream = await client.chat.completions.create(
        **body_of("Forecast in Lima for 2 days?"), tools=[WEATHER], stream=True
    )
    calls = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function.name == "get_weather"
    arguments = "".join(call.function.arguments for call in calls)
    assert json.loads(arguments) == {"place": "Lima", "days": 2}


async def test_arguments_are_cut_at_the_token_limit(client):
    choice = await ask(client, "Forecast in Lima?", tools=[WEATHER], max_tokens=5)
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"place":'


async def test_only_allowed_tools_are_called(client):
    for mode, expected in (("auto", []), ("required", ["get_time"])):
        allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "get_time"}}]}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        calls = await call_tools(client, "What is the weather?", [WEATHER, TIME], tool_choice=choice)
        assert [name for name, _ in calls] == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_custom_tool_gets_text(client, stream):
    request = body_of("Take a note: 'buy milk'", tools=[NOTE])
    if stream:
        chunks = [chunk async for chunk in await client.chat.completions.create(**request, stream=True)]
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        assert calls[0].to_dict()["custom"]["name"] == "take_note"
        text = "".join(call.to_dict()["custom"]["input"] for call in calls)
    else:
        (call,) = (await client.chat.completions.create(**request)).choices[0].message.tool_calls
        assert (call.type, call.custom.name) == ("custom", "take_note")
        text = call.custom.input
    assert text == "buy milk"


async def test_custom_tool_is_answered_like_a_function(client):
    call = {"id": "c1", "type": "custom", "custom": {"name": "take_note", "input": "buy milk"}}
    messages = [
        {"role": "user", "content": "Take a note: 'buy milk'"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noted"},
    ]
    assert "noted" in await say(client, messages, tools=[NOTE])
