"""Secrets, addresses, cards and IBANs: the shapes that are searched, and the checksums of what has the shape.

A search gives spans of bytes. It looks ahead by no more than what it finds, and a check by no more than 34 characters,
so that all searches of a text together are linear in its length.

Sources: the shapes of keys are those of Yelp's detect-secrets; ISO 13616 (IBAN), ISO/IEC 7812 (Luhn).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from langgraph_rq.shared.redaction.segments import DASHES

Span = tuple[int, int]
Find = Callable[[bytes], Iterable[Span]]

MAY_HOLD = (
    r"@|[0-9]{7}|[0-9][^a-z0-9\n]{1,3}[0-9][^A-Za-z_]|[A-Za-z]{2}[0-9]{2}|://[^/\s]*:"
    r"|(?i:bearer|basic|passw|pwd|secret|token|api.?key|access.?key)"
    r"|sk-[a-zA-Z0-9_-]{9}|[sr]k_|A3T|ABIA|ACCA|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AIza|SG\."
    r"|npm_|pypi-|hf_|eyJ|PRIVATE KEY"
)
"""A cheap first look; nothing below matches where this does not, whatever stands around it."""

_TOKENS = (
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
)
TOKEN = (
    rf"\b(?:{'|'.join(_TOKENS)})"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:\n[A-Za-z0-9+/=]{60,76})*(?:\n[A-Za-z0-9+/=]+)?"
)
LABELLED = (
    r"(?i)(?:\b(?:bearer|basic)[ \t]+"
    r"|(?:api[_-]?key|access[_-]?key|auth[_-]?token|token|secret|passw(?:or)?d|pwd)"
    r"""["']?[ \t]{0,2}[=:][ \t]{0,2}(?:bearer[ \t]+)?["']?)"""
    r"([A-Za-z0-9_.~+/=!@#$%^&*-]{6,})"
)
URL = r"://[^\x00-\x20:/@]*:([^\x00-\x20@/]+)@"
EMAIL = r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"

CARD = rf"(?m:^|[^0-9A-Za-z_.])([2-6](?:[ {DASHES}-]?[0-9])*)"
_CARD_DIGITS = range(13, 20)
_DIGITS = re.compile(rb"[0-9]+")
_ALL_BUT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_VALUE = bytes(byte - 48 if byte in b"0123456789" else 0 for byte in range(256))
_DOUBLED = bytes(sum(divmod(2 * value, 10)) if value < 10 else 0 for value in range(256))

_IBAN_LENGTHS = (
    "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18"
    "GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28"
    "NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20"
)
_SOFT = rb"(?: |\t|\xc2\xa0|\xe2\x80\xaf)?"
_SOFT_BYTES = b" \t\xc2\xa0\xe2\x80\xaf"
_IBANS = {
    _IBAN_LENGTHS[i : i + 2].encode(): re.compile(
        rb"[A-Za-z0-9](?:%b[A-Za-z0-9]){%d}" % (_SOFT, int(_IBAN_LENGTHS[i + 2 : i + 4]) - 1)
    )
    for i in range(0, len(_IBAN_LENGTHS), 4)
}
IBAN = rf"(?i)\b(?:{'|'.join(country.decode() for country in _IBANS)})[0-9]{{2}}"
_BASE_36 = {ord(char): str(int(char, 36)) for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def whole(pattern: Any) -> Find:
    """Find what a pattern matches."""
    return lambda text: [match.span() for match in pattern.finditer(text)]


def part(pattern: Any) -> Find:
    """Find the first group of what a pattern matches."""
    return lambda text: [match.span(1) for match in pattern.finditer(text)]


def cards(pattern: Any) -> Find:
    """Find payment cards: 13 to 19 digits in groups, of which the last one proves the others."""
    return lambda text: [card for match in pattern.finditer(text) for card in _cards(text, *match.span(1))]


def _cards(text: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the cards in a run of digit groups; each group is part of one candidate at most."""
    if end - start < _CARD_DIGITS.start:
        return
    groups = [match.span() for match in _DIGITS.finditer(text, start, end)]
    if text[end : end + 1].isalnum() or text[end : end + 1] == b"_":
        groups.pop()
    at = 0
    while at < len(groups):
        digits, last = 0, at - 1
        for i in range(at, len(groups)):
            digits += groups[i][1] - groups[i][0]
            if digits >= _CARD_DIGITS.stop:
                break
            if digits >= _CARD_DIGITS.start:
                last = i
        first = groups[at][0]
        if last >= at and text[first] in b"23456":
            if _passes_luhn(text[first : groups[last][1]]):
                yield first, groups[last][1]
            at = last
        at += 1


def _passes_luhn(text: bytes) -> bool:
    values = text.translate(_VALUE, _ALL_BUT_DIGITS)
    return (sum(values[-1::-2]) + sum(values[-2::-2].translate(_DOUBLED))) % 10 == 0


def ibans(pattern: Any) -> Find:
    """Find international bank account numbers, whose second two digits prove the rest (mod 97)."""

    def find(text: bytes) -> Iterator[Span]:
        free = 0
        for match in pattern.finditer(text):
            start, _ = match.span()
            found = start >= free and _IBANS[text[start : start + 2].upper()].match(text, start)
            if found and _passes_mod_97(found[0]):
                free = found.end()
                yield found.span()

    return find


def _passes_mod_97(text: bytes) -> bool:
    iban = text.translate(None, _SOFT_BYTES).upper().decode()
    return int(f"{iban[4:]}{iban[:4]}".translate(_BASE_36)) % 97 == 1
