"""The token usage of a model call, read from LangChain's messages and results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult

from langgraph_rq.worker.guards.task_guard import Used

_WRITTEN = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
"""Tokens that Anthropic has written to its cache, by their time to live."""


def read_usage(result: ChatResult | LLMResult) -> Used | None:
    """Read a call's usage from either place where integrations put it; None: the provider did not report it."""
    for generation in _generations(result):
        usage = getattr(generation.message, "usage_metadata", None) if isinstance(generation, ChatGeneration) else None
        if usage:
            return _used(usage)
    usage = (result.llm_output or {}).get("token_usage") or {}
    if "prompt_tokens" in usage:
        return Used(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))
    return None


def answer_bytes(result: ChatResult | LLMResult) -> int:
    """Count the bytes of an answer whose usage was not reported: its text and its tool calls."""
    return sum(map(written_bytes, _generations(result)))


def written_bytes(part: Generation) -> int:
    """Count the bytes of text and of tool calls in an answer or in a chunk of one."""
    message = getattr(part, "message", None)
    calls = getattr(message, "tool_calls", None) or getattr(message, "tool_call_chunks", None) or []
    written = part.text + "".join(f"{call.get('name') or ''}{call.get('args') or ''}" for call in calls)
    return len(written.encode(errors="replace"))


def _generations(result: ChatResult | LLMResult) -> list[Any]:
    if isinstance(result, ChatResult):
        return list(result.generations)
    return [generation for generations in result.generations for generation in generations]


def _used(usage: UsageMetadata) -> Used:
    if usage.get("total_cost") == 0:  # LangChain's mark of an answer from its own cache: nothing was called
        return Used(0, 0)
    details: Mapping[str, Any] = usage.get("input_token_details", {})
    # langchain-anthropic reports what was written by its time to live, and then 0 in all.
    written = max(details.get("cache_creation") or 0, sum(details.get(name) or 0 for name in _WRITTEN))
    return Used(usage["input_tokens"], usage["output_tokens"], details.get("cache_read") or 0, written)


@dataclass(slots=True)
class StreamMeter:
    """Adds up the usage that a stream reports (None before the first report) and the bytes that came."""

    used: Used | None = None
    received_bytes: int = 0

    def count(self, chunk: ChatGenerationChunk) -> None:
        """Add one chunk."""
        self.received_bytes += written_bytes(chunk)
        usage: UsageMetadata | None = getattr(chunk.message, "usage_metadata", None)
        if usage:
            more, before = _used(usage), self.used or Used(0, 0)
            self.used = Used(
                before.input_tokens + more.input_tokens,
                before.output_tokens + more.output_tokens,
                before.cached_input_tokens + more.cached_input_tokens,
                before.cache_write_tokens + more.cache_write_tokens,
            )
