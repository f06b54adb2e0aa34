"""The offline model's answers: a pure function from a chat request to text, tool calls or JSON.

The first rule that applies decides:
1. The request forces a tool, or the question names one or shares a word with its description: the tool is called.
2. The request asks for JSON: JSON that fits.
3. The last messages are outputs of tools: an answer that quotes them.
4. The prompt contains "classify" and the three labels: one of the labels.
5. Otherwise: an answer that quotes the question.
"""

import math
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.chat_request import BYTES_PER_TOKEN, ChatRequest, Tool, tokens_of
from langgraph_rq.worker.dev.offline_model.sample_values import (
    LABELS,
    complexity_of,
    occurs,
    quoted_parts,
    value_that_fits,
)

QUOTE_LIMIT = 1000
"""The most characters that an answer quotes, of the question and of the tools' outputs."""

THOUGHT_LIMIT = 100
"""The most characters that a thought quotes."""

_SENTENCES = {
    "simple": "In short: one fact settles it, and a real model would name it here.",
    "medium": (
        "The idea first: name the cause, then the effect, then one example that tells them apart. "
        "With that order most of the answer follows by itself, and a real model would fill in the particulars here."
    ),
    "complex": (
        "Begin with the requirements and what may fail, then weigh two or three options against them: simplicity, "
        "cost, behaviour under load, and what happens when a part of it is down. Choose the simplest option that meets "
        "the requirements, say what was given up for it, and measure before you build more. A real model would now "
        "work through each option in detail."
    ),
}
_SIGNATURE = "(Answered by the offline model.)"

_NO_SIGNAL = {"from", "given", "have", "returns", "that", "this", "tool", "using", "what", "when", "with"}
"""Words of four or more letters that do not describe a tool's purpose."""


class ToolCall(NamedTuple):
    """A tool call; `arguments` is JSON, or the text for a custom tool, truncated at the token limit."""

    name: str
    arguments: str
    is_custom: bool = False


class Answer(NamedTuple):
    """The model's answer.

    Args:
        finish_reason: OpenAI's: stop, tool_calls or length.
        stopped_at: The stop word that ended it. None: none did.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    output_tokens: int
    stopped_at: str | None = None


def answer(request: ChatRequest) -> Answer:
    """Answer a request; the same request always gets the same answer."""
    calls = [_call(tool, request.question) for tool in _chosen_tools(request)] if request.tools else ()
    if calls:
        return _cut_calls(calls, request.limit_tokens)
    if request.form.is_json:
        return _cut_text(to_json(_json_value(request)).decode(), request.limit_tokens)
    text, stopped_at = _stop(_prose(request), request.stop)
    return _cut_text(text, request.limit_tokens, stopped_at)


def thought(request: ChatRequest) -> str:
    """Return what a reasoning model thinks before it answers."""
    question = request.question
    return f'The question is {complexity_of(question)}: "{_quote(question, THOUGHT_LIMIT)}". I will answer it as asked.'


def _prose(request: ChatRequest) -> str:
    question = request.question
    if request.tool_outputs:
        outputs = _quote("; ".join(request.tool_outputs))
        return f'The tool says: {outputs}. That answers "{_quote(question)}". {_SIGNATURE}'
    if _asks_for_a_label(request.prompt):
        # If the question itself holds the instruction, the text to classify is on its last line.
        return complexity_of(question.rpartition("\n")[2] if _asks_for_a_label(question) else question)
    return f'You asked: "{_quote(question)}" {_SENTENCES[complexity_of(question)]} {_SIGNATURE}'


def _asks_for_a_label(prompt: str) -> bool:
    lowered = prompt.lower()
    return "classify" in lowered and all(label in lowered for label in LABELS)


def _quote(question: str, limit: int = QUOTE_LIMIT) -> str:
    return question if len(question) <= limit else f"{question[:limit]}…"


def _stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Cut a text before the first stop word, and return which one that was."""
    found = min(((text.find(word), word) for word in stop if word in text), default=None)
    return (text[: found[0]], found[1]) if found else (text, None)


def _cut_text(text: str, limit_tokens: int | None, stopped_at: str | None = None) -> Answer:
    whole = text.encode()
    if limit_tokens is None or len(whole) <= limit_tokens * BYTES_PER_TOKEN:
        return Answer(text, (), "stop", tokens_of(len(whole)), stopped_at)
    cut = whole[: limit_tokens * BYTES_PER_TOKEN].decode(errors="ignore")
    return Answer(cut, (), "length", limit_tokens)


def _cut_calls(calls: Iterable[ToolCall], limit_tokens: int | None) -> Answer:
    """Count names and arguments; at the limit truncate the arguments, as a real model does."""
    kept: list[ToolCall] = []
    room = math.inf if limit_tokens is None else limit_tokens * BYTES_PER_TOKEN
    used = 0
    for call in calls:
        arguments = call.arguments.encode()
        needed = len(call.name.encode()) + len(arguments)
        if used + needed > room:
            left = max(0, int(room) - used - len(call.name.encode()))
            kept.append(ToolCall(call.name, arguments[:left].decode(errors="ignore"), call.is_custom))
            return Answer("", tuple(kept), "length", limit_tokens or 0)
        kept.append(call)
        used += needed
    return Answer("", tuple(kept), "tool_calls", tokens_of(used))


def _call(tool: Tool, question: str) -> ToolCall:
    if tool.is_custom:
        return ToolCall(tool.name, next(iter(quoted_parts(question)), question), is_custom=True)
    return ToolCall(tool.name, to_json(value_that_fits(tool.parameters, question)).decode())


def _chosen_tools(request: ChatRequest) -> Sequence[Tool]:
    """Choose the tools to call: all named in the question, or the first that shares a word with it.

    A call that is required prefers tools not called since the user's last message, so that an agent that must call a
    tool proceeds to its next one.
    """
    choice, question = request.choice, request.question
    is_required = choice.mode == "required"
    if choice.mode == "none" or not (is_required or request.messages[-1].get("role") == "user"):
        return ()
    tools = [tool for tool in request.tools if choice.allowed is None or tool.name in choice.allowed]
    if is_required and len(tools) > 1:
        called = request.called_tools
        tools = [tool for tool in tools if tool.name not in called] or tools
    named = [tool for tool in tools if occurs(tool.name, question)]
    related = [tool for tool in tools if _words_of(tool) & _words(question)]
    chosen = named or related[:1] or (tools[:1] if is_required else [])
    return chosen if request.is_parallel else chosen[:1]


def _words_of(tool: Tool) -> set[str]:
    return _words(f"{tool.name.replace('_', ' ')} {tool.description}")


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w{4,}", text.lower()) if word not in _NO_SIGNAL}


def _json_value(request: ChatRequest) -> Any:
    """Fill the schema from the tools' outputs or else the question; without a schema, the quoted names are the keys."""
    source = "\n".join(request.tool_outputs) or request.question
    if request.form.schema is not None:
        return value_that_fits(request.form.schema, source)
    keys = [part for part in quoted_parts(request.prompt) if part.isidentifier()]
    return dict.fromkeys(keys or ["answer"], _quote(source))


def embedding(text: str, dimensions: int) -> list[float]:
    """Hash a text's words into a unit vector; texts that share words are close to each other."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        vector[int.from_bytes(blake2b(word.encode(), digest_size=8).digest()) % dimensions] += 1.0
    length = math.hypot(*vector)
    return [component / length for component in vector]
