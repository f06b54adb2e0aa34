"""The items of OpenAI's /v1/responses as messages, and what that API refuses."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from langgraph_rq.worker.dev.offline_model.apis.chat_checks import form_of, mode_of, plain_choice, tool_of
from langgraph_rq.worker.dev.offline_model.apis.checks import (
    Range,
    array_of,
    check_choice,
    check_fields,
    check_ranges,
    missing,
    too_long,
    tools_of,
    unknown_value,
    wrong_type,
)
from langgraph_rq.worker.dev.offline_model.chat_request import TEXT, AnswerForm, Tool, ToolChoice
from langgraph_rq.worker.dev.offline_model.errors import ApiError, Json

FIELDS = frozenset(
    (
        *("access_programs", "background", "background_options", "context_management", "conversation", "image"),
        *("include", "input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model"),
        *("moderation", "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier"),
        *("store", "stream", "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs"),
        *("top_p", "truncation", "user"),
    )
)
_MOVED = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
"""Fields of chat completions -> what the API calls them."""

_NOT_SERVED = frozenset(("background", "context_management", "conversation", "image", "prompt", "top_logprobs"))
"""Fields of the API that this server refuses: what they ask for, it has not."""

_RANGES = {
    "max_output_tokens": Range(16, None, is_whole=True),
    "max_tool_calls": Range(1, None, is_whole=True),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1),
}
_ROLES = ("assistant", "system", "developer", "user")
_PARTS = {"assistant": ("output_text", "refusal")}
_INPUT_PARTS = ("input_text", "input_image", "input_file")
_CALL_ID_LIMIT = 64
_CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_ITEMS = ("message", "reasoning", *_CALLS, *_CALLS.values())
_NOT_REASONING = ("gpt-3", "gpt-4", "chatgpt-4")
"""Models that take no `reasoning`."""


class StoredResponses:
    """The conversations behind the latest responses, for `previous_response_id`."""

    CAPACITY = 1_000

    def __init__(self) -> None:
        self._messages: OrderedDict[str, Sequence[Json]] = OrderedDict()

    def keep(self, response_id: str, messages: Sequence[Json]) -> None:
        """Keep a conversation; forget the oldest one."""
        self._messages[response_id] = messages
        if len(self._messages) > self.CAPACITY:
            self._messages.popitem(last=False)

    def find(self, response_id: str) -> Sequence[Json]:
        """Return a conversation; refuse one that was not kept."""
        if response_id not in self._messages:
            message = f"Previous response with id '{response_id}' not found."
            raise ApiError(message, "previous_response_id", "previous_response_not_found")
        return self._messages[response_id]


def check_response(body: Json) -> None:
    """Refuse what the API refuses of a request without its input and tools."""
    for name, place in _MOVED.items():
        if name in body:
            message = f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{place}'."
            raise ApiError(f"{message} Try again with the new parameter.", name, "unsupported_parameter")
    check_fields(body, FIELDS)
    for name in _NOT_SERVED:
        if body.get(name):
            raise ApiError(f"The offline model does not serve '{name}'.", name, "unsupported_parameter")
    check_ranges(body, _RANGES)
    if body.get("reasoning") and str(body["model"]).startswith(_NOT_REASONING):
        message = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
        raise ApiError(message, "reasoning.effort", "unsupported_parameter")


def messages_of(body: Json, stored: StoredResponses) -> list[Json]:
    """Read the conversation: what the previous response ended with, and the input."""
    previous = body.get("previous_response_id")
    messages = list(stored.find(previous)) if previous else []
    given = body.get("input")
    if given is None:
        raise missing("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else array_of(body, "input")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise wrong_type(f"input[{i}]", "an object", item)
        _add(messages, item, items[i + 1 :], f"input[{i}]")
    _check_calls(messages)
    return messages


def _add(messages: list[Json], item: Json, following: Sequence[Json], place: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(_message(item, place))
    elif kind in _CALLS:
        _add_call(messages, item, place)
    elif kind in _CALLS.values():
        if item.get("output") is None:
            raise missing(f"{place}.output")
        messages.append({"role": "tool", "tool_call_id": _call_id(item, place), "content": item["output"]})
    elif kind != "reasoning":
        raise unknown_value(f"{place}.type", kind, _ITEMS)
    elif not following or following[0].get("role", "assistant") != "assistant" or _is_output(following[0]):
        name = item.get("id")
        raise ApiError(f"Item '{name}' of type 'reasoning' was provided without its required following item.", "input")


def _is_output(item: Json) -> bool:
    return item.get("type") in _CALLS.values()


def _message(item: Json, place: str) -> Json:
    role = item.get("role")
    if role not in _ROLES:
        raise missing(f"{place}.role") if role is None else unknown_value(f"{place}.role", role, _ROLES)
    content = item.get("content")
    if content is None:
        raise missing(f"{place}.content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise wrong_type(f"{place}.content", "one of an array of objects or string", content)
    supported = _PARTS.get(role, _INPUT_PARTS)
    for k, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in supported:
            kind = part.get("type") if isinstance(part, dict) else part
            raise unknown_value(f"{place}.content[{k}].type", kind, supported)
    return {"role": role, "content": content}


def _call_id(item: Json, place: str) -> str:
    call_id = item.get("call_id")
    if not isinstance(call_id, str):
        raise missing(f"{place}.call_id")
    if len(call_id) > _CALL_ID_LIMIT:
        raise too_long(f"{place}.call_id", "string", _CALL_ID_LIMIT, len(call_id))
    return call_id


def _add_call(messages: list[Json], item: Json, place: str) -> None:
    """Add a tool call to the model's last message: the API has an item for each."""
    field = "arguments" if item["type"] == "function_call" else "input"
    for name in ("name", field):
        if not isinstance(item.get(name), str):
            raise missing(f"{place}.{name}")
    kind = "function" if field == "arguments" else "custom"
    call = {"id": _call_id(item, place), "type": kind, kind: {"name": item["name"], field: item[field]}}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    # A copy: the message may belong to a stored response.
    messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}


def _check_calls(messages: Sequence[Json]) -> None:
    """Refuse outputs of calls that were not made, and calls without an output."""
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    outputs = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    for call_id in outputs:
        if call_id not in calls:
            raise ApiError(f"No tool call found for function call output with call_id {call_id}.", "input")
    for call_id in calls:
        if call_id not in outputs:
            raise ApiError(f"No tool output found for function call {call_id}.", "input")


def response_tools(body: Json) -> list[Tool]:
    """Read the tools; those that OpenAI runs itself are refused."""
    tools = []
    for i, tool in enumerate(tools_of(body)):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in {"function", "custom"}:
            raise unknown_value(f"tools[{i}].type", kind, ("function", "custom"))
        tools.append(tool_of(tool, f"tools[{i}]", is_custom=kind == "custom"))
    return tools


def response_choice(body: Json, tools: Sequence[Tool]) -> ToolChoice:
    """Read which tools may be called."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return plain_choice(choice)
    kind = choice.get("type")
    if kind == "allowed_tools":
        names = [one["name"] for one in choice["tools"]]
        return ToolChoice(mode_of(choice, "tool_choice.mode"), check_choice(names, tools))
    if kind not in {"function", "custom"}:
        raise unknown_value("tool_choice.type", kind, ("function", "allowed_tools", "custom"))
    return ToolChoice("required", check_choice([choice["name"]], tools))


def response_form(body: Json, messages: Sequence[Json]) -> AnswerForm:
    """Read the form of the answer."""
    wanted: Any = (body.get("text") or {}).get("format")
    if wanted is None:
        return TEXT
    return form_of(wanted.get("type"), wanted, messages, "text.format", "'input' messages")
