"""Mask personal data and secrets in text: whole texts, JSON values, and streams of tokens across their borders.

What is found: e-mail addresses, phone numbers, payment cards (Luhn), IBANs (mod 97), API keys and tokens, passwords in
URLs and assignments, and own patterns. Each becomes `[kind]`. Detection is by shape and checksum: it finds what a
careless prompt or log line contains, and does not prove that nothing is left.

A text is cut into segments, and each is searched by itself. Where a segment ends depends only on the text before, so a
stream is redacted as the whole text would be, however it is cut into chunks, and most words pass at once: only words
that may be part of something longer (digits, groups of capitals, a label before a colon) wait for the next one. With
own patterns a segment is a line. A segment is never longer than `SEGMENT_CHARS`.

Sources: the shapes of keys are those of Yelp's detect-secrets; ISO 13616 (IBAN), ISO/IEC 7812 (Luhn); phone numbers are
found and checked by phonenumbers, Google's libphonenumber.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

SEGMENT_CHARS = 4096
"""The longest text that a stream delays. An address inside a longer word without a break is not found."""

_SOFT = " \t\u00a0\u202f"
_DASHES = "\u2010\u2011\u2012\u2013"
_WORD = rf"[!-~{_DASHES}]"
_STEP = re.compile(rf"({_WORD}*)([^!-~{_DASHES}])")
"""A word and the character that ends it."""
_JOINS = re.compile(
    rf"[(\[\"']*(?:[+(]?[\d().,/+{_DASHES}-]*\d[\d().,/+{_DASHES}-]*|[A-Z0-9]{{1,4}}|[A-Z]{{2}}\d{{2}}[A-Z0-9]{{0,30}}"
    r"|.*[:=]|(?i:bearer|basic)|-----BEGIN|RSA|DSA|EC|OPENSSH|ENCRYPTED|PRIVATE)$"
)
"""Words that can be followed by the rest of what they begin: numbers, groups of an IBAN, labels, heads of keys."""
_JOINS_LINES = re.compile(r"(?:KEY-----|[A-Za-z0-9+/=]{60,76})$")
"""The lines of a private key belong together."""
_MAY_HOLD = re.compile(
    r"@|\d{7}|\d[^a-z\d\n]{1,3}\d[\d\W]|[A-Z]{2}\d\d|://[^/\s]*:|(?i:bearer|basic|pass|pwd|secret|token|api.?key|auth)"
    r"|\b(?:sk|rk|pk|gh[pousr]|github_pat|xox[a-z]|glpat|npm|pypi|hf|SG|AKIA|ASIA|AIza|eyJ)|PRIVATE KEY"
)
"""A cheap first look; nothing below matches where this does not."""

_SECRETS = (
    r"sk-(?:ant-|proj-|svcacct-|or-|lf-)?[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, Langfuse
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"xox[abdeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}|hf_[A-Za-z0-9]{30,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",  # JSON Web Token
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:\n[A-Za-z0-9+/=]{60,76})*(?:\n[A-Za-z0-9+/=]+)?",
)
_SECRET = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_SECRETS)})")
_LABELLED = re.compile(
    r"""(?ix) (?P<label> \b(?: bearer | basic)[ \t]+
      | (?:api[_-]?key | access[_-]?key | auth[_-]?token | token | secret | passw(?:or)?d | pwd)
        ["']? [ \t]{0,2} [=:] [ \t]{0,2} (?:bearer[ \t]+)? ["']? )
    (?P<secret> (?!\[) [A-Za-z0-9_.~+/=!@\#$%^&*-]{6,} )"""
)
_URL = re.compile(r"(?P<label>://[^\s:/@]*:)(?P<secret>[^\s@/]+)(?=@)")
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"
)
_CARD = re.compile(rf"(?<![\w.])[2-6](?:[ {_DASHES}-]?\d){{12,18}}(?!\w)")
_IBAN = re.compile(rf"(?i)(?<!\w)([a-z]{{2}})\d{{2}}(?:[{_SOFT}]?[a-z0-9]){{11,30}}")
_IBAN_LENGTHS = (
    "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18"
    "GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28"
    "NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20"
)
_IBAN_CHARS = {_IBAN_LENGTHS[i : i + 2]: int(_IBAN_LENGTHS[i + 2 : i + 4]) for i in range(0, len(_IBAN_LENGTHS), 4)}

Find = Callable[[str], Iterable[tuple[int, int]]]


class Redactor:
    """Masks what it finds; safe to share between threads.

    Args:
        patterns: Own regular expressions, name -> pattern; a match becomes `[name]`.
        phone_region: Where numbers without a country code belong, such as `US`; None finds only international ones.

    Raises:
        ValueError: a pattern cannot be compiled.
    """

    def __init__(self, patterns: Mapping[str, str] | None = None, phone_region: str | None = "US") -> None:
        own = [(name, _compile(name, pattern)) for name, pattern in (patterns or {}).items()]
        self._by_line = bool(own)
        self._finds: list[tuple[str, Find]] = [(name, _all_of(pattern)) for name, pattern in own]
        self._finds += [
            ("secret", _all_of(_SECRET)),
            ("secret", _part_of(_LABELLED)),
            ("secret", _part_of(_URL)),
            ("email", _all_of(_EMAIL)),
            ("iban", _ibans),
            ("card", _cards),
            ("phone", lambda text: _phones(text, phone_region)),
        ]
        self._short = lru_cache(maxsize=4096)(self._redact)

    def redact(self, text: str) -> str:
        """Mask what is found in a text."""
        return self._short(text) if len(text) <= 256 else self._redact(text)

    def redact_json(self, value: Any) -> tuple[Any, int]:
        """Mask the strings of a JSON value, keys of objects included; answers also how many were changed."""
        if isinstance(value, str):
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
        return RedactedStream(self)

    def segment_end(self, text: str, start: int) -> int | None:
        """Say where the segment that begins at `start` ends; None: that depends on what follows."""
        last = start + SEGMENT_CHARS
        if self._by_line:
            end = text.find("\n", start, last) + 1
            return end or (last if len(text) >= last else None)
        for step in _STEP.finditer(text, start):
            if step.end() > last:
                break
            word, separator = step.groups()
            joins = _JOINS_LINES.match(word) if separator == "\n" else separator in _SOFT and _JOINS.match(word)
            if not joins:
                return step.end()
        return last if len(text) >= last else None

    def redact_segment(self, text: str) -> str:
        """Mask what is found in one segment."""
        if not self._by_line and not _MAY_HOLD.search(text):
            return text
        found: list[tuple[int, int, str]] = []
        for name, find in self._finds:
            for start, end in find(text):
                if start < end and all(end <= other[0] or start >= other[1] for other in found):
                    found.append((start, end, name))
        if not found:
            return text
        found.sort()
        kept = [text[before[1] : after[0]] for before, after in pairwise([(0, 0, ""), *found])]
        masked = "".join(f"{part}[{name}]" for part, (_, _, name) in zip(kept, found, strict=True))
        return masked + text[found[-1][1] :]

    def _redact(self, text: str) -> str:
        if not self._by_line and not _MAY_HOLD.search(text):
            return text
        stream = self.stream()
        return stream.feed(text) + stream.end()


class RedactedStream:
    """One stream: the chunks that come out, joined, are the redacted text of the chunks that went in, joined."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, chunk: str) -> str:
        """Add a chunk; return the text that is complete by now, which may be empty."""
        text, start, ready = self._held + chunk, 0, []
        while (end := self._redactor.segment_end(text, start)) is not None:
            ready.append(self._redactor.redact_segment(text[start:end]))
            start = end
        self._held = text[start:]
        return "".join(ready)

    def end(self) -> str:
        """Return the delayed rest."""
        held, self._held = self._held, ""
        return self._redactor.redact_segment(held)


def _compile(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {name}: expected a regular expression, got: {pattern} ({error})") from None


def _all_of(pattern: re.Pattern[str]) -> Find:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _part_of(pattern: re.Pattern[str]) -> Find:
    return lambda text: (match.span("secret") for match in pattern.finditer(text))


def _cards(text: str) -> Iterable[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = [int(char) for char in match[0] if char.isdigit()]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0:
            yield match.span()


def _ibans(text: str) -> Iterable[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        chars = _IBAN_CHARS.get(match[1].upper(), 0)
        at = [i for i in range(match.start(), match.end()) if text[i] not in _SOFT][:chars]
        iban = "".join(text[i] for i in at).upper()
        if chars and len(iban) == chars and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1:
            yield match.start(), at[-1] + 1


def _phones(text: str, region: str | None) -> Iterable[tuple[int, int]]:
    if sum(char.isdigit() for char in text) < 7:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415 - slow to import, seldom needed

    for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID):
        # A bare run of digits is an order number more often than a phone number.
        if not match.raw_string.isdigit() or match.raw_string.startswith("00"):
            yield match.start, match.end
