"""The token usage of a model call, read from LangChain's messages and results."""

from dataclasses import dataclass
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult

from langgraph_rq.worker.guards.guards import Used


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


def _generations(result: ChatResult | LLMResult) -> list[Any]:
    if isinstance(result, ChatResult):
        return list(result.generations)
    return [generation for generations in result.generations for generation in generations]


def _used(usage: UsageMetadata) -> Used:
    details = usage.get("input_token_details", {})
    cached, written = details.get("cache_read") or 0, details.get("cache_creation") or 0
    return Used(usage["input_tokens"], usage["output_tokens"], cached, written)


@dataclass(slots=True)
class StreamMeter:
    """Adds up the usage that a stream reports; None before the first report."""

    used: Used | None = None

    def count(self, chunk: ChatGenerationChunk) -> None:
        """Add the usage of one chunk, if it reports any."""
        usage: UsageMetadata | None = getattr(chunk.message, "usage_metadata", None)
        if usage:
            more, before = _used(usage), self.used or Used(0, 0)
            self.used = Used(
                before.input_tokens + more.input_tokens,
                before.output_tokens + more.output_tokens,
                before.cached_input_tokens + more.cached_input_tokens,
                before.cache_write_tokens + more.cache_write_tokens,
            )
