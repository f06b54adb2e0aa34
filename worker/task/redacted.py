"""Redact personal data and secrets in results and in the events that stream them.

`mask` replaces each match. `refuse` ends the task with `result_refused` instead of delivering such a result, and masks
its events, because a token that was streamed cannot be withdrawn. Tokens are delayed while they may be part of a match.

What is longer than `LONG_BYTES` is masked in a thread, so that the other tasks of the process go on meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.redaction import RedactedStream, Redactor
from langgraph_rq.shared.settings import RedactionSettings
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.outputs.json_values import as_json, encode
from langgraph_rq.worker.task.events import EVENT_BYTES, EventWriter, TaskEvents, size_only
from langgraph_rq.worker.task.result import ERROR_BYTES, Result

Masked = TypeVar("Masked")

_ALWAYS = {"id", "type", "content"}
_EMPTY: tuple[Any, ...] = (None, "", [], {})
LONG_BYTES = 8_000
"""Longest JSON that is masked on the event loop: 1 ms of prose, 6 ms of a text that was made to be slow."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """The patterns, and whether a match is refused or masked."""

    redactor: Redactor
    refuses: bool = False
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "masking"))
    """Not the loop's own threads: nodes may have taken all of them."""

    @classmethod
    def of(cls, settings: RedactionSettings) -> "Redaction | None":
        """Read the settings; None: results are delivered as they are."""
        if settings.mode == "off":
            return None
        return cls(settings.redactor(), settings.mode == "refuse")

    async def result(self, result: Result) -> Result:
        """Mask a result, or refuse it."""
        output, found, not_written = await self.as_json(result.output, "result")
        if found and self.refuses:
            message = f"{found} values of the result look like personal data or secrets, so it is not delivered"
            return replace(result, state=State.ERROR, output=None, error=(ErrorType.RESULT_REFUSED, message))
        error = result.error
        if error:
            # What is left of a longer message would be cut off from the result.
            error = (error[0], await self.mask(self._redact_error, error[1], len(error[1])))
        failure = result.failure
        if failure:
            causes = (replace(one, message=self.redactor.redact(one.message)) for one in failure.causes)
            failure = replace(failure, causes=tuple(causes))
        last_state, found, _ = await self.as_json(result.last_state, "last_state")
        if found and self.refuses:
            last_state = None
        return replace(
            result, output=output, not_written=not_written, error=error, failure=failure, last_state=last_state
        )

    async def as_json(
        self, value: Any, name: str, size_bytes: int | None = None, *, has_texts: bool = False
    ) -> tuple[Any, int, tuple[str, ...]]:
        """Return a value as masked JSON, how many of its strings were masked, and what of it cannot be written.

        Args:
            value: What a graph made.
            name: Begins the names of keys that are not written.
            size_bytes: Of its JSON, where that is known.
            has_texts: As for `encode`.
        """
        if size_bytes is None:
            size_bytes = len(encode(value, name).text)
        mask = partial(self._masked_json, name=name, has_texts=has_texts)
        return await self.mask(mask, value, size_bytes)

    def _masked_json(self, value: Any, name: str, *, has_texts: bool) -> tuple[Any, int, tuple[str, ...]]:
        in_bytes = 0

        def mask_bytes(raw: bytes) -> bytes:
            nonlocal in_bytes
            with suppress(UnicodeDecodeError):  # base64 would hide text from the patterns
                text, found = self.redactor.redact_json(raw.decode())
                in_bytes += found
                return str(text).encode()
            return raw

        encoded = encode(value, name, mask_bytes, has_texts=has_texts)
        masked, found = self.redactor.redact_json(read_json(encoded.text))
        names, _ = self.redactor.redact_json(encoded.not_written)
        return masked, found + in_bytes, tuple(names)

    def _redact_error(self, message: str) -> str:
        return self.redactor.redact_beginning(message, 2 * ERROR_BYTES)

    async def mask(self, mask: Callable[[Any], Masked], value: Any, size_bytes: int) -> Masked:
        """Call `mask` with a value, in a thread if the value is long."""
        if size_bytes <= LONG_BYTES:
            return mask(value)
        return await asyncio.get_running_loop().run_in_executor(self._thread, mask, value)

    def events(self, writer: EventWriter, claimed: Claimed, worker: str) -> "RedactedEvents":
        """Begin the events of an attempt."""
        return RedactedEvents(writer, claimed, worker, self)


class RedactedEvents(TaskEvents):
    """Events with masked values; the chunks of a message are masked as the whole message would be."""

    def __init__(self, writer: EventWriter, claimed: Claimed, worker: str, redaction: Redaction) -> None:
        super().__init__(writer, claimed, worker)
        self._redaction = redaction
        self._redactor = redaction.redactor
        self._streams: dict[str, tuple[RedactedStream, dict[str, Any]]] = {}

    async def add(self, kind: EventType, **data: Any) -> None:
        """Add an event, masked; a chunk of a message may be delayed, or merged into the next."""
        if kind is EventType.MESSAGES:
            await self._add_piece(data)
            return
        if kind is EventType.NODE:
            await self._end_streams()
        await super().add(kind, **await self._masked(data))

    async def flush(self) -> None:
        """Write all events, also delayed ones."""
        await self._end_streams()
        await super().flush()

    async def _masked(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Mask data, or what is written of data that are too long for an event."""
        size = len(encode(data, "").text)
        if size > EVENT_BYTES:
            data, size = size_only(data, size), 0
        masked: dict[str, Any] = (await self._redaction.as_json(data, "", size, has_texts=True))[0]
        return masked

    async def _add_piece(self, data: Mapping[str, Any]) -> None:
        message = as_json(data["message"])
        text, message["content"] = _take_text(message.get("content", ""))
        masked = await self._masked(message)
        stream, last = self._streams.get(str(message.get("id")), (self._redactor.stream(), None))
        # A message's metadata are the same for all of its chunks.
        around = last or await self._masked({name: value for name, value in data.items() if name != "message"})
        piece = {**around, "message": masked}
        # What is delayed is text: other blocks are not written again with it.
        texts = [block for block in masked["content"][:1] if _is_text(block)] if masked["content"] else ""
        self._streams[str(message.get("id"))] = stream, {**piece, "message": {**masked, "content": texts}}
        text = await self._redaction.mask(stream.feed, text, len(text))
        if not str(message.get("type", "")).endswith("Chunk") or message.get("chunk_position") == "last":
            del self._streams[str(message.get("id"))]
            text += stream.end()
        is_more = masked["content"] != texts or any(masked[name] not in _EMPTY for name in masked.keys() - _ALWAYS)
        if text or is_more:
            await super().add(EventType.MESSAGES, **_with_text(piece, text))

    async def _end_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream, piece in streams.values():
            if text := stream.end():
                await super().add(EventType.MESSAGES, **_with_text(piece, text))


def _is_text(block: Any) -> bool:
    return isinstance(block, dict) and isinstance(block.get("text"), str)


def _take_text(content: Any) -> tuple[str, Any]:
    """Take the text out of a message's content, which may come in blocks; returns what is left of the blocks."""
    if not isinstance(content, list):
        return str(content or ""), ""
    texts = [block for block in content if isinstance(block, str) or _is_text(block)]
    joined = "".join(block if isinstance(block, str) else block["text"] for block in texts)
    first = next(({**block, "text": ""} for block in texts if isinstance(block, dict)), None)
    others = [block for block in content if block not in texts]
    return joined, [first, *others] if first else others


def _with_text(piece: dict[str, Any], text: str) -> dict[str, Any]:
    """Put masked text where `_take_text` took it from; returns the event's data."""
    content: Any = piece["message"]["content"]
    if isinstance(content, list) and content and _is_text(content[0]):
        content = [{**content[0], "text": text}, *content[1:]]
    elif not (isinstance(content, list) and content):
        content = text
    return {**piece, "message": {**piece["message"], "content": content}}
