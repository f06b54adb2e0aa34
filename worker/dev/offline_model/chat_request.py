"""A chat request in the one form that all APIs are read into, and that `answers` answers.

Messages have the form of OpenAI's chat completions. A token is 4 bytes of UTF-8, rounded up. The input is the text of
all messages, joined by newlines, plus the compact JSON of the tools and of the answer's schema. Images and audio are
ignored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.errors import Json

BYTES_PER_TOKEN = 4


class Tool(NamedTuple):
    """A tool: a function, whose arguments are JSON by the schema `parameters`, or a custom tool, which takes text."""

    name: str
    description: str
    parameters: Json
    is_custom: bool = False


class ToolChoice(NamedTuple):
    """Whether tools may be called: `mode` is auto, none or required; `allowed` names those that may. None: all."""

    mode: str = "auto"
    allowed: frozenset[str] | None = None


class AnswerForm(NamedTuple):
    """The form of the answer: JSON by `schema`, JSON of any kind (None), or text."""

    is_json: bool = False
    schema: Json | None = None


AUTO = ToolChoice()
TEXT = AnswerForm()


@dataclass(slots=True)
class ChatRequest:
    """A validated request.

    Args:
        prompt: The text of all messages.
        limit_tokens: The output limit. None: no limit.
    """

    model: str
    messages: Sequence[Json]
    prompt: str
    input_tokens: int
    stream: bool
    limit_tokens: int | None
    tools: Sequence[Tool] = ()
    choice: ToolChoice = AUTO
    is_parallel: bool = True
    form: AnswerForm = TEXT
    stop: Sequence[str] = ()

    @classmethod
    def measured(cls, model: str, messages: Sequence[Json], schemas: Sequence[Any], **parts: Any) -> Self:
        """Make a request; its input is counted from `messages` and `schemas`, the tools and schemas as they came."""
        prompt = "\n".join(map(text_of, messages))
        schema_bytes = sum(len(to_json(schema)) for schema in schemas if schema)
        input_tokens = tokens_of(len(prompt.encode()) + schema_bytes)
        return cls(model=model, messages=messages, prompt=prompt, input_tokens=input_tokens, **parts)

    def after(self, thinking: str) -> Self:
        """Return the same request with as much less room for the answer as the thinking has taken."""
        if not thinking or self.limit_tokens is None:
            return self
        return replace(self, limit_tokens=max(1, self.limit_tokens - tokens(thinking)))

    @property
    def question(self) -> str:
        """The text of the last message from the user."""
        return next((text_of(one) for one in reversed(self.messages) if one.get("role") == "user"), "")

    @property
    def called_tools(self) -> set[str]:
        """The names of the tools called since the user's last message."""
        latest = max((i for i, one in enumerate(self.messages) if one.get("role") == "user"), default=-1)
        calls = (call for one in self.messages[latest + 1 :] for call in one.get("tool_calls") or ())
        return {call[call.get("type", "function")]["name"] for call in calls}

    @property
    def tool_outputs(self) -> list[str]:
        """The outputs of tools since the model's last message; empty unless the last message is a tool's."""
        outputs: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") not in {"tool", "function"}:
                break
            outputs.insert(0, text_of(message))
        return outputs


def text_of(message: Json) -> str:
    """Return a message's text or text parts, and its tool calls."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    calls = message.get("tool_calls")
    return "\n".join([content, *map(_call_text, calls)]) if calls else content


def _call_text(call: Json) -> str:
    custom = call.get("custom")
    return (
        f"{custom['name']} {custom['input']}"
        if custom
        else f"{call['function']['name']} {call['function']['arguments']}"
    )


def tokens(text: str) -> int:
    """Count the tokens of a text."""
    return tokens_of(len(text.encode()))


def tokens_of(length_bytes: int) -> int:
    """Count the tokens of so many bytes."""
    return math.ceil(length_bytes / BYTES_PER_TOKEN)
