"""Inputs that LangGraph takes or refuses, for graphs of every kind."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langgraph.channels import EphemeralValue
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from pydantic import BaseModel, field_validator

from tests.fleet import one_node_graph


class Typed(TypedDict):
    n: int
    query: str


class Sum(TypedDict):
    n: Annotated[int, operator.add]


class Model(BaseModel):
    n: int
    query: str = "x"
    share: float | None = None


class Careful(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _is_positive(cls, n: int) -> int:
        if n <= 0:
            raise ValueError("a positive number")
        return n


class Lenient(BaseModel):
    n: int

    @field_validator("n", mode="before")
    @classmethod
    def _count(cls, n: Any) -> Any:
        return len(n) if isinstance(n, list) else n


@dataclass
class Data:
    n: int
    query: str = "x"


async def nothing(_state) -> dict:
    return {}


@entrypoint()
async def functional(topic: str) -> Any:
    return topic


GRAPHS: dict[str, Any] = {
    "typed": one_node_graph(nothing, Typed),
    "sum": one_node_graph(nothing, Sum),
    "model": one_node_graph(nothing, Model),
    "careful": one_node_graph(nothing, Careful),
    "lenient": one_node_graph(nothing, Lenient),
    "data": one_node_graph(nothing, Data),
    "messages": one_node_graph(nothing, MessagesState),
    "anything": one_node_graph(nothing, dict),
    "functional": functional,
    "routed": StateGraph(Model)
    .add_node("node", nothing)
    .add_conditional_edges(START, lambda _state: "node", ["node"])
    .compile(),
    "bare": Pregel(
        nodes={"node": NodeBuilder().subscribe_only("topic").do(lambda topic: topic).write_to("answer")},
        channels={"topic": EphemeralValue(str), "answer": EphemeralValue(str)},
        input_channels=["topic"],
        output_channels=["answer"],
    ),
}

TAKEN: list[tuple[str, Any]] = [
    ("typed", {"n": 1, "query": "x"}),
    ("typed", {}),
    ("typed", {"n": "x", "query": None}),
    ("typed", {"n": 1, "qery": "x"}),
    ("typed", {"qery": "x"}),
    ("sum", {"n": 1}),
    ("model", {"n": 1}),
    ("model", {"n": "1"}),
    ("model", {"n": True, "share": "0.5"}),
    ("model", {"n": 1, "share": None}),
    ("model", {"n": 1, "qery": 3}),
    ("careful", {"n": 1}),
    ("lenient", {"n": [1, 2]}),
    ("routed", {"n": 1}),
    ("data", {"n": "x"}),
    ("messages", {"messages": "hi"}),
    ("messages", {"messages": [{"role": "user", "content": "hi"}]}),
    ("messages", {"messages": ["hi", ["user", "hi"]]}),
    ("messages", {"messages": {"type": "human", "content": "hi"}}),
    ("messages", {}),
    ("anything", {"z": 1}),
    ("anything", [1]),
    ("anything", "x"),
    ("functional", "leases"),
    ("functional", ["leases"]),
    ("functional", {"a": 1}),
    ("functional", 7),
    ("functional", False),
    ("bare", {"topic": "x"}),
    ("bare", {"topic": "x", "topik": "y"}),
]

REFUSED: list[tuple[str, Any, str]] = [
    ("sum", {"n": "x"}, "input.n: TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
    ("model", {}, "input.n: expected a value, got: nothing"),
    ("model", {"m": 1}, "input.n: expected a value, got: nothing"),
    ("model", {"n": "x"}, 'input.n: expected a valid integer, unable to parse string as an integer, got: "x"'),
    ("careful", {"n": -1}, "input.n: expected a positive number, got: -1"),
    ("careful", {"n": "x", "m": 1}, "input.n: expected a valid integer"),
    ("routed", {"n": {}}, "input.n: expected "),
    ("data", {"query": "y"}, "input.n: expected a value, got: nothing"),
    ("data", {}, "input.n: expected a value, got: nothing"),
    ("messages", {"messages": [3]}, "input.messages: NotImplementedError: Unsupported message type: <class 'int'>"),
    ("messages", {"messages": [{"text": "hi"}]}, "input.messages: ValueError: Message dict must contain"),
]
"""Refused by the worker, before any node runs: (graph, input, beginning of the message)."""

REFUSED_AT_THE_DOOR: list[tuple[str, Any, str]] = [
    ("typed", [1], "input: expected a JSON object, got: a list of 1"),
    ("typed", "x", 'input: expected a JSON object, got: "x"'),
    ("model", {"n": {}}, "input.n: expected "),
    ("model", {"n": 1, "query": 7}, "input.query: expected "),
    ("model", {"n": 1, "query": None}, "input.query: expected "),
    ("model", {"n": None}, "input.n: expected "),
    ("model", {"n": 1, "share": []}, "input.share: expected "),
    ("bare", {"topik": "x"}, "input"),
    ("bare", {}, "input"),
    ("bare", ["x"], "input: expected a JSON object, got: a list of 1"),
]
"""Refused before they are queued too."""
