"""Pieces of a message, put together as LangChain adds its chunks. A gateway has no LangChain.

Texts grow, parts of a content and calls of tools grow by their `index`, tokens add up. Source: `AIMessageChunk` of
langchain_core.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

_SAME = frozenset({"id", "output_version", "model_provider"})
"""Texts that are not joined when they are equal."""
_NEWEST = frozenset({"index", "created", "timestamp"})
"""Numbers that are not added."""


def join(before: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    """Add a piece to what there is of a message."""
    joined = {**before, **{name: value for name, value in piece.items() if value not in (None, "", [], {})}}
    joined["content"] = _contents(before.get("content"), piece.get("content"))
    for name in ("additional_kwargs", "response_metadata"):
        joined[name] = _either(before.get(name), piece.get(name))
    joined["usage_metadata"] = _sum(before.get("usage_metadata"), piece.get("usage_metadata"))
    chunks = _lists(before.get("tool_call_chunks") or [], piece.get("tool_call_chunks") or [])
    if chunks:
        joined["tool_call_chunks"] = chunks
        joined["tool_calls"], joined["invalid_tool_calls"] = _calls(chunks)
    return joined


def _contents(before: Any, more: Any) -> Any:
    before, more = before or "", more or ""
    if isinstance(before, str):
        return before + more if isinstance(more, str) else [*([before] if before else []), *more]
    if isinstance(more, list):
        return _lists(before, more)
    if before and isinstance(before[-1], str):
        return [*before[:-1], before[-1] + more]
    return [*before, more] if before and more else before


def _lists(before: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    merged = list(before)
    for one in more:
        at = next((i for i, known in enumerate(merged) if _continues(known, one)), None)
        if at is None:
            merged.append(one)
        else:
            merged[at] = _either(merged[at], {name: value for name, value in one.items() if name != "type"})
    return merged


def _continues(known: Any, one: Any) -> bool:
    if not (isinstance(known, dict) and isinstance(one, dict)):
        return False
    index, ids = one.get("index"), {known.get("id"), one.get("id")} - {None, ""}
    is_counted = isinstance(index, int) or (isinstance(index, str) and index.startswith("lc_"))
    return is_counted and known.get("index") == index and len(ids) < 2


def _either(before: Any, more: Any, name: str = "") -> Any:
    """Merge two values of one name; of values that do not go together the newer one."""
    if before is None or more is None:
        return before if more is None else more
    if isinstance(before, dict) and isinstance(more, dict):
        names = dict.fromkeys([*before, *more])
        return {key: _either(before.get(key), more.get(key), key) for key in names}
    if isinstance(before, list) and isinstance(more, list):
        return _lists(before, more)
    if isinstance(before, str) and isinstance(more, str):
        is_kept = (before == more and name in _SAME) or (name == "index" and before.startswith("lc_"))
        return before if is_kept else before + more
    is_sum = isinstance(before, int) and isinstance(more, int) and before != more and name not in _NEWEST
    return before + more if is_sum and not isinstance(more, bool) else more


def _sum(before: Any, more: Any) -> Any:
    """Add up tokens, also those of which kind they are."""
    if before is None or more is None:
        return before if more is None else more
    if isinstance(before, dict) and isinstance(more, dict):
        return {key: _sum(before.get(key), more.get(key)) for key in dict.fromkeys([*before, *more])}
    return before + more if isinstance(before, int) and isinstance(more, int) else more


def _calls(chunks: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read calls of tools, also unfinished ones; the second are those that cannot be read."""
    calls, invalid = [], []
    for chunk in chunks:
        text = chunk.get("args")
        args = _beginning(text) if text else {}
        if isinstance(args, dict):
            calls.append({"name": chunk.get("name") or "", "args": args, "id": chunk.get("id"), "type": "tool_call"})
        else:
            named = {"name": chunk.get("name"), "args": text, "id": chunk.get("id")}
            invalid.append({**named, "error": None, "type": "invalid_tool_call"})
    return calls, invalid


def _beginning(text: str) -> Any:
    """Read JSON of which the end may be missing; None: it is none."""
    try:
        return from_json(text, allow_inf_nan=False, allow_partial="trailing-strings")
    except ValueError:
        return None
