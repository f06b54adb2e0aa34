"""Graphs whose state holds objects of many types, which must be the same after a crash and in the next task."""

import os
import re
import signal
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, ConfigDict, Field, SecretStr

T = TypeVar("T")


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Pair(Enum):
    BOTH = ("left", 2)


class Point(NamedTuple):
    x: int
    y: tuple[int, int]


class Address(BaseModel):
    model_config = ConfigDict(extra="allow")
    street: str = Field(alias="road")
    at: Point
    password: SecretStr = SecretStr("hidden")


@dataclass(frozen=True, slots=True)
class Line:
    price: Decimal
    tags: frozenset[str] = frozenset()
    total: Decimal = field(init=False, default=Decimal(0))

    class Note(BaseModel):
        text: str


@dataclass
class Box(Generic[T]):
    content: T
    note: Line.Note | None = None


class Order(BaseModel):
    address: Address
    lines: list[Box[Line]]
    colour: Colour | Literal[Level.LOW]
    anything: Any = None


class Typed(TypedDict, total=False):
    """The state; `values` holds what needs no type of its own."""

    order: Order
    pair: Pair
    values: dict[str, Any]
    messages: list[BaseMessage]
    kill: str
    differences: list[str]


def _order() -> Order:
    line = Line(Decimal("1.10"), frozenset({"a", "b"}))
    object.__setattr__(line, "total", Decimal("2.20"))
    address = Address(road="Main Street", at=Point(1, (2, 3)), more={"a": (1, 2)})
    lines = [Box(line, Line.Note(text="n")), Box(line)]
    return Order(address=address, lines=lines, colour=Colour.RED, anything=[Level.LOW, address])


def _values() -> dict[str, Any]:
    return {
        "datetime": datetime(2026, 10, 25, 2, 30, 1, 5, tzinfo=UTC),
        "local datetime": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        "offset": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3))),
        "naive": datetime(2026, 1, 1),  # noqa: DTZ001 - it must stay naive
        "date": date(2026, 1, 2),
        "time": time(1, 2, 3, 4, tzinfo=UTC),
        "timedelta": timedelta(days=-1, microseconds=7),
        "uuid": UUID(int=7),
        "decimal": Decimal("1.100"),
        "set": {1, (2, "b")},
        "frozenset": frozenset({"a"}),
        "tuple": (1, ("nested", [(2,)])),
        "deque": deque([1, (2,)]),
        "bytes": b"\x00\xff",
        "huge": 2**90,
        "integer keys": {1: "a", (1, 2): "b"},
        "pattern": re.compile("a+", re.IGNORECASE),
        "path": Path("/a/b"),
        "ip": [ip_address("10.0.0.1"), ip_address("::1"), ip_network("10.0.0.0/8")],
        "secret": SecretStr("s"),
        "document": Document("text", metadata={"at": (1, 2)}),
        "send": Send("node", {"line": _order().lines[0]}),
        "command": Command(update={"a": (1,)}, goto=[Send("node", 1)], resume={"i": Colour.RED}),
        "interrupt": Interrupt(("question", Level.LOW), id="i"),
        "overwrite": Overwrite([1, (2,)]),
    }


def _messages() -> list[BaseMessage]:
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "call", "type": "tool_call"}
    return [
        SystemMessage("s", id="1"),
        HumanMessage([{"type": "text", "text": "h"}], id="2", additional_kwargs={"lc": 1, "type": "constructor"}),
        AIMessage(
            "a", id="3", tool_calls=[call], usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        ),
        ToolMessage("t", id="4", tool_call_id="call", artifact={"document": Document("d")}),
        AIMessageChunk("c", id="5"),
        FunctionMessage("f", id="6", name="f"),
        ChatMessage("c", id="7", role="r"),
        RemoveMessage("8"),
    ]


def fresh() -> dict[str, Any]:
    """What the first node puts into the state."""
    return {"order": _order(), "pair": Pair.BOTH, "values": _values(), "messages": _messages()}


async def fill(state: Typed) -> dict[str, Any]:
    return {} if "values" in state else fresh()


def die(state: Typed) -> dict[str, Any]:
    """Kill the worker, in the first attempt only."""
    if state["kill"] and not Path(state["kill"]).exists():
        Path(state["kill"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def compare(state: Typed) -> dict[str, Any]:
    return {"differences": [name for name, value in fresh().items() if _told(state[name]) != _told(value)]}


def _told(value: Any) -> str:
    """Describe a value with the types of all of its parts; sets are told in order."""
    if isinstance(value, dict):
        return f"{type(value).__name__}({[(_told(key), _told(one)) for key, one in value.items()]})"
    if isinstance(value, list | tuple | deque):
        return f"{type(value).__qualname__}({[_told(one) for one in value]})"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(_told(one) for one in value)})"
    if isinstance(value, BaseModel):
        return f"{type(value).__qualname__}({_told({**value.__dict__, **(value.__pydantic_extra__ or {})})})"
    if hasattr(value, "__dataclass_fields__"):
        return f"{type(value).__qualname__}({[_told(getattr(value, name)) for name in value.__dataclass_fields__]})"
    if isinstance(value, Send):
        return f"Send({value.node}, {_told(value.arg)})"
    if isinstance(value, SecretStr):
        return f"SecretStr({value.get_secret_value()})"
    return f"{type(value).__qualname__}({value!r}, {getattr(value, 'fold', 0)})"


class Compared(TypedDict):
    differences: list[str]


typed = StateGraph(Typed, output_schema=Compared).add_node(fill).add_node(die).add_node(compare)
typed.add_edge(START, "fill").add_edge("fill", "die").add_edge("die", "compare")
