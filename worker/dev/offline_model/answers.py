"""The offline model's answers: a pure function from a chat request to text, tool calls or JSON.

The first rule that applies decides:
1. The request forces a tool, or the question names one or shares a word with its description: the tool is called.
2. The request has a `response_format`: JSON that fits.
3. The last messages are outputs of tools: an answer that quotes them.
4. The prompt contains "classify" and the three labels: one of the labels.
5. Otherwise: an answer that quotes the question.

A token is 4 bytes of UTF-8, rounded up. The input is the text of all messages, joined by
newlines, plus the compact JSON of `tools` and `response_format`. Images and audio are ignored.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.sample_values import (
    LABELS,
    Json,
    complexity_of,
    occurs,
    quoted_parts,
    value_that_fits,
)

BYTES_PER_TOKEN = 4
QUOTE_LIMIT = 1000
"""The most characters that an answer quotes, of the question and of the tools' outputs."""

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


class BadRequestError(ValueError):
    """The request is invalid; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call; `arguments` is JSON, truncated at the token limit."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer; `finish_reason` is stop, tool_calls or length."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A validated body of /v1/chat/completions.

    `prompt` is the text of all messages, `limit_tokens` the output limit (None: no limit), `options` the whole body.
    """

    model: str
    messages: Sequence[Json]
    prompt: str
    input_tokens: int
    stream: bool
    include_usage: bool
    limit_tokens: int | None
    options: Json

    @classmethod
    def from_body(cls, body: Json) -> Self:
        """Validate a request body; raises `BadRequestError`."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise BadRequestError("expected messages to be a non-empty array of objects", "messages")
        if body.get("n") not in {None, 1}:
            raise BadRequestError(f"expected n to be 1, got: {body['n']}: the offline model has one answer", "n")
        prompt = "\n".join(map(_text_of, messages))
        schemas = b"".join(to_json(body[key]) for key in ("tools", "response_format") if body.get(key))
        return cls(
            model=model_of(body),
            messages=messages,
            prompt=prompt,
            input_tokens=_tokens_of(len(prompt.encode()) + len(schemas)),
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            limit_tokens=_limit_of(body),
            options=body,
        )

    @property
    def question(self) -> str:
        """The text of the last message from the user."""
        return next((_text_of(one) for one in reversed(self.messages) if one.get("role") == "user"), "")

    @property
    def turn(self) -> list[Json]:
        """The messages after the user's last one: tool calls and their outputs."""
        latest = max((i for i, one in enumerate(self.messages) if one.get("role") == "user"), default=-1)
        return list(self.messages[latest + 1 :])

    @property
    def tool_outputs(self) -> list[str]:
        """The outputs of tools since the model's last message; empty unless the last message is a tool's."""
        outputs: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") not in {"tool", "function"}:
                break
            outputs.insert(0, _text_of(message))
        return outputs


def model_of(body: Json) -> str:
    """Read the model's name; any name is accepted."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError(f"expected model to be a name, got: {model!r}", "model")
    return model


def _limit_of(body: Json) -> int | None:
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise BadRequestError(f"expected max_completion_tokens to be 1 or more, got: {limit}", "max_completion_tokens")
    return limit


def _text_of(message: Json) -> str:
    """Return a message's text or text parts, and its tool calls."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    calls = [f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls") or ()]
    return "\n".join([content, *calls]) if calls else content


def tokens(text: str) -> int:
    """Count the tokens of a text."""
    return _tokens_of(len(text.encode()))


def _tokens_of(length_bytes: int) -> int:
    return math.ceil(length_bytes / BYTES_PER_TOKEN)


def answer(request: ChatRequest) -> Answer:
    """Answer a request; the same request always gets the same answer."""
    calls = _tool_calls(request)
    if calls:
        return _cut_calls(calls, request.limit_tokens)
    if (request.options.get("response_format") or {}).get("type") in {"json_schema", "json_object"}:
        return _cut_text(to_json(_json_value(request)).decode(), request.limit_tokens)
    return _cut_text(_stop(_prose(request), request.options.get("stop")), request.limit_tokens)


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


def _quote(question: str) -> str:
    return question if len(question) <= QUOTE_LIMIT else f"{question[:QUOTE_LIMIT]}…"


def _stop(text: str, stop: str | list[str] | None) -> str:
    for word in [stop] if isinstance(stop, str) else stop or ():
        text = text.partition(word)[0]
    return text


def _cut_text(text: str, limit_tokens: int | None) -> Answer:
    whole = text.encode()
    if limit_tokens is None or len(whole) <= limit_tokens * BYTES_PER_TOKEN:
        return Answer(text, (), "stop", _tokens_of(len(whole)))
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
            kept.append(ToolCall(call.name, arguments[:left].decode(errors="ignore")))
            return Answer("", tuple(kept), "length", limit_tokens or 0)
        kept.append(call)
        used += needed
    return Answer("", tuple(kept), "tool_calls", _tokens_of(used))


def _tool_calls(request: ChatRequest) -> list[ToolCall]:
    return [
        ToolCall(
            tool["name"],
            to_json(value_that_fits(tool.get("parameters") or {"type": "object"}, request.question)).decode(),
        )
        for tool in _chosen_tools(request)
    ]


def _chosen_tools(request: ChatRequest) -> list[Json]:
    """Choose the tools to call: the forced one, all named in the question, or the first that shares a word with it.

    `required` prefers tools not called since the user's last message, so that an agent that must call a tool proceeds
    to its next one.
    """
    tools = [_function_of(tool) for tool in request.options.get("tools") or ()]
    choice = request.options.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        return [_forced(choice, tools)]
    if choice == "none" or not tools or (choice == "auto" and request.messages[-1].get("role") != "user"):
        return []
    if choice == "required":
        called = {call["function"]["name"] for one in request.turn for call in one.get("tool_calls") or ()}
        tools = [tool for tool in tools if tool["name"] not in called] or tools
    named = [tool for tool in tools if occurs(tool["name"], request.question)]
    related = [tool for tool in tools if _words_of(tool) & _words(request.question)]
    chosen = named or related[:1] or (tools[:1] if choice == "required" else [])
    return chosen[:1] if request.options.get("parallel_tool_calls") is False else chosen


def _function_of(tool: Any) -> Json:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequestError("expected each tool to be a function with a name", "tools")
    return function


def _forced(choice: Json, tools: Iterable[Json]) -> Json:
    name = (choice.get("function") or {}).get("name")
    found = next((tool for tool in tools if tool["name"] == name), None)
    if found is None:
        raise BadRequestError(f"expected tool_choice to name one of the tools, got: {name!r}", "tool_choice")
    return found


def _words_of(tool: Json) -> set[str]:
    return _words(f"{tool['name'].replace('_', ' ')} {tool.get('description') or ''}")


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w{4,}", text.lower()) if word not in _NO_SIGNAL}


def _json_value(request: ChatRequest) -> Any:
    """Fill the schema from the tools' outputs or else the question; without a schema, the quoted names are the keys."""
    source = "\n".join(request.tool_outputs) or request.question
    schema = (request.options["response_format"].get("json_schema") or {}).get("schema")
    if schema is not None:
        return value_that_fits(schema, source)
    keys = [part for part in quoted_parts(request.prompt) if part.isidentifier()]
    return dict.fromkeys(keys or ["answer"], _quote(source))


def embedding(text: str, dimensions: int) -> list[float]:
    """Hash a text's words into a unit vector; texts that share words are close to each other."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        vector[int.from_bytes(blake2b(word.encode(), digest_size=8).digest()) % dimensions] += 1.0
    length = math.hypot(*vector)
    return [component / length for component in vector]
