"""Messages that a run streams: without what an earlier attempt told, and put together for LangGraph's `messages`."""

from typing import Any

from langgraph_rq.producer.gateway.langgraph_api.pieces import join

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
        whole = join(before, message) if before else dict(message)
        self._seen[id_] = whole
        shown = {name: value for name, value in whole.items() if name not in ("tool_call_chunks", "chunk_position")}
        shown["type"] = {"AIMessageChunk": "ai"}.get(str(message.get("type")), message.get("type"))
        return [*told, ("messages/partial" if is_piece else "messages/complete", [shown])]
