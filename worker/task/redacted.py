"""Redact personal data and secrets in results and in the events that stream them.

`mask` replaces each match. `refuse` ends the task with `result_refused` instead of delivering such a result, and masks
its events, because a token that was streamed cannot be withdrawn. Tokens are delayed while they may be part of a match.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.redaction import RedactedStream, Redactor
from langgraph_rq.shared.settings import RedactionSettings
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.task.events import EventWriter, TaskEvents
from langgraph_rq.worker.task.result import Result


@dataclass(frozen=True, slots=True)
class Redaction:
    """The patterns, and whether a match is refused or masked."""

    redactor: Redactor
    refuses: bool = False

    @classmethod
    def of(cls, settings: RedactionSettings) -> "Redaction | None":
        """Read the settings; None: results are delivered as they are."""
        if settings.mode == "off":
            return None
        return cls(settings.redactor(), settings.mode == "refuse")

    def result(self, result: Result) -> Result:
        """Mask a result, or refuse it."""
        try:
            output, found = self.redactor.redact_json(to_jsonable_python(result.output))
        except (PydanticSerializationError, ValueError):
            return result  # it cannot be encoded either, which ends the task as `result_not_json`
        if found and self.refuses:
            message = f"{found} values of the result look like personal data or secrets, so it is not delivered"
            return replace(result, state=State.ERROR, output=None, error=(ErrorType.RESULT_REFUSED, message))
        error = result.error and (result.error[0], self.redactor.redact(result.error[1]))
        return replace(result, output=output if found else result.output, error=error)

    def events(self, writer: EventWriter, claimed: Claimed, worker: str) -> "RedactedEvents":
        """Begin the events of an attempt."""
        return RedactedEvents(writer, claimed, worker, self.redactor)


class RedactedEvents(TaskEvents):
    """Events with masked values; the chunks of a message are masked as the whole message would be."""

    def __init__(self, writer: EventWriter, claimed: Claimed, worker: str, redactor: Redactor) -> None:
        super().__init__(writer, claimed, worker)
        self._redactor = redactor
        self._streams: dict[str, tuple[RedactedStream, dict[str, Any]]] = {}

    def add(self, kind: EventType, **data: Any) -> None:
        """Add an event, masked; a chunk of a message may be delayed, or merged into the next."""
        if kind is EventType.MESSAGES and isinstance(data.get("message"), Mapping):
            self._add_piece(data)
            return
        if kind is EventType.NODE:
            self._end_streams()
        plain = to_jsonable_python(data, fallback=str, inf_nan_mode="null")
        super().add(kind, **self._redactor.redact_json(plain)[0])

    async def flush(self) -> None:
        """Write all events, also delayed ones."""
        self._end_streams()
        await super().flush()

    def _add_piece(self, data: Mapping[str, Any]) -> None:
        message = to_jsonable_python(data["message"], fallback=str, inf_nan_mode="null")
        content = message.pop("content", "")
        masked = self._redactor.redact_json(message)[0]
        piece = {**data, "message": masked}
        stream, _ = self._streams.get(str(message.get("id")), (self._redactor.stream(), None))
        self._streams[str(message.get("id"))] = stream, piece
        text = stream.feed(_text(content))
        if not str(message.get("type", "")).endswith("Chunk") or message.get("chunk_position") == "last":
            del self._streams[str(message.get("id"))]
            text += stream.end()
        if text or len(masked) > len({"id", "type"} & masked.keys()):
            super().add(EventType.MESSAGES, **{**piece, "message": {**masked, "content": text}})

    def _end_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream, piece in streams.values():
            if text := stream.end():
                super().add(EventType.MESSAGES, **{**piece, "message": {**piece["message"], "content": text}})


def _text(content: Any) -> str:
    """Join the text of a message's content, which may come in blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(block if isinstance(block, str) else str(block.get("text", "")) for block in blocks)
