"""The blocks of Anthropic's /v1/messages as messages in OpenAI's form, and what that API refuses."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.apis.checks import NAME_CHARACTERS
from langgraph_rq.worker.dev.offline_model.chat_request import AUTO, TEXT, AnswerForm, Tool, ToolChoice
from langgraph_rq.worker.dev.offline_model.errors import ApiError, Json

FIELDS = frozenset(
    (
        *("cache_control", "container", "context_management", "diagnostics", "inference_geo", "max_tokens"),
        *("mcp_servers", "messages", "metadata", "model", "output_config", "output_format", "service_tier", "speed"),
        *("stop_sequences", "stream", "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p"),
        *("user_profile_id", "workspace_id"),
    )
)
_NOT_SERVED = frozenset(("container", "context_management", "mcp_servers"))
"""Fields of the API that this server refuses: what they ask for, it has not."""

_BLOCKS = {
    "user": ("text", "image", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}
_CACHE_POINTS = 4
_LEAST_THINKING = 1_024
_NAME_LIMIT = 128


def check_message(body: Json, *, is_count: bool) -> None:
    """Refuse what the API refuses of a request without its messages and tools; `is_count`: it only counts tokens."""
    unknown = body.keys() - FIELDS
    if unknown:
        raise ApiError(f"{min(unknown)}: Extra inputs are not permitted")
    for name in _NOT_SERVED:
        if body.get(name):
            raise ApiError(f"{name}: the offline model does not serve it")
    for name in ("messages", "model") if is_count else ("max_tokens", "messages", "model"):
        if body.get(name) is None:
            raise ApiError(f"{name}: Field required")
    if not isinstance(body["model"], str) or not body["model"]:
        raise ApiError("model: String should have at least 1 character")
    _check_numbers(body)
    _check_thinking(body, is_count=is_count)
    if body.get("tool_choice") and not body.get("tools"):
        raise ApiError("tool_choice: may only be specified while providing tools")


def _check_numbers(body: Json) -> None:
    limit = body.get("max_tokens")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise ApiError("max_tokens: Input should be a valid integer")
    if limit is not None and limit < 1:
        raise ApiError("max_tokens: must be greater than or equal to 1")
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ApiError(f"{name}: Input should be a valid number")
        if value is not None and not 0 <= value <= 1:
            raise ApiError(f"{name}: range: 0..1")


def _check_thinking(body: Json, *, is_count: bool) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    kind: Any = thinking.get("type")
    if kind not in {"enabled", "adaptive", "disabled"}:
        raise ApiError(
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            "'adaptive', 'disabled', 'enabled'"
        )
    if kind == "disabled":
        return
    budget: Any = thinking.get("budget_tokens")
    if kind == "enabled" and budget is None:
        raise ApiError("thinking.enabled.budget_tokens: Field required")
    if kind == "enabled" and budget < _LEAST_THINKING:
        raise ApiError(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_THINKING}")
    if kind == "enabled" and not is_count and budget >= body["max_tokens"]:
        raise ApiError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature") not in {None, 1}:
        raise ApiError("`temperature` may only be set to 1 when thinking is enabled.")
    if (body.get("tool_choice") or {}).get("type") in {"any", "tool"}:
        raise ApiError("Thinking may not be enabled when tool_choice forces tool use.")


def system_of(body: Json) -> list[Json]:
    """Read the system prompt: a text, or text blocks."""
    system = body.get("system")
    if not system:
        return []
    if not isinstance(system, str):
        for i, block in enumerate(system):
            if block.get("type") != "text":
                raise _unknown_block(f"system.{i}", block, ("text",))
    return [{"role": "system", "content": system}]


def messages_of(body: Json) -> list[Json]:
    """Read the messages in OpenAI's form; refuse those that the API refuses."""
    given = body["messages"]
    if not isinstance(given, list):
        raise ApiError("messages: Input should be a valid list")
    if not given:
        raise ApiError("messages: at least one message is required")
    _check_roles(given)
    messages: list[Json] = []
    waiting: list[str] = []  # tools that were called, without a result yet
    for i, message in enumerate(given):
        is_last = i == len(given) - 1
        blocks = _blocks_of(message, i, is_last=is_last and message["role"] == "assistant")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        missing = [one for one in waiting if one not in results]
        if missing:
            raise _without_result(i - 1, missing)
        for k, block in enumerate(blocks):
            if block["type"] == "tool_result" and block["tool_use_id"] not in waiting:
                raise ApiError(
                    f"messages.{i}.content.{k}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{block['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` block in "
                    "the previous message."
                )
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        messages += _as_messages(message["role"], blocks)
    if waiting:
        raise _without_result(len(given) - 1, waiting)
    return messages


def _without_result(i: int, ids: Sequence[str]) -> ApiError:
    return ApiError(
        f"messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(ids)}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _check_roles(messages: Sequence[Any]) -> None:
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system":
            raise ApiError(
                'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
                '"system" as an input message role.'
            )
        if role not in _BLOCKS:
            raise ApiError(f"messages.{i}.role: Input should be 'user' or 'assistant'")
    if messages[0]["role"] != "user":
        raise ApiError('messages: first message must use the "user" role')


def _blocks_of(message: Json, i: int, *, is_last: bool) -> list[Json]:
    """Read a message's blocks; `is_last`: it begins the model's answer, and may be empty."""
    content = message.get("content")
    if content is None:
        raise ApiError(f"messages.{i}.content: Field required")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not content and not is_last:
        raise ApiError(
            f"messages.{i}: all messages must have non-empty content except for the optional final assistant message"
        )
    for k, block in enumerate(content):
        if block.get("type") not in _BLOCKS[message["role"]]:
            raise _unknown_block(f"messages.{i}.content.{k}", block, _BLOCKS[message["role"]])
        if block["type"] == "text" and not block["text"].strip():
            raise ApiError("messages: text content blocks must contain non-whitespace text")
    if is_last and content and content[-1]["type"] == "text" and content[-1]["text"] != content[-1]["text"].rstrip():
        raise ApiError("messages: final assistant content cannot end with trailing whitespace")
    return content


def _unknown_block(place: str, block: Json, expected: Sequence[str]) -> ApiError:
    tags = ", ".join(f"'{one}'" for one in expected)
    return ApiError(
        f"{place}: Input tag '{block.get('type')}' found using 'type' does not match any of the expected tags: {tags}"
    )


def _as_messages(role: str, blocks: Sequence[Json]) -> list[Json]:
    """Give a message's blocks as messages: tool results come before what the user says beside them."""
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block.get("content") or ""}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    content = [block for block in blocks if block["type"] not in {"tool_result", "tool_use"}]
    calls = [_as_call(block) for block in blocks if block["type"] == "tool_use"]
    said = {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}
    return [*results, said] if content or calls or not results else results


def _as_call(block: Json) -> Json:
    arguments = to_json(block["input"]).decode()
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def message_tools(body: Json) -> list[Tool]:
    """Read the tools; those that Anthropic runs itself are refused."""
    return [_tool(tool, i) for i, tool in enumerate(body.get("tools") or ())]


def _tool(tool: Json, i: int) -> Tool:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise ApiError(f"tools.{i}: the offline model has no tool of type '{kind}', only 'custom'")
    name, schema = tool.get("name"), tool.get("input_schema")
    if name is None or schema is None:
        raise ApiError(f"tools.{i}.custom.{'name' if name is None else 'input_schema'}: Field required")
    if not 0 < len(name) <= _NAME_LIMIT or not NAME_CHARACTERS.issuperset(name):
        raise ApiError(f"tools.{i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,{_NAME_LIMIT}}}$'")
    if schema.get("type") != "object":
        raise ApiError(f"tools.{i}.custom.input_schema.type: Input should be 'object'")
    return Tool(name, tool.get("description") or "", schema)


def message_choice(body: Json, tools: Sequence[Tool]) -> ToolChoice:
    """Read which tools may be called."""
    choice = body.get("tool_choice")
    if not choice:
        return AUTO
    kind = choice.get("type")
    if kind == "tool":
        if choice.get("name") not in {tool.name for tool in tools}:
            raise ApiError(f"Tool '{choice.get('name')}' not found in provided tools")
        return ToolChoice("required", frozenset((choice["name"],)))
    if kind not in {"auto", "any", "none"}:
        raise ApiError(
            f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            "'any', 'auto', 'none', 'tool'"
        )
    return ToolChoice("required" if kind == "any" else kind)


def message_form(body: Json) -> AnswerForm:
    """Read the form of the answer."""
    wanted: Json | None = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if not wanted:
        return TEXT
    if wanted.get("type") != "json_schema":
        raise ApiError("output_config.format.type: Input should be 'json_schema'")
    return AnswerForm(is_json=True, schema=wanted["schema"])


def check_cache_points(points: int) -> None:
    """Refuse more marks of the prompt cache than the API takes."""
    if points > _CACHE_POINTS:
        raise ApiError(f"A maximum of {_CACHE_POINTS} blocks with cache_control may be provided. Found {points}.")
