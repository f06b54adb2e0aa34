"""Values of graphs as JSON: what LangGraph Server writes of them, and what nobody can write."""

import json
import re
import socket
from collections import Counter, UserDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from langchain_core.messages import AIMessage
from langgraph.types import Interrupt, Send
from pydantic import BaseModel, ConfigDict, SecretStr

from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.worker.outputs.json_values import DEEPEST, NAMED, as_json, encode


class Colour(Enum):
    RED = "red"


class Raw(Enum):
    BYTES = b"\xff"


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    data: bytes
    other: Any = None


@dataclass
class Record:
    value: Any
    _hidden: int = 1


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"\xff\x00", "/wA="),
        (bytearray(b"a"), "YQ=="),
        (memoryview(b"a"), "YQ=="),
        (float("nan"), None),
        (float("-inf"), None),
        (np.array([[1.5, np.nan]]), [[1.5, None]]),
        (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.array(["a"]), ["a"]),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.datetime64("2026-01-02"), "2026-01-02T00:00:00"),
        ({"b"}, ["b"]),
        (frozenset({1}), [1]),
        (deque([1, 2]), [1, 2]),
        (range(2), [0, 1]),
        ({"a": 1}.values(), [1]),
        (UserDict(a=1), {"a": 1}),
        (MappingProxyType({"a": b"a"}), {"a": "YQ=="}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (Colour.RED, "red"),
        (Raw.BYTES, "/w=="),
        (Decimal("1.50"), 1.5),
        (Decimal("1E+2"), 100),
        (Decimal("Infinity"), None),
        (ValueError("no"), {"error": "ValueError", "message": "no"}),
        ("\ud83d\ude00 \ud83d", "?? ?"),
        ({"\ud800": 1}, {"?": 1}),
        (Model(data=b"\xff", other={1}), {"data": "/w==", "other": [1]}),
        (Record(Record({1})), {"value": {"value": [1]}}),
        (Point(1, b"a"), {"x": 1, "y": "YQ=="}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(minutes=1), 60.0),
        (UTC, "UTC"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a"), "/a"),
        (ip_address("::1"), "::1"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (re.compile("a+"), "a+"),
        (2**64, 2**64),
        (-(2**70), -(2**70)),
        (1 + 2j, "(1+2j)"),
        ({1: 1, None: 2, Colour.RED: 3, False: 4, 1.5: 5}, {"1": 1, "false": 4, "null": 2, "red": 3, "1.5": 5}),
        ({(1, "a"): 1, b"a": 2, np.int64(7): 3}, {"(1, 'a')": 1, "YQ==": 2, "7": 3}),
        (Interrupt("why?", "id"), as_json({"value": "why?", "id": "id", "response_schema": None})),
        (Send("node", {1}), {"node": "node", "arg": [1]}),
        ({"deep": [{"er": (b"", {2**64: "\udfff"})}]}, {"deep": [{"er": ["", {str(2**64): "?"}]}]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_a_graph_are_written_as_langgraph_server_writes_them(value, written):
    encoded = encode({"key": value}, "result")
    assert read_json(encoded.text) == {"key": written}
    assert encoded.not_written == ()


def test_messages_keep_all_fields_also_empty_ones():
    message = AIMessage("hi", id="1")
    assert as_json([message]) == [json.loads(message.model_dump_json())]


class Failing(BaseModel):
    def model_dump(self, **_options: Any) -> Any:
        raise ValueError("not today")


def itself() -> list[Any]:
    found: list[Any] = [1]
    found.append({"again": found})
    return found


@pytest.mark.parametrize(
    ("value", "written", "named"),
    [
        (lambda: None, None, "result.key: function"),
        ([1, {"a": object()}], [1, {"a": None}], "result.key[1].a: object"),
        (Model(data=b"", other=[print]), {"data": "", "other": [None]}, "result.key.other[0]: builtin"),
        (Model, None, "result.key: ModelMetaclass"),
        (SecretStr("s"), None, "result.key: SecretStr"),
        (itself(), [1, {"again": None}], "result.key[1].again: a reference to what holds it"),
        (Failing(), None, "result.key: Failing"),
        (10**5000, None, "result.key: int"),
        ((n for n in (1, 2)), None, "result.key: generator"),
    ],
    ids=["function", "object", "in models", "class", "secret", "itself", "failing", "huge", "generator"],
)
def test_what_has_no_json_form_is_null_and_named_by_its_key(value, written, named):
    encoded = encode({"key": value, "kept": b"a"}, "result")
    assert read_json(encoded.text) == {"key": written, "kept": "YQ=="}
    assert len(encoded.not_written) == 1
    assert encoded.not_written[0].startswith(named)


def test_socket_is_not_read():
    with socket.socket() as opened:
        assert encode(opened, "result").not_written == ("result: socket",)


@pytest.mark.parametrize("levels", [DEEPEST + 1, 230, 2_000])
def test_what_is_nested_too_deep_for_readers_is_cut_there(levels):
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    encoded = encode({"deep": value, "kept": 1}, "result")
    if levels > 200:
        assert encoded.not_written[0].endswith(f"nested deeper than {DEEPEST} levels")
    assert read_json(b'{"result":[%b]}' % encoded.text)["result"][0]["kept"] == 1


def test_many_keys_are_counted_and_the_first_named():
    encoded = encode([object()] * 1_234, "result")
    assert len(encoded.not_written) == NAMED + 1
    assert encoded.not_written[-1] == "1,214 more"
