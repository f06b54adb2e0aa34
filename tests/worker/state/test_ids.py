"""Ids of tasks in the records of a thread: short where that loses nothing."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_rq.worker.state.saver.ids import long_id, short_id

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_uuid_takes_16_bytes():
    assert short_id(UUID) == bytes.fromhex("0f8fad5bd9cb469fa16570867728950e")
    assert long_id(short_id(UUID)) == UUID


@pytest.mark.parametrize(
    "text", ["", "node", UUID.upper(), UUID.replace("-", ""), UUID[:-1], f"{UUID} ", f"{UUID[:8]} {UUID[9:]}", "\ud800"]
)
def test_text_that_would_come_back_as_another_stays_as_it_is(text):
    assert short_id(text) == text


@given(st.text(alphabet="0123456789abcdefABCDEF- ", max_size=40) | st.builds(lambda: str(uuid4())))
def test_every_text_comes_back(text):
    short = short_id(text)
    assert (long_id(short) if isinstance(short, bytes) else short) == text
