"""Texts that were made to be slow are masked in time that is linear in their length: whole, in a stream and in a line.

The times are CPU time of this process, so that a busy machine changes them little. The limit is ten times what an
ordinary text of this length takes, also on a slower machine; before, 48,000 characters of one word took a minute.
"""

import io
import json
import logging
import math
import random
import time
from collections.abc import Callable

import pytest

from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_output import Event, Lines

CHARS = 100_000
LONGEST_S = 0.1
"""What no machine is too slow for; above it, an ordinary text is masked beside."""
CHUNK_CHARS = 50
MEASURABLE_S = 0.005
"""Below this a ratio of two times says nothing."""

REPEATED = {
    "one word": "a",
    "one number": "1",
    "base64": "QUJD",
    "spaces": " ",
    "lines": "\n",
    "NULs": "\0",
    "words that end in NUL": "a\0",
    "letters outside ASCII": "é",
    "digits outside ASCII": "\u0661",
    "halves of surrogate pairs": "\ud800",
    "dashes": "\u2010",
    "quotes": '"',
    "equals signs": "=",
    "colons": ":",
    "dots between digits": "1.",
    "slashes between digits": "1/",
    "days and months": "1/1/",
    "spaces between digits": "1 ",
    "narrow spaces between digits": "\u202f1",
    "letters between digits": "1a",
    "numbers that end in a letter": "1234567a",
    "open brackets": "(",
    "open brackets and digits": "(1",
    "plus signs": "+",
    "country codes": "+1 ",
    "numbers without a country": "+99 30 12345,",
    "numbers of no plan": "123 4567,",
    "numbers with a country code": "+493012345 ",
    "numbers in groups": "(212) 555-1234 ",
    "numbers in a list": "212-555-1234,",
    "at signs": "@",
    "beginnings of addresses": "a@",
    "addresses without an end": "a@b.",
    "addresses": "a@b.cd ",
    "domains that go on": "a@b.cd.1.",
    "beginnings of URLs": "://",
    "users in URLs": "://a:",
    "passwords in URLs": "://:a@",
    "labels": "token:",
    "labels without a value": "pwd=",
    "labels with a value": "pwd=aaaaaa ",
    "bearers": "bearer ",
    "beginnings of keys": "sk-",
    "keys that are too short": "sk-a ",
    "keys": "sk-aaaaaaaaaaaaaaaa ",
    "beginnings of web tokens": "eyJaaaaaaaa.",
    "beginnings of private keys": "-----BEGIN ",
    "heads of private keys": "-----BEGIN RSA PRIVATE KEY-----\n",
    "groups of capitals": "AB12 ",
    "beginnings of IBANs": "DE00 ",
    "IBANs": "DE89370400440532013000 ",
    "digits that begin a card": "4 ",
    "cards": "4111 1111 1111 1111 ",
    "cards without a checksum": "4111 1111 1111 1112 ",
}
MIXED = {
    "parts of keys": ("sk-", "pypi-", "glpat-", "xoxb-", "npm_", "ghp_", "hf_", "a", "-", "_"),
    "parts of domains": ("a", "-", ".", "@", "b1"),
    "parts of URLs": ("://", ":", "@", "a", "/"),
    "parts of numbers": tuple("0123456789 -./()+"),
    "parts of IBANs": ("DE", "00", "GB12", " ", "a", "9"),
    "parts of cards": ("4", "1 ", "44 ", "2-"),
}


ORDINARY = ("Please call 030 901820 on 3 May 2025 at 10:30 about order 4711, which cost 12.50 EUR. " * CHARS)[:CHARS]


def mixed(parts: tuple[str, ...], chars: int) -> str:
    chosen = random.Random(7)
    return "".join(chosen.choice(parts) for _ in range(chars))[:chars]


SHAPES: dict[str, Callable[[int], str]] = {
    **{name: lambda chars, part=part: (part * (chars // len(part) + 1))[:chars] for name, part in REPEATED.items()},
    **{name: lambda chars, parts=parts: mixed(parts, chars) for name, parts in MIXED.items()},
    "spaces behind a label": lambda chars: "bearer" + " " * chars,
    "a private key without an end": lambda chars: "-----BEGIN PRIVATE KEY-----\n" + ("A" * 64 + "\n") * (chars // 65),
}
OWN = {"case": r"CASE-\d+", "nested": r"(a+)+$", "ambiguous": r"(1|11|1 )*x"}
REDACTORS = {"our patterns": Redactor(), "own patterns": Redactor(OWN)}


def is_brief(shape: str, redactor: str) -> bool:
    """Whether every run tests it: own patterns are looked for beside ours, which all shapes were made for."""
    return redactor == "our patterns" or shape in MIXED


shapes = pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
of_redactors = pytest.mark.parametrize(
    ("text", "redactor"),
    [
        pytest.param(text, redactor, id=f"{shape}-{name}", marks=() if is_brief(shape, name) else pytest.mark.slow)
        for shape, text in SHAPES.items()
        for name, redactor in REDACTORS.items()
    ],
)


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time of a run, of the quickest of three if it is near the limit."""
    best_s = math.inf
    for _ in range(3):
        began = time.process_time()
        work()
        best_s = min(best_s, time.process_time() - began)
        if best_s < LONGEST_S * 0.8:
            break
    return best_s


def takes_too_long(took_s: float) -> bool:
    """Whether that is more than ten times what an ordinary text takes, here and now."""
    return took_s >= LONGEST_S and took_s > 10 * cpu_s(lambda: REDACTORS["our patterns"].redact(ORDINARY))


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """Load the numbering plans, which is done once per process and takes longer than what is measured here."""
    for redactor in REDACTORS.values():
        redactor.redact("+49 30 901820, (212) 555-1234, 99 30 12345")


def streamed(redactor: Redactor, text: str) -> str:
    stream = redactor.stream()
    chunks = [stream.feed(text[at : at + CHUNK_CHARS]) for at in range(0, len(text), CHUNK_CHARS)]
    return "".join(chunks) + stream.end()


@of_redactors
def test_hostile_text_is_masked_in_linear_time(text, redactor):
    once, twice = text(CHARS), text(2 * CHARS)
    took_s = cpu_s(lambda: redactor.redact(once))
    assert not takes_too_long(took_s)
    assert cpu_s(lambda: redactor.redact(twice)) < max(3 * took_s, MEASURABLE_S)


@of_redactors
def test_hostile_text_is_masked_in_linear_time_in_a_stream_and_as_it_is_whole(text, redactor):
    once = text(CHARS)
    assert not takes_too_long(cpu_s(lambda: streamed(redactor, once)))
    assert streamed(redactor, once) == redactor.redact(once)


def test_own_pattern_that_looks_to_the_end_of_the_line_for_each_match_is_bounded_by_the_segments():
    redactor = Redactor({"greedy": "a.*z|a"})
    once_s = cpu_s(lambda: redactor.redact("a" * CHARS))
    assert cpu_s(lambda: redactor.redact("a" * 2 * CHARS)) < 3 * once_s
    assert once_s < 1


@shapes
def test_hostile_text_in_a_log_line_is_cut_and_then_masked(text):
    once = text(CHARS)
    lines = Lines(io.StringIO(), REDACTORS["our patterns"])
    values = {"error": once, "names": [once] * 1_000, "words": {once: once, "more": once.split(" ")}}
    record = logging.makeLogRecord({"msg": Event(event="node.failed", level="info", **values)})
    assert not takes_too_long(cpu_s(lambda: lines.handle(record)))
    line = json.loads(lines.stream.getvalue().splitlines()[0])
    assert 0 < len(line["error"]) < 10_000
    assert all(len(json.dumps(line[name], ensure_ascii=False)) < 100_000 for name in values)
