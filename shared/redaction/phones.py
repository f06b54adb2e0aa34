"""Phone numbers: runs of digits and marks, checked against the numbering plans of libphonenumber.

A run is checked as a whole, then the parts between its slashes, brackets, dashes, full stops and spaces, each kind
once. Only parts of `_DIGITS` digits are checked, so that the cost is linear in the text; the kinds of marks and the
longest number bound its factor. The library's own matcher tries all ends of all parts of a run.

Source: phonenumbers, the Python port of Google's libphonenumber, for plans and for what is no number (dates, pages).
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from langgraph_rq.shared.redaction.engine import compile_shape
from langgraph_rq.shared.redaction.shapes import Find, Span

_MARK = r"[ \x{a0}\x{202f}\x{2010}-\x{2015}()\[\]./~-]"
PHONE = rf"[+(\[]*[0-9](?:{_MARK}{{0,4}}[0-9]){{6,}}"
_DIGITS = range(7, 18)
"""Digits of a number with its prefixes; a national number has up to 14."""
_LONGEST = 48
"""Longest number in bytes, marks included."""
_CUTS = tuple(
    (mark, re.compile(between))
    for mark, between in (
        (b"/", rb"/+"),
        (b"(", rb"(?=\()"),
        (b"-", rb" +-|- +"),
        (b"\xe2\x80", rb"\xe2\x80[\x90-\x95]"),
        (b".", rb"\.+"),
        (b" ", rb" +"),
        (b"\xc2\xa0", rb"\xc2\xa0"),
    )
)
"""What may separate two numbers, with a byte of it: the marks that are rarest inside a number first."""
_NO_PHONE = re.compile(
    rb"[0-9]{1,5}-+[0-9]{1,5}\s{0,4}\([0-9]{1,4}"  # pages and year of a publication
    rb"|(?:[0-3]?[0-9]/[01]?[0-9]|[01]?[0-9]/[0-3]?[0-9])/(?:[12][0-9])?[0-9]{2}"
    rb"|\A[12][0-9]{3}(?:([-/.])[01][0-9]\1[0-3][0-9](?: +[0-2][0-9])?|[01][0-9][0-3][0-9] +[0-2][0-9])\Z"
)
_ALL_BUT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_ALL_BUT_BEGINNINGS = bytes(set(_ALL_BUT_DIGITS) - set(b"+(["))
_KINDS = [
    *("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "voip", "personal_number", "pager", "uan"),
    "voicemail",
]


def phones(pattern: Any, region: str | None) -> Find:
    """Find phone numbers; `region` is where those without a country code belong, None: they are not found."""

    def find(text: bytes) -> Iterator[Span]:
        for match in pattern.finditer(text):
            start, end = match.span()
            yield from _numbers(text, start, end, region)

    return find


def _numbers(text: bytes, start: int, end: int, region: str | None, kind: int = 0) -> Iterator[Span]:
    """Yield the numbers of a run from its largest parts to its smallest."""
    part = text[start:end].rstrip(_ALL_BUT_DIGITS)
    end = start + len(part)
    start = end - len(part.lstrip(_ALL_BUT_BEGINNINGS))
    part = text[start:end]
    digits = part.translate(None, _ALL_BUT_DIGITS)
    if len(digits) < _DIGITS.start:
        return
    if len(digits) < _DIGITS.stop and _is_number(text, start, end, digits, region):
        yield start, end
        return
    if len(digits) == _DIGITS.start:
        return
    for i, (mark, between) in enumerate(_CUTS[kind:], kind + 1):
        cuts = [cut.span() for cut in between.finditer(text, start, end) if cut.start() > start] if mark in part else []
        if cuts:
            begins, ends = [start, *(cut[1] for cut in cuts)], [*(cut[0] for cut in cuts), end]
            for a, b in zip(begins, ends, strict=True):
                if b - a >= _DIGITS.start:
                    yield from _numbers(text, a, b, region, i)
            return


def _is_number(text: bytes, start: int, end: int, digits: bytes, region: str | None) -> bool:
    """Return whether this part is a number as people write it: in groups, or with a prefix, and no part of a word."""
    if end - start > _LONGEST:
        return False
    part = text[start:end]
    if part.isdigit() and not part.startswith(b"00"):
        return False  # a bare run of digits is an order number more often than a phone number
    if part[:1].isdigit() and start and _is_of_a_word(text[start - 1 : start]):
        return False
    if _is_of_a_word(text[end : end + 1]) or _NO_PHONE.search(part):
        return False
    number = digits.decode()
    return _is_international(number) if b"+" in part else region is not None and _is_dialled_in(region, number)


def _is_of_a_word(char: bytes) -> bool:
    return char.isalpha() or char in (b"%", b"$", b"_")


def _is_international(number: str) -> bool:
    """Return whether digits are a country code and a number of its plan."""
    return number[:1] != "0" and any(_is_national(int(number[:n]), number[n:]) for n in (1, 2, 3))


def _is_national(code: int, number: str) -> bool:
    """Return whether digits are a number of a plan, with or without the prefix that is dialled inside the country."""
    if _is_in_plan(code, number):
        return True
    stripped = _without_prefix(code, number) if _countries(code) else None
    return stripped is not None and _is_in_plan(code, stripped)


def _is_dialled_in(region: str, number: str) -> bool:
    """Return whether digits without a plus are a number as it is dialled, or written, in a country."""
    country = _country(region)
    abroad = re.match(country.international_prefix or "(?!)", number)
    if abroad and _is_international(number[abroad.end() :]):
        return True
    code = country.country_code
    stripped = _without_prefix(code, number)
    if stripped and _is_in_plan(code, stripped):
        return True
    if _is_in_plan(code, number):
        return not _needs_prefix(region, number)
    return number.startswith(str(code)) and _is_in_plan(code, number.removeprefix(str(code)))


def _is_in_plan(code: int, number: str) -> bool:
    lengths, plan = _plan(code)
    return len(number) in lengths and plan.fullmatch(number.encode()) is not None


def _needs_prefix(region: str, number: str) -> bool:
    """Return whether people of this country always write such a number with its prefix."""
    for begins, digits, needs in _formats(region):
        if begins.match(number) and digits.fullmatch(number):
            return needs
    return False


def _without_prefix(code: int, number: str) -> str | None:
    """Take the national prefix off; None: there is none."""
    prefix, replacement = _prefix(code)
    found = prefix.match(number)
    if not found or not found[0]:
        return None
    if replacement and found.re.groups and found[found.re.groups]:
        return found.expand(replacement) + number[found.end() :]
    return number[found.end() :] or None


@cache
def _country(region: str) -> Any:
    from phonenumbers import PhoneMetadata  # noqa: PLC0415 - slow to import, seldom needed

    return PhoneMetadata.metadata_for_region(region, None)


@cache
def _countries(code: int) -> tuple[Any, ...]:
    """Load the countries of a country code, the main one first."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata  # noqa: PLC0415 - see above

    regions = COUNTRY_CODE_TO_REGION_CODE.get(code, ())
    if regions == ("001",):
        return (PhoneMetadata.metadata_for_nongeo_region(code, None),)
    return tuple(_country(region) for region in regions)


@cache
def _plan(code: int) -> tuple[frozenset[int], Any]:
    """Compile the plan of a country code, all kinds of numbers of its countries: their lengths, and their digits."""
    lengths: set[int] = set()
    patterns: dict[str, None] = {}
    for country in _countries(code):
        for kind in (getattr(country, name) for name in _KINDS):
            if kind and kind.national_number_pattern:
                patterns[f"(?:{kind.national_number_pattern})"] = None
                lengths.update(kind.possible_length or country.general_desc.possible_length)
    return frozenset(lengths), compile_shape("|".join(patterns), by_line=False)


@cache
def _prefix(code: int) -> tuple[re.Pattern[str], str | None]:
    main = _countries(code)[0]
    replacement = main.national_prefix_transform_rule
    return re.compile(main.national_prefix_for_parsing or "(?!)"), replacement


@cache
def _formats(region: str) -> list[tuple[re.Pattern[str], re.Pattern[str], bool]]:
    """Compile how a country writes its numbers: how they begin, their digits, and whether the prefix must be there."""
    return [
        (
            re.compile(one.leading_digits_pattern[-1] if one.leading_digits_pattern else ""),
            re.compile(one.pattern),
            bool(one.national_prefix_formatting_rule)
            and not one.national_prefix_optional_when_formatting
            and not re.fullmatch(r"\(?\\1\)?", one.national_prefix_formatting_rule),
        )
        for one in _country(region).number_format
    ]
