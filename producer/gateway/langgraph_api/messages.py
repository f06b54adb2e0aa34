"""Messages that a run streams: without what an earlier attempt told, and put together for LangGraph's `messages`."""

from typing import Any

from langgraph_rq.shared.strict_json import read_json

_CHUNK = "Chunk"


class Repeats:
    """Cuts what an earlier attempt at the run has told already: clients append every piece to what they have of its id.

    An attempt after a crash repeats the answers that were recorded, under their ids, and perhaps in other pieces.
    """

    def __init__(self) -> None:
        self._attempt = 0
        self._earlier: dict[tuple[str, Any], int] = {}
        """Message, and index of a tool call or None for its text -> characters that earlier attempts have told."""
        self._now: dict[tuple[str, Any], int] = {}

    def take(self, message: dict[str, Any], attempt: int) -> dict[str, Any] | None:
        """Return what of a message or a piece is new; None: nothing."""
        if attempt != self._attempt:
            for key, length in self._now.items():
                self._earlier[key] = max(length, self._earlier.get(key, 0))
            self._attempt, self._now = attempt, {}
        id_, text = str(message.get("id")), message.get("content")
        is_repeated = any(key[0] == id_ for key in self._earlier)
        cut = dict(message)
        if isinstance(text, str):
            cut["content"] = self._cut((id_, None), text)
        calls = [
            (call, self._cut((id_, call.get("index")), call.get("args") or ""))
            for call in message.get("tool_call_chunks") or ()
        ]
        if not is_repeated:
            return message
        cut["tool_call_chunks"] = [
            {**call, "args": args} for call, args in calls if args or (id_, call.get("index")) not in self._earlier
        ]
        return cut if cut["tool_call_chunks"] or cut.get("content") else None

    def _cut(self, key: tuple[str, Any], text: str) -> str:
        before = self._now.get(key, 0)
        self._now[key] = before + len(text)
        return text[max(0, self._earlier.get(key, 0) - before) :]


class Messages:
    """The messages of one stream."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    def take(self, message: dict[str, Any], metadata: dict[str, Any]) -> list[tuple[str, Any]]:
        """Take a message or a piece of one; returns what LangGraph's server says then, as (event, data)."""
        id_ = str(message.get("id"))
        is_piece = str(message.get("type", "")).endswith(_CHUNK)
        before = self._seen.get(id_)
        if before is not None and not is_piece:  # the whole of what was streamed
            return []
        told: list[tuple[str, Any]] = [] if before else [("messages/metadata", {id_: {"metadata": metadata}})]
        whole = _joined(before, message) if before else dict(message)
        self._seen[id_] = whole
        shown = {name: value for name, value in whole.items() if name not in ("tool_call_chunks", "chunk_position")}
        shown["type"] = {"AIMessageChunk": "ai"}.get(str(message.get("type")), message.get("type"))
        return [*told, ("messages/partial" if is_piece else "messages/complete", [shown])]


def _joined(before: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    joined = {**before, **{name: value for name, value in piece.items() if value not in (None, "", [], {})}}
    content, more = before.get("content"), piece.get("content")
    if isinstance(content, str) and isinstance(more, str):
        joined["content"] = content + more
    elif content or more:
        joined["content"] = [*_blocks(content), *_blocks(more)]
    joined["tool_call_chunks"] = [*before.get("tool_call_chunks", ()), *piece.get("tool_call_chunks", ())]
    joined["tool_calls"] = _tool_calls(joined["tool_call_chunks"]) or joined.get("tool_calls", [])
    return joined


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _tool_calls(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put tool calls together whose arguments are complete JSON by now."""
    calls: dict[Any, dict[str, Any]] = {}
    for chunk in chunks:
        call = calls.setdefault(chunk.get("index"), {"name": "", "args": "", "id": None})
        call["name"] += chunk.get("name") or ""
        call["args"] += chunk.get("args") or ""
        call["id"] = chunk.get("id") or call["id"]
    found = []
    for call in calls.values():
        try:
            args = read_json(call["args"]) if call["args"] else {}
        except ValueError:
            continue
        found.append({"name": call["name"], "args": args, "id": call["id"], "type": "tool_call"})
    return found
