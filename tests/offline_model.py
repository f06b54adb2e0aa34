"""Requests to the offline model server, for the tests of the server itself."""

import json

import httpx

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the forecast for a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["place", "days"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "Tell the hour."}}
NOTE = {"type": "custom", "custom": {"name": "take_note", "description": "Take a note."}}
KEY = {"authorization": "Bearer secret-key"}
CLASSIFY = "Classify the question. Answer with one word: simple, medium or complex."


async def ask(client, question, **options):
    messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
    completion = await client.chat.completions.create(model="gpt-4o", messages=messages, **options)
    return completion.choices[0]


async def say(client, question, **options):
    return (await ask(client, question, **options)).message.content


async def call_tools(client, question, tools, **options):
    calls = (await ask(client, question, tools=tools, **options)).message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def after_a_tool(*outputs):
    ids = [f"c{i}" for i in range(len(outputs))]
    function = {"name": "get_weather", "arguments": "{}"}
    calls = [{"id": one, "type": "function", "function": function} for one in ids]
    return [
        {"role": "user", "content": "What is the weather in Lima?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": one, "content": output} for one, output in zip(ids, outputs, strict=True)),
    ]


def post(server, path="chat/completions", *, fault=None, timeout=20, headers=KEY, **body):
    """Send one request past the client, so that a test sees raw replies and connections."""
    sent = {**headers, **({"x-fault": fault} if fault else {})}
    return httpx.post(f"{server.url}/{path}", headers=sent, timeout=timeout, verify=False, **body)


def until_idle(server):
    """Wait until the server has seen the end of every call; the test's timeout bounds it."""
    while server.admin.stats()["in_flight"]:
        pass
    return server.admin.calls()


def body_of(question="Why?", **options):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": question}], **options}
