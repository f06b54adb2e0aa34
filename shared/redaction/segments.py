"""Segments: the parts of a text that are searched each by itself.

Where a segment ends depends only on the text before, so a stream is masked as the whole text would be, however it is
cut into chunks, and most words pass at once: only words that may be part of something longer (digits, groups of
capitals, a label before a colon) wait for the next one. A segment is never longer than `SEGMENT_CHARS`.

The patterns run in linear time although Python's engine backtracks: their repetitions are possessive (`*+`), each is
tried at one position only, and a search ends after `_WINDOW_CHARS`.
"""

import re
from collections.abc import Iterable, Iterator

SEGMENT_CHARS = 4096
"""The longest text that a stream delays. An address inside a longer word without a break is not found."""

_WINDOW_CHARS = 4 * SEGMENT_CHARS
SOFT = " \t\u00a0\u202f"
DASHES = "\u2010\u2011\u2012\u2013"
_WORD = rf"[!-~{DASHES}]"
_MARKS = rf"().,/+{DASHES}-"
_JOINING = (
    rf"(?:[(\[\"']*+(?:[{_MARKS}]*+[0-9][0-9{_MARKS}]*+|[A-Z0-9]{{1,4}}|[A-Z]{{2}}[0-9]{{2}}[A-Z0-9]{{0,30}}"
    rf"|{_WORD}*+(?<=[:=])|(?i:bearer|basic)|-----BEGIN|RSA|DSA|EC|OPENSSH|ENCRYPTED|PRIVATE)[{SOFT}]"
    r"|(?:KEY-----|[A-Za-z0-9+/=]{60,76})\n)*+"
)
"""Words that can be followed by the rest of what they begin (numbers, groups of an IBAN, labels, heads of keys) with
the character behind them, and the lines of a private key, which belong together."""

_joining = re.compile(_JOINING)
_separator = re.compile(rf"[^!-~{DASHES}]")
_last_word = re.compile(rf"{_WORD}*+[^!-~{DASHES}]")
_segment = re.compile(rf"{_JOINING}{_WORD}*+(?:[^!-~{DASHES}]|\Z)")
"""A segment, or what a text that goes on may yet make longer."""


class Words:
    """Segments of words, of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._joined = 0
        """Chars of `_held` that are known to wait for the next word."""

    def feed(self, piece: str) -> list[str]:
        """Add a piece; return the segments that have ended."""
        text = self._held + piece
        if len(text) < SEGMENT_CHARS and not _separator.search(piece):
            self._held = text
            return []
        ended: list[str] = []
        at = 0
        while (end := self._end(text, at)) is not None:
            ended.append(text[at:end])
            self._joined, at = 0, end
            if len(text) - end < SEGMENT_CHARS and not _separator.search(text, end):
                break
            for segment in _segment.findall(text, at, at + _WINDOW_CHARS):
                if len(segment) >= SEGMENT_CHARS or at + len(segment) >= min(len(text), end + _WINDOW_CHARS):
                    break  # `_end` knows where it ends, and whether it has
                ended.append(segment)
                at += len(segment)
        self._held = text[at:]
        return ended

    def end(self) -> list[str]:
        """Return the delayed rest."""
        held, self._held, self._joined = self._held, "", 0
        return [held] if held else []

    def _end(self, text: str, start: int) -> int | None:
        """Find the end of the segment that begins at `start`; None: that depends on what follows."""
        last = start + SEGMENT_CHARS
        joined = _joining.match(text, start + self._joined, last)
        at = joined.end() if joined else start
        if found := _last_word.match(text, at, last):
            return found.end()
        self._joined = at - start
        return last if len(text) >= last else None


class Lines:
    """Segments that are lines."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> list[str]:
        """Add a piece; return the lines that have ended, and what is longer than a segment may be."""
        text = self._held + piece
        ended: list[str] = []
        if "\n" in piece or len(text) >= SEGMENT_CHARS:
            at = 0
            while (end := _line_end(text, at)) is not None:
                ended.append(text[at:end])
                at = end
            text = text[at:]
        self._held = text
        return ended

    def end(self) -> list[str]:
        """Return the delayed rest."""
        held, self._held = self._held, ""
        return [held] if held else []


def _line_end(text: str, start: int) -> int | None:
    last = start + SEGMENT_CHARS
    end = text.find("\n", start, last) + 1
    return end or (last if len(text) >= last else None)


def blocks(segments: Iterable[str], *, by_line: bool) -> Iterator[list[str]]:
    """Group segments so that a search of a group costs no more than the search of a long segment.

    With `by_line` a segment that is not a whole line ends its group, as nothing separates it from the next one.
    """
    group: list[str] = []
    chars = 0
    for segment in segments:
        group.append(segment)
        chars += len(segment)
        if chars >= SEGMENT_CHARS or (by_line and not segment.endswith("\n")):
            yield group
            group, chars = [], 0
    if group:
        yield group
