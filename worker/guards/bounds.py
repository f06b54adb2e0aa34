"""Upper bounds on the tokens of a model call, computed before it is made.

A tokenizer never produces more tokens than its text has UTF-8 bytes, so the byte count is a bound for every model, and
no model's vocabulary is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel
from pydantic_core import to_json

MESSAGE_TOKENS = 16
"""What a provider adds to each message: role and separators."""
MEDIA_TOKENS = 3_000
"""For an image or file given by its URL; the providers' own limits per image are lower."""
CALL_TOKENS = 32
"""What a provider adds to each call."""

LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""The names under which integrations take the output limit."""

_SCHEMAS = ("tools", "functions", "response_format", "tool_choice")


def input_bound(messages: Sequence[BaseMessage], parameters: Mapping[str, Any]) -> int:
    """Bound the input tokens of a call: its messages, tools and schemas.

    Args:
        messages: The prompt.
        parameters: The call's other parameters, by OpenAI's names.
    """
    schemas = sum(len(_json(parameters[name])) for name in _SCHEMAS if parameters.get(name))
    return CALL_TOKENS + schemas + sum(_message_bound(message) for message in messages)


def text_bound(texts: Sequence[str]) -> int:
    """Bound the tokens of plain texts."""
    return CALL_TOKENS + sum(len(text.encode(errors="replace")) for text in texts)


def output_limit(parameters: Mapping[str, Any]) -> int | None:
    """Return the output limit among a call's parameters; None: it has none."""
    return next((parameters[name] for name in LIMIT_NAMES if isinstance(parameters.get(name), int)), None)


def _message_bound(message: BaseMessage) -> int:
    content = message.content
    bound = MESSAGE_TOKENS + len((message.name or "").encode(errors="replace"))
    if isinstance(content, str):
        bound += len(content.encode(errors="replace"))
    else:
        bound += sum(_block_bound(block) for block in content)
    if isinstance(message, AIMessage) and message.tool_calls:
        bound += len(_json(message.tool_calls))
    if message.additional_kwargs:
        bound += len(_json(message.additional_kwargs))
    return bound


def _block_bound(block: str | Mapping[str, Any]) -> int:
    if isinstance(block, str):
        return len(block.encode(errors="replace"))
    return len(_json(block)) + (0 if block.get("type") == "text" else MEDIA_TOKENS)


def _json(value: Any) -> bytes:
    return to_json(value, fallback=_schema, inf_nan_mode="strings")


def _schema(value: Any) -> Any:
    """Return the JSON schema that is sent for a Pydantic class."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    return repr(value)
