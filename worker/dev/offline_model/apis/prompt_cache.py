"""Anthropic's prompt cache: how much of a prompt was read from it, and how much was written to it.

A prompt is a row of blocks: tools, system, messages. A block with `cache_control` is a mark: the prompt up to there is
written to the cache, for 5 minutes or an hour. A later prompt reads the longest beginning that was written, if that
ends at most 20 blocks before one of its own marks. A prompt below 1,024 tokens is not cached.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic_core import to_json

from langgraph_rq.worker.dev.offline_model.apis.anthropic_input import check_cache_points
from langgraph_rq.worker.dev.offline_model.chat_request import text_of, tokens_of
from langgraph_rq.worker.dev.offline_model.errors import Json

CAPACITY = 10_000
_LEAST_TOKENS = 1_024
_LOOK_BACK = 20
_TTL_S = {"5m": 300.0, "1h": 3600.0}


class CacheUse(NamedTuple):
    """What a prompt has read and written, in tokens; both are part of its input."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


class _Point(NamedTuple):
    """The prompt up to the end of one block; `ttl`: of its mark, None without one."""

    digest: bytes
    tokens: int
    ttl: str | None


class PromptCache:
    """The beginnings of prompts that were written, with the instants when they expire."""

    def __init__(self) -> None:
        self._expiries: OrderedDict[bytes, float] = OrderedDict()

    def use(self, body: Json) -> CacheUse:
        """Read and write for one prompt; refuses more than four marks."""
        points = list(_points(body))
        marks = [i for i, point in enumerate(points) if point.ttl]
        check_cache_points(len(marks))
        marks = [i for i in marks if points[i].tokens >= _LEAST_TOKENS]
        if not marks:
            return CacheUse()
        now = time.monotonic()
        near = [i for i in range(marks[-1], -1, -1) if any(0 <= mark - i <= _LOOK_BACK for mark in marks)]
        found = next((i for i in near if self._expiries.get(points[i].digest, 0.0) > now), None)
        read = 0 if found is None else points[found].tokens
        written = dict.fromkeys(_TTL_S, 0)
        at = read
        for i in marks:
            point = points[i]
            self._keep(point.digest, now + _TTL_S[point.ttl or "5m"])
            written[point.ttl or "5m"] += max(0, point.tokens - at)
            at = max(at, point.tokens)
        return CacheUse(read, written["5m"], written["1h"])

    def _keep(self, digest: bytes, expires_at: float) -> None:
        self._expiries[digest] = max(expires_at, self._expiries.pop(digest, 0.0))
        if len(self._expiries) > CAPACITY:
            self._expiries.popitem(last=False)


def _points(body: Json) -> Iterator[_Point]:
    """Yield the prompt's blocks in order; a mark of the whole request is one at the last block."""
    digest = blake2b(str(body["model"]).encode(), digest_size=16)
    length = 0
    blocks = list(_blocks(body))
    for i, block in enumerate(blocks):
        mark = block.get("cache_control") or (body.get("cache_control") if i == len(blocks) - 1 else None)
        digest.update(to_json({name: value for name, value in block.items() if name != "cache_control"}))
        length += _size(block)
        yield _Point(digest.digest(), tokens_of(length), mark and (mark.get("ttl") or "5m"))


def _size(block: Json) -> int:
    """Count a block's bytes as the request's input counts them, without what stands between blocks."""
    if "input_schema" in block:
        return len(to_json(block))
    if block["type"] == "tool_use":
        return len(block["name"].encode()) + len(to_json(block["input"]))
    return len(text_of({"content": [block]} if "text" in block else block).encode())


def _blocks(body: Json) -> Iterator[Json]:
    yield from body.get("tools") or ()
    yield from _as_blocks(body.get("system") or [], "system")
    for message in body["messages"]:
        yield from _as_blocks(message["content"], message["role"])


def _as_blocks(content: Any, role: str) -> Iterator[Json]:
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        yield {"role": role, **block}
