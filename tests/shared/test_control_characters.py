"""Control characters are made visible, and every other character is left as it is."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_rq.shared.control_characters import visible, visible_json, visible_lines

CONTROLS = [chr(code) for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]]


@pytest.mark.parametrize("char", [*CONTROLS, "\u2028", "\u2029", "\ud800"], ids=ascii)
def test_control_character_is_written_as_its_escape(char):
    assert visible(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"
    assert visible_lines(f"a{char}b") == (f"a{char}b" if char in "\n\t" else visible(f"a{char}b"))


@given(text=st.text())
def test_text_keeps_all_other_characters_and_can_be_written(text):
    shown = visible(text)
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in shown)
    assert shown.encode().decode() == shown
    if not any(unicodedata.category(char)[0] in "CZ" for char in text):
        assert shown == text


@given(value=st.text() | st.lists(st.text(st.sampled_from([*CONTROLS, "a", "\\", '"', "\u2028"]))))
def test_json_means_the_same_afterwards(value):
    assert json.loads(visible_json(json.dumps(value, ensure_ascii=False))) == value
