"""What is masked, what is left alone, and that a stream is masked as the whole text is."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import (
    SUPPORTED_REGIONS,
    PhoneNumberFormat,
    PhoneNumberMatcher,
    PhoneNumberType,
    example_number_for_type,
    format_number,
)

from langgraph_rq.shared.redaction import SEGMENT_CHARS, Redactor

REDACTOR = Redactor()
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\n"
    + ("MIIEpAIBAAKCAQEA" * 4 + "\n") * 3
    + "c2hvcnQ=\n-----END RSA PRIVATE KEY-----\n"
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann.lee+x@example.co.uk now", "write to [email] now"),
        ("日本語ann@example.com日本", "日本語[email]日本"),
        ("call +49 30 901820 please", "call [phone] please"),
        ("call (212) 555-1234, thanks", "call [phone], thanks"),
        ("(212) 555-1234 (212) 555-1235/212.555.1236", "[phone] [phone]/[phone]"),
        ("+49 30 901820 +49 (0)30 901821, 011 49 30 901822", "[phone] [phone], [phone]"),
        ("1234 4111 1111 1111 1111", "1234 [card]"),
        ("from DE00 1234 to DE89 3704 0044 0532 0130 00", "from DE00 1234 to [iban]"),
        ("card 4111 1111 1111 1111 exp 12/29", "card [card] exp 12/29"),
        ("4111-1111-1111-1111", "[card]"),
        ("pay to DE89 3704 0044 0532 0130 00 EUR 5", "pay to [iban] EUR 5"),
        ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "[iban]"),
        ("gb29nwbk60161331926819.", "[iban]."),
        ("key sk-proj-abcdEFGH1234567890abcd", "key [secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("ghp_" + "a1B2" * 9, "[secret]"),
        ("xoxb-123456789012-abcdef", "[secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xyz.sig-nature", "[secret]"),
        ("Authorization: Bearer abc.def-ghi123", "Authorization: Bearer [secret]"),
        ("password: hunter22, ok", "password: [secret], ok"),
        ('{"api_key": "abcdef123456"}', '{"api_key": "[secret]"}'),
        ("postgres://u:pw123@host/db", "postgres://u:[secret]@host/db"),
        ("redis://:pw123@host:6379/0", "redis://:[secret]@host:6379/0"),
    ],
)
def test_personal_data_and_secrets_are_masked(text, masked):
    assert REDACTOR.redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "7541897b-8dcb-4539-ad83-7db3f43609a3",
        "2026-11-22 13:14:15.123 took 12345678 ms",
        "2026-11-22T13:14:34Z",
        "order 2125551234, version 1.2.3.4, port 6379",
        "1,000,000 of 2,000,000 tokens used",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "4111 1111 1111 1112 fails the Luhn check",
        "DE88 3704 0044 0532 0130 00 fails mod 97",
        "max_tokens=100 and a user @ home",
        "redis://***@host:6379/0",
    ],
)
def test_ids_times_numbers_and_failed_checksums_are_left_alone(text):
    assert REDACTOR.redact(text) == text


def test_a_private_key_is_masked_with_its_lines():
    assert REDACTOR.redact(f"here:\n{PEM}bye") == "here:\n[secret]\n-----END RSA PRIVATE KEY-----\nbye"


def test_national_numbers_need_a_region():
    text = "ring 030 901820 today"
    assert Redactor(phone_region=None).redact(text) == text
    assert Redactor(phone_region="DE").redact(text) == "ring [phone] today"


def test_every_kind_of_number_of_every_country_is_found_as_libphonenumber_finds_it():
    missed = []
    for region in sorted(SUPPORTED_REGIONS):
        redactor = Redactor(phone_region=region)
        examples = (example_number_for_type(region, kind) for kind in PhoneNumberType.values())
        formats = (PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.NATIONAL)
        texts = [f"call {format_number(one, style)} now" for one in examples if one for style in formats]
        for text in texts:
            found = [match.raw_string for match in PhoneNumberMatcher(text, region)]
            if found and sum(map(str.isdigit, found[0])) >= 7 and not found[0].isdigit():
                masked = redactor.redact(text)
                missed += [text] if masked not in {text.replace(found[0], "[phone]"), "call +[card] now"} else []
    assert missed == []


def test_own_patterns_are_found_across_words_of_a_line():
    redactor = Redactor({"project": r"project \w+ night"})
    assert redactor.redact("the project silent night, ann@example.com") == "the [project], [email]"


def test_a_pattern_that_cannot_be_compiled_is_named():
    with pytest.raises(ValueError, match=r"pattern case: expected a regular expression that RE2 runs .*, got: \("):
        Redactor({"case": "("})


@pytest.mark.parametrize(
    ("pattern", "construct"),
    [
        ("(?<=CASE-)[0-9]+", r"invalid perl operator: \(\?<"),
        ("(?=x)y", r"invalid perl operator: \(\?="),
        (r"(a)\1", r"invalid escape sequence: \\1"),
        (r"x\C", r"\\C may match a part of a character"),
    ],
)
def test_a_pattern_that_cannot_run_in_linear_time_is_refused_with_its_construct(pattern, construct):
    with pytest.raises(ValueError, match=rf"pattern case: expected .* RE2 .*\({construct}"):
        Redactor({"case": pattern})


def test_beginning_of_a_long_text_does_not_end_in_a_part_of_a_secret():
    assert REDACTOR.redact_beginning("the key sk-abcdEFGH1234567890abcd is", 20) == "the key "
    assert REDACTOR.redact_beginning("write to ann@example.com now", 26) == "write to [email] "
    assert REDACTOR.redact_beginning("ann@example.com", 15) == "[email]"


def test_text_with_nuls_keeps_them():
    text = "\0\0a\0 ann@example.com\0\0 b\0"
    assert REDACTOR.redact(text) == "\0\0a\0 [email]\0\0 b\0"


def test_strings_of_a_json_value_are_masked_and_counted():
    value = {"to": ["ann@example.com", 4111111111111111, None], "bob@example.com": {"text": "hello"}}
    assert REDACTOR.redact_json(value) == (
        {"to": ["[email]", 4111111111111111, None], "[email]": {"text": "hello"}},
        2,
    )


def test_uuid_that_looks_like_a_card_is_left_where_it_is_a_whole_value():
    uuid = "63112188-6269-4295-97df-29c3c1a17cac"
    assert REDACTOR.redact(uuid) == "[card]-97df-29c3c1a17cac"
    assert REDACTOR.redact_json({"id": uuid, "run": f"lc_run--{uuid}"}) == ({"id": uuid, "run": f"lc_run--{uuid}"}, 0)
    assert REDACTOR.redact_json(f"paid by {uuid}") == ("paid by [card]-97df-29c3c1a17cac", 1)
    assert Redactor({"customer": "[0-9a-f-]{36}"}).redact_json(uuid) == ("[customer]", 1)


def test_prose_streams_word_by_word():
    stream = REDACTOR.stream()
    assert [stream.feed(chunk) for chunk in ("The ans", "wer is ", "4", "2 of", " them. ")] == [
        "The ",
        "answer is ",
        "",
        "",
        "42 of them. ",
    ]


def test_nothing_is_held_back_for_ever():
    stream = REDACTOR.stream()
    assert len(stream.feed("x" * (SEGMENT_CHARS + 10))) == SEGMENT_CHARS


PIECES = st.sampled_from(
    [
        *("ann@example.com", "+49 30 901820", "(212) 555-1234", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"),
        *("sk-abcdEFGH1234567890abcd", "Bearer abc.def-ghi123", "password: hunter22", "the ", "TO ", "12 ", "日本"),
        *(" ", "\n", ":", "x", "@", "9", "-", "\u00a0", "://u:", "\0", "\ud800", PEM),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 400), max_size=20), by_line=st.booleans())
@example(text="ann@example.com", cuts=list(range(16)), by_line=False)
@example(text=PEM, cuts=list(range(0, 300, 7)), by_line=False)
@example(text="\n4111 1111 1111 1111\n", cuts=[1], by_line=True)
def test_stream_is_masked_as_the_whole_text_is(text, cuts, by_line):
    redactor = Redactor({"own": r"x\d+"}) if by_line else REDACTOR
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    stream = redactor.stream()
    chunks = [stream.feed(text[a:b]) for a, b in pairwise(borders)]
    assert "".join(chunks) + stream.end() == redactor.redact(text)


LINES = ["4111 1111 1111 1111", "ann@example.com", "DE89 3704 0044 0532 0130 00", "+1 650 253 0000", "x1"]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("before", ["", "\n", "a\n", "a\n\n"])
def test_what_fills_a_line_is_masked_beside_patterns_of_ones_own_too(line, before):
    masked = Redactor({"own": r"x\d+"}).redact(f"{before}{line}\nb")
    assert masked.startswith(f"{before}[")
    assert masked.endswith("]\nb")


@given(text=st.text(st.characters(codec="ascii", exclude_characters="@:/-+.0123456789"), max_size=200))
def test_text_without_digits_and_marks_is_left_alone(text):
    if not any(word in text.lower() for word in ("bearer", "basic", "pass", "pwd", "secret", "token", "key")):
        assert REDACTOR.redact(text) == text
