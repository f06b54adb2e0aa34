"""Characters by which a text controls the terminal that shows it, or the order in which it is read, made visible.

They are those of C0 and C1 (ESC and CSI begin commands to a terminal; a line feed begins what looks like another line),
the separators that some readers take for the end of a line, the overrides of the writing direction, and halves of
surrogate pairs, which cannot be written at all.

Source: Unicode Technical Report 36 (bidirectional text), ECMA-48 (control functions).
"""

import re

PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+$"
"""A text without any of them, for schemas: JSON has no halves of surrogate pairs."""

_CHARS = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ANY = re.compile(f"[\x00-\x1f{_CHARS}]")
_ANY_BUT_LAYOUT = re.compile(f"[\x00-\x08\x0b-\x1f{_CHARS}]")


def visible(text: str) -> str:
    r"""Write each of them as an escape, such as `\x1b`; the result is one line."""
    return _ANY.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Write each of them as an escape, except line feeds and tabs."""
    return _ANY_BUT_LAYOUT.sub(_escape, text)


def visible_json(text: str) -> str:
    """Write each of them as JSON does; in JSON on one line they stand in strings only, so it means the same."""
    return _ANY.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
