"""The most tokens that a model call can read, known before it is made.

No tokenizer makes more tokens than its text has UTF-8 bytes, so bytes bound tokens for any model, without its tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel
from pydantic_core import to_json

MESSAGE_TOKENS = 16
"""What a provider adds around each message (role, separators)."""
MEDIA_TOKENS = 3_000
"""For an image or file that is only named by its address; the providers' own limits for one are below."""
CALL_TOKENS = 32

LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""How models call their output limit."""

_SENT_ALONG = ("tools", "functions", "response_format", "tool_choice")


def input_bound(messages: Sequence[BaseMessage], parameters: Mapping[str, Any]) -> int:
    """Bound the tokens of `messages` and of what is sent along with them (tools, schemas).

    Args:
        messages: The prompt.
        parameters: The call's other parameters, by OpenAI's names.
    """
    along = sum(len(_json(parameters[name])) for name in _SENT_ALONG if parameters.get(name))
    return CALL_TOKENS + along + sum(_message_bound(message) for message in messages)


def text_bound(texts: Sequence[str]) -> int:
    """Bound the tokens of plain texts."""
    return CALL_TOKENS + sum(len(text.encode(errors="replace")) for text in texts)


def output_limit(parameters: Mapping[str, Any]) -> int | None:
    """Read the output limit of a call's parameters; None: it has none."""
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
    """Show a schema that is given as a class as the JSON that is sent for it."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    return repr(value)
