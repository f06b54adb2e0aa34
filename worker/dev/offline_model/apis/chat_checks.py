"""What OpenAI's chat completions refuse: fields, ranges, and messages that do not follow from each other."""

from collections.abc import Sequence
from typing import Any

from langgraph_rq.worker.dev.offline_model.apis.checks import (
    Range,
    array_of,
    check_choice,
    check_fields,
    check_name,
    check_ranges,
    empty_array,
    missing,
    too_long,
    tools_of,
    unknown_value,
    wrong_type,
)
from langgraph_rq.worker.dev.offline_model.apis.strict_schemas import check_strict
from langgraph_rq.worker.dev.offline_model.chat_request import AUTO, TEXT, AnswerForm, Tool, ToolChoice
from langgraph_rq.worker.dev.offline_model.errors import ApiError, Json

FIELDS = frozenset(
    (
        *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n"),
        *("parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed"),
        *("service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
        *("top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    )
)
_NOT_SERVED = frozenset(("audio", "function_call", "functions", "web_search_options"))
"""Fields of the API that this server refuses: what they ask for, it has not."""

_RANGES = {
    "frequency_penalty": Range(-2, 2),
    "max_completion_tokens": Range(1, None, is_whole=True),
    "max_tokens": Range(1, None, is_whole=True),
    "n": Range(1, 128, is_whole=True),
    "presence_penalty": Range(-2, 2),
    "temperature": Range(0, 2),
    "top_logprobs": Range(0, 20, is_whole=True),
    "top_p": Range(0, 1),
}
_STOP_LIMIT = 4
_CALL_ID_LIMIT = 40

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PARTS = {
    "assistant": ("text", "refusal"),
    "user": ("text", "image_url", "input_audio", "file"),
}
_TEXT_PARTS = ("text",)


def check_chat(body: Json) -> None:
    """Refuse what the API refuses of a request without its messages, tools and response format."""
    check_fields(body, FIELDS)
    check_ranges(body, _RANGES)
    for name in _NOT_SERVED & body.keys():
        if body[name]:
            raise ApiError(f"The offline model does not serve '{name}'.", name, "unsupported_parameter")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise ApiError(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.", "max_tokens"
        )
    if body.get("stream_options") and not body.get("stream"):
        raise _only_allowed("stream_options", "'stream' is enabled", "The 'stream_options' parameter")
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise _only_allowed("top_logprobs", "'logprobs' is enabled", "The 'top_logprobs' parameter")
    if not body.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise _only_allowed(name, "'tools' are specified", f"Invalid value for '{name}': '{name}'")


def _only_allowed(name: str, condition: str, subject: str) -> ApiError:
    return ApiError(f"{subject} is only allowed when {condition}.", name)


def messages_of(body: Json) -> list[Json]:
    """Read the messages; refuse those that the API refuses."""
    if body.get("messages") is None:
        raise missing("messages")
    messages = array_of(body, "messages")
    waiting: list[str] = []  # tool calls without an answer yet
    answered: dict[str, int] = {}
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong_type(f"messages[{i}]", "an object", message)
        role = _role_of(message, i)
        if role == "tool":
            _check_tool_message(message, i, waiting, answered)
        elif waiting:
            raise _unanswered(waiting, i)
        elif role == "assistant" and "tool_calls" in message:
            waiting, answered = _call_ids(message, i), {}
        else:
            answered = {}
        _check_content(message, role, i)
    if waiting:
        raise _unanswered(waiting, len(messages))
    return messages


def _role_of(message: Json, i: int) -> str:
    role = message.get("role")
    if role in _ROLES:
        return str(role)
    raise missing(f"messages[{i}].role") if role is None else unknown_value(f"messages[{i}].role", role, _ROLES)


def _check_tool_message(message: Json, i: int, waiting: list[str], answered: dict[str, int]) -> None:
    call_id = message.get("tool_call_id")
    if call_id is None:
        raise missing(f"messages[{i}].tool_call_id")
    if call_id in answered:
        message_text = f"in messages[{answered[call_id]}] and messages[{i}]"
        raise ApiError(
            f"Invalid parameter: Duplicate value for 'tool_call_id' of '{call_id}', {message_text}.",
            f"messages.[{i}].tool_call_id",
        )
    if not waiting and not answered:
        raise ApiError(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
            "'tool_calls'.",
            f"messages.[{i}].role",
        )
    if call_id not in waiting:
        raise ApiError(
            f"Invalid parameter: 'tool_call_id' of '{call_id}' not found in 'tool_calls' of previous message.",
            f"messages.[{i}].tool_call_id",
        )
    waiting.remove(call_id)
    answered[call_id] = i


def _unanswered(waiting: Sequence[str], i: int) -> ApiError:
    return ApiError(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(waiting)}",
        f"messages.[{i}].role",
    )


def _call_ids(message: Json, i: int) -> list[str]:
    calls = message["tool_calls"]
    if calls is None:
        return []
    if not calls:
        raise empty_array(f"messages[{i}].tool_calls")
    for k, call in enumerate(calls):
        place = f"messages[{i}].tool_calls[{k}]"
        if call.get("id") is None:
            raise missing(f"{place}.id")
        if len(call["id"]) > _CALL_ID_LIMIT:
            raise too_long(f"{place}.id", "string", _CALL_ID_LIMIT, len(call["id"]))
        if call.get("type") not in {"function", "custom"}:
            raise unknown_value(f"{place}.type", call.get("type"), ("function", "custom"))
        if not isinstance(call[call["type"]]["input" if call["type"] == "custom" else "arguments"], str):
            raise wrong_type(f"{place}.function.arguments", "a string", call[call["type"]].get("arguments"))
    return [call["id"] for call in calls]


def _check_content(message: Json, role: str, i: int) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if role != "assistant" or not (message.get("tool_calls") or message.get("refusal")):
            raise ApiError("Invalid value for 'content': expected a string, got null.", f"messages.[{i}].content")
        return
    if not isinstance(content, list):
        raise wrong_type(f"messages[{i}].content", "one of a string or array of objects", content)
    if not content:
        raise empty_array(f"messages[{i}].content")
    supported = _PARTS.get(role, _TEXT_PARTS)
    for k, part in enumerate(content):
        place = f"messages[{i}].content[{k}]"
        if not isinstance(part, dict):
            raise wrong_type(place, "an object", part)
        if part.get("type") not in supported:
            raise unknown_value(f"{place}.type", part.get("type"), supported)
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise (
                missing(f"{place}.text")
                if part.get("text") is None
                else wrong_type(f"{place}.text", "a string", part["text"])
            )


def chat_tools(body: Json) -> list[Tool]:
    """Read the tools; refuse those that the API refuses."""
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))]


def _tool(tool: Any, place: str) -> Tool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in {"function", "custom"}:
        raise unknown_value(f"{place}.type", kind, ("function", "custom"))
    about = tool.get(kind)
    if about is None:
        raise missing(f"{place}.{kind}")
    return tool_of(about, f"{place}.{kind}", is_custom=kind == "custom")


def tool_of(about: Json, place: str, *, is_custom: bool) -> Tool:
    """Read a function or a custom tool."""
    name = check_name(f"{place}.name", about.get("name"))
    description = about.get("description") or ""
    if is_custom:
        return Tool(name, description, {}, is_custom=True)
    parameters = about.get("parameters") or {"type": "object", "properties": {}}
    if parameters.get("type") != "object":
        kind = parameters.get("type")
        raise ApiError(
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got 'type: \"{kind}\"'.",
            f"{place}.parameters",
            "invalid_function_parameters",
        )
    if about.get("strict"):
        check_strict(parameters, f"function '{name}'", f"{place}.parameters", "invalid_function_parameters")
    return Tool(name, description, parameters)


def chat_choice(body: Json, tools: Sequence[Tool]) -> ToolChoice:
    """Read which tools may be called; refuse a choice that the API refuses."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return plain_choice(choice)
    kind = choice.get("type")
    if kind == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = [one[one["type"]]["name"] for one in allowed["tools"]]
        return ToolChoice(mode_of(allowed, "tool_choice.allowed_tools.mode"), check_choice(names, tools))
    if kind not in {"function", "custom"}:
        raise unknown_value("tool_choice.type", kind, ("function", "allowed_tools", "custom"))
    return ToolChoice("required", check_choice([choice[kind]["name"]], tools))


def plain_choice(choice: Any) -> ToolChoice:
    """Read a choice that names no tools."""
    if choice not in {None, "none", "auto", "required"}:
        raise unknown_value("tool_choice", choice, ("none", "auto", "required"))
    return ToolChoice(choice) if choice else AUTO


def mode_of(allowed: Json, place: str) -> str:
    """Read the mode of `allowed_tools`."""
    if allowed.get("mode") not in {"auto", "required"}:
        raise unknown_value(place, allowed.get("mode"), ("auto", "required"))
    return str(allowed["mode"])


def chat_form(body: Json, messages: Sequence[Json]) -> AnswerForm:
    """Read the response format; refuse one that the API refuses."""
    wanted = body.get("response_format")
    if wanted is None:
        return TEXT
    schema = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and schema is None:
        raise missing("response_format.json_schema")
    return form_of(wanted.get("type"), schema or {}, messages, "response_format", "'messages'")


def form_of(kind: Any, schema: Json, messages: Sequence[Json], place: str, source: str) -> AnswerForm:
    """Read the form of the answer.

    Args:
        kind: text, json_object or json_schema.
        schema: With name, schema and strict.
        messages: One of them must contain "json" for json_object.
        place: The field, for errors.
        source: What the API calls the messages, for errors.
    """
    if kind == "text":
        return TEXT
    if kind == "json_object":
        if "json" not in str(messages).lower():
            raise ApiError(
                f"{source} must contain the word 'json' in some form, to use '{place}' of type 'json_object'.",
                source.split("'")[1],
            )
        return AnswerForm(is_json=True)
    if kind != "json_schema":
        raise unknown_value(f"{place}.type", kind, ("json_object", "json_schema", "text"))
    inner = f"{place}.json_schema" if place == "response_format" else place
    name = check_name(f"{inner}.name", schema.get("name"))
    if schema.get("strict"):
        check_strict(schema.get("schema"), f"response_format '{name}'", place, None)
    return AnswerForm(is_json=True, schema=schema.get("schema") or {})


def stop_words(body: Json) -> Sequence[str]:
    """Read the stop words; refuse more than four."""
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop or []
    if len(words) > _STOP_LIMIT:
        raise too_long("stop", "array", _STOP_LIMIT, len(words))
    return words
