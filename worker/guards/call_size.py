"""The size of a model call, measured before it is made, and what the budget holds for it.

With `Hold.ESTIMATE` the input is counted by the model's measured ratio of tokens to bytes, and the output by the 99th
percentile of its calls. With `Hold.WORST` each byte counts as a token, which is a bound for every model: a tokenizer
never produces more tokens than its text has UTF-8 bytes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel
from pydantic_core import to_json

from langgraph_rq.shared.budget.model_stats import ModelStats
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Hold, Request

LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""The names under which integrations take the output limit."""

_SCHEMAS = ("tools", "functions", "response_format", "tool_choice")

_MEDIA = frozenset(
    ("audio", "document", "file", "image", "image_url", "input_audio", "input_file", "input_image", "media", "video")
)
"""Kinds of blocks that are no text, whatever text carries their data."""

_LIKELY_CALL_TOKENS, _LIKELY_MESSAGE_TOKENS, _LIKELY_MEDIA_TOKENS = 8, 4, 1_000
"""What a provider adds to a call and to each message (role and separators), and an image or file."""
_MOST_CALL_TOKENS, _MOST_MESSAGE_TOKENS, _MOST_MEDIA_TOKENS = 32, 16, 3_000

_MEASURED_BYTES = 1_000
"""Shorter prompts tell little about a model's tokens per byte: what surrounds the text weighs too much."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent to a model: bytes of text (schemas of tools included), messages, images and files.

    `media_bytes` are those of images and files, inline or by URL: of them only a bound follows, no estimate.
    """

    text_bytes: int
    messages: int = 0
    media: int = 0
    media_bytes: int = 0

    def text_of(self, input_tokens: int) -> tuple[int, int]:
        """Return bytes and tokens of the text, for the model's ratio; none for short prompts and those with media."""
        if self.text_bytes < _MEASURED_BYTES or self.media:
            return 0, 0
        return self.text_bytes, max(0, input_tokens - Prompt(0, self.messages).likely_tokens(0))

    def likely_tokens(self, tokens_per_byte: float) -> int:
        """Estimate the tokens."""
        around = _LIKELY_CALL_TOKENS + _LIKELY_MESSAGE_TOKENS * self.messages + _LIKELY_MEDIA_TOKENS * self.media
        return math.ceil(self.text_bytes * tokens_per_byte) + around

    @property
    def most_tokens(self) -> int:
        """The bound of the tokens for any model."""
        around = _MOST_CALL_TOKENS + _MOST_MESSAGE_TOKENS * self.messages + _MOST_MEDIA_TOKENS * self.media
        return self.text_bytes + self.media_bytes + around


@dataclass(frozen=True, slots=True)
class CallSize:
    """A call's prompt and the most output tokens that the model was given; None: no limit, 0: no output.

    `is_default`: the limit is the guards' own, which they may lower, and not the graph's.
    """

    prompt: Prompt
    output_limit: int | None = None
    is_default: bool = False

    def request(self, model: str, stats: ModelStats, limits: BudgetLimits, pricing: Pricing) -> Request:
        """Return what the call asks the budget for."""
        if limits.hold is Hold.WORST:
            input_tokens = self.prompt.most_tokens
            rest = max(1, (limits.request_tokens or input_tokens + limits.call_output_tokens) - input_tokens)
            output_tokens = rest if self.output_limit is None else self.output_limit
            is_guess = False
        else:
            input_tokens = self.prompt.likely_tokens(stats.tokens_per_byte)
            likely = stats.likely_output(limits.call_output_tokens)
            # A limit above what such calls write is a ceiling that says nothing: Claude's default is 64,000.
            ceiling = limits.call_output_tokens
            is_guess = self.output_limit is None or self.is_default or self.output_limit > ceiling
            output_tokens = min(likely, self.output_limit or likely) if is_guess else self.output_limit or 0
        cost = pricing.bounds_nano_usd(model, input_tokens, output_tokens)
        return Request(Amount(input_tokens, cost.input), Amount(output_tokens, cost.total - cost.input), is_guess)


def measure_messages(messages: Iterable[BaseMessage], parameters: Mapping[str, Any]) -> Prompt:
    """Measure a prompt of messages.

    Args:
        messages: The prompt, all batches of it.
        parameters: The call's other parameters, by OpenAI's names; tools and schemas count as text.
    """
    text_bytes = sum(len(_json(parameters[name])) for name in _SCHEMAS if parameters.get(name))
    number = media = media_bytes = 0
    for message in messages:
        number += 1
        text_bytes += _bytes(message.name or "")
        for block in _blocks(message.content):
            if isinstance(block, str):
                text_bytes += _bytes(block)
            elif _is_media(block):
                media += 1
                media_bytes += len(_json(block))
            else:
                text_bytes += len(_json(block))
        if isinstance(message, AIMessage) and message.tool_calls:
            text_bytes += len(_json(message.tool_calls))
        if message.additional_kwargs:
            text_bytes += len(_json(message.additional_kwargs))
    return Prompt(text_bytes, number, media, media_bytes)


def _blocks(content: Any) -> Iterator[Any]:
    """Give the blocks of a message's content, and those inside of a tool's result one by one."""
    for block in content if isinstance(content, list) else [content]:
        inner = block.get("content") if isinstance(block, dict) else None
        if isinstance(inner, list) and not _is_media(block):
            yield {name: value for name, value in block.items() if name != "content"}
            yield from _blocks(inner)
        else:
            yield block


def _is_media(block: Any) -> bool:
    # Some providers name the kind as the type, some as the key.
    return isinstance(block, dict) and not _MEDIA.isdisjoint((str(block.get("type")), *block))


def measure_texts(texts: Sequence[str]) -> Prompt:
    """Measure plain texts."""
    return Prompt(sum(_bytes(text) for text in texts))


def output_limit(parameters: Mapping[str, Any]) -> int | None:
    """Return the output limit among a call's parameters; None: it has none."""
    return next((parameters[name] for name in LIMIT_NAMES if isinstance(parameters.get(name), int)), None)


def likely_output_tokens(received_bytes: int, stats: ModelStats) -> int:
    """Estimate the output tokens of an answer, or of the part of it that came."""
    return math.ceil(received_bytes * stats.tokens_per_byte)


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _json(value: Any) -> bytes:
    return to_json(value, fallback=_schema, inf_nan_mode="strings", bytes_mode="base64")


def _schema(value: Any) -> Any:
    """Return the JSON schema that is sent for a Pydantic class."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    return repr(value)
