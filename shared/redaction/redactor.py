"""Mask personal data and secrets in text: whole texts, JSON values, and streams of tokens across their borders.

What is found: e-mail addresses, phone numbers, payment cards (Luhn), IBANs (mod 97), API keys and tokens, passwords in
URLs and assignments, and own patterns. Each becomes `[kind]`. Detection is by shape and checksum: it finds what a
careless prompt or log line contains, and does not prove that nothing is left.

A text is cut into segments, and each is searched by itself; with own patterns a segment is a line. Many segments are
searched at once, separated by a character that nothing matches, in time linear in the text: who can choose a text
must not be able to stop the process that masks it.
"""

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from langgraph_rq.shared.redaction import shapes
from langgraph_rq.shared.redaction.engine import compile_own, compile_shape
from langgraph_rq.shared.redaction.phones import PHONE, phones
from langgraph_rq.shared.redaction.segments import Lines, Words, blocks

_SHORT_CHARS = 256
"""Texts and words up to this length are often the same as before."""
_UUID = re.compile(r"(?:[a-z_]{1,16}-{1,2})?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""With a prefix, as `lc_run--` of LangChain's messages."""
_BORDER = b"\0"
_BORDERS = re.compile(rb"\0(\0?)")
"""A border between segments, and a NUL of the text itself, which always ends a segment."""


class Redactor:
    """Masks what it finds; safe to share between threads.

    Args:
        patterns: Own regular expressions in RE2's syntax, name -> pattern; a match becomes `[name]`.
        phone_region: Where numbers without a country code belong, such as `US`; None finds only international ones.

    Raises:
        ValueError: a pattern cannot be compiled.
    """

    def __init__(self, patterns: Mapping[str, str] | None = None, phone_region: str | None = "US") -> None:
        own = [(name, compile_own(name, pattern)) for name, pattern in (patterns or {}).items()]
        self._by_line = bool(own)

        def shape(pattern: str) -> Any:
            return compile_shape(pattern, by_line=self._by_line)

        self._may_hold = shape(shapes.MAY_HOLD)
        self._finds: list[tuple[bytes, shapes.Find]] = [
            *((f"[{name}]".encode(), shapes.whole(pattern)) for name, pattern in own),
            (b"[secret]", shapes.whole(shape(shapes.TOKEN))),
            (b"[secret]", shapes.part(shape(shapes.LABELLED))),
            (b"[secret]", shapes.part(shape(shapes.URL))),
            (b"[email]", shapes.whole(shape(shapes.EMAIL))),
            (b"[iban]", shapes.ibans(shape(shapes.IBAN))),
            (b"[card]", shapes.cards(shape(shapes.CARD))),
            (b"[phone]", phones(shape(PHONE), phone_region)),
        ]
        self._short = lru_cache(maxsize=4096)(self._redact)
        self._word = lru_cache(maxsize=4096)(lambda segment: self._redact_block([segment]))

    def redact(self, text: str) -> str:
        """Mask what is found in a text."""
        return self._short(text) if len(text) <= _SHORT_CHARS else self._redact(text)

    def redact_beginning(self, text: str, chars: int) -> str:
        """Mask the first characters of a text, without what is cut there, which may be a part of a secret."""
        return self.redact(text) if len(text) <= chars else self.stream().feed(text[:chars])

    def redact_json(self, value: Any) -> tuple[Any, int]:
        """Mask the strings of a JSON value, keys of objects included; answers also how many were changed.

        A string that is a UUID as a whole, such as a message's id, is left: one in 13,000 looks like a card. Own
        patterns may mean UUIDs, and see them.
        """
        if isinstance(value, str):
            if not self._by_line and _UUID.fullmatch(value):
                return value, 0
            redacted = self.redact(value)
            return redacted, int(redacted != value)
        if isinstance(value, Mapping):
            pairs = [(self.redact_json(key), self.redact_json(item)) for key, item in value.items()]
            return {key[0]: item[0] for key, item in pairs}, sum(key[1] + item[1] for key, item in pairs)
        if isinstance(value, Sequence):
            items = [self.redact_json(item) for item in value]
            return [item[0] for item in items], sum(item[1] for item in items)
        return value, 0

    def stream(self) -> "RedactedStream":
        """Start a stream of chunks."""
        return RedactedStream(self, Lines() if self._by_line else Words())

    def redact_segments(self, segments: Sequence[str]) -> str:
        """Mask what is found in each segment; returns them joined."""
        if len(segments) == 1 and len(segments[0]) <= _SHORT_CHARS:
            return self._word(segments[0])
        return "".join(self._redact_block(block) for block in blocks(segments, by_line=self._by_line))

    def _redact(self, text: str) -> str:
        if not self._by_line and not self._may_hold.search(_encoded(text)):
            return text
        stream = self.stream()
        return stream.feed(text) + stream.end()

    def _redact_block(self, segments: list[str]) -> str:
        text = "".join(segments)
        encoded = _encoded(text)
        if not self._by_line:
            if not self._may_hold.search(encoded):
                return text
            encoded = _encoded("\0".join([*segments, ""]))
        found: list[tuple[int, int, bytes]] = []
        for name, find in self._finds:
            for start, end in find(encoded):
                i = bisect(found, (start,))
                is_free = (i == 0 or found[i - 1][1] <= start) and (i == len(found) or end <= found[i][0])
                if start < end and is_free:
                    found.insert(i, (start, end, name))
        if not found:
            return text
        kept, at = [], 0
        for start, end, name in found:
            kept += [encoded[at:start], name]
            at = end
        masked = b"".join([*kept, encoded[at:]])
        if not self._by_line:
            masked = _BORDERS.sub(rb"\1", masked) if "\0" in text else masked.replace(_BORDER, b"")
        return masked.decode(errors="surrogatepass")


class RedactedStream:
    """One stream: the chunks that come out, joined, are the redacted text of the chunks that went in, joined."""

    def __init__(self, redactor: Redactor, segments: Words | Lines) -> None:
        self._redactor = redactor
        self._segments = segments

    def feed(self, chunk: str) -> str:
        """Add a chunk; return the text that is complete by now, which may be empty."""
        ended = self._segments.feed(chunk)
        return self._redactor.redact_segments(ended) if ended else ""

    def end(self) -> str:
        """Return the delayed rest."""
        return self._redactor.redact_segments(self._segments.end())


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
