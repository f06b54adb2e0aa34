"""Kinds of state: reducers, schemas, managed values, channels."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel, EphemeralValue, LastValue, Topic, UntrackedValue
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import Overwrite
from pydantic import BaseModel, Field

from tests.langgraph.bench import Case, chain


class Listed(TypedDict):
    said: Annotated[list, operator.add]


class Plain(TypedDict):
    n: int
    text: NotRequired[str]


def merge(old: dict, new: dict) -> dict:
    return {**old, **new}


def higher(old: int, new: int) -> int:
    return max(old, new)


def longest(old: str, new: str) -> str:
    return max(old, new, key=len)


class Reduced(TypedDict):
    counts: Annotated[dict, merge]
    highest: Annotated[int, higher]
    text: Annotated[str, longest]
    seen: Annotated[set, operator.or_]


def extend(items: list, writes: list[list]) -> list:
    return [*items, *(one for write in writes for one in write)]


class Grown(TypedDict):
    said: Annotated[list, DeltaChannel(extend, snapshot_frequency=3)]


class Item(BaseModel):
    name: str
    price: float = 1.0


class Basket(BaseModel):
    items: list[Item] = Field(default_factory=list)
    total: float = 0.0


@dataclass
class Counter:
    n: int
    steps: Annotated[list, operator.add] = field(default_factory=list)


class Asked(TypedDict):
    question: str


class Answered(TypedDict):
    answer: str


class Inner(TypedDict):
    question: str
    notes: Annotated[list, operator.add]
    answer: str


class Private(TypedDict):
    secret: str


class Managed(TypedDict):
    said: Annotated[list, operator.add]
    left: RemainingSteps
    is_last: IsLastStep


class Untracked(TypedDict):
    n: int
    handle: Annotated[dict, UntrackedValue(dict)]
    passing: Annotated[str, EphemeralValue(str)]


class Both(TypedDict):
    messages: Annotated[Sequence[AnyMessage], add_messages]
    n: Annotated[int, operator.add]


async def say_one(_state: Listed) -> dict:
    return {"said": ["one"]}


async def say_count(state: Listed) -> dict:
    return {"said": [len(state["said"])]}


async def grow(state: Grown) -> dict:
    return {"said": [len(state["said"])]}


async def grow_more(state: Grown) -> dict:
    return {"said": [len(state["said"])]}


async def replace(_state: Listed) -> dict:
    return {"said": Overwrite(["only"])}


async def nothing(_state: Any) -> None:
    return None


async def add_one(state: Plain) -> dict:
    return {"n": state["n"] + 1}


async def write_text(state: Plain) -> dict:
    return {"text": f"n is {state['n']}"}


async def reduce_all(_state: Reduced) -> dict:
    return {"counts": {"b": 2}, "highest": 3, "text": "longer text", "seen": {1}}


async def reduce_less(_state: Reduced) -> dict:
    return {"counts": {"a": 3}, "highest": 2, "text": "short", "seen": {2}}


async def sum_up(state: Basket) -> dict:
    return {"total": sum(one.price for one in state.items)}


async def add_item(state: Basket) -> dict:
    return {"items": [*state.items, Item(name="gift")]}


async def count(state: Counter) -> dict:
    return {"n": state.n + 1, "steps": [state.n]}


async def note(state: Inner) -> dict:
    return {"notes": [state["question"].upper()]}


async def answer(state: Inner) -> dict:
    return {"answer": ", ".join(state["notes"])}


async def hide(state: Listed) -> Private:
    return {"secret": f"after {len(state['said'])}"}


async def reveal(state: Private) -> dict:
    return {"said": [state["secret"]]}


async def tell_steps(state: Managed) -> dict:
    return {"said": [state["left"] > 3, state["is_last"]]}


async def hold(_state: Untracked) -> dict:
    return {"handle": {"open": True}, "passing": "by"}


async def use(state: Untracked) -> dict:
    return {"n": len(state.get("handle") or {}) + len(state.get("passing") or "")}


async def reply(state: MessagesState) -> dict:
    return {"messages": [AIMessage(f"{len(state['messages'])} messages")]}


async def correct(state: MessagesState) -> dict:
    return {"messages": [HumanMessage("corrected", id=state["messages"][0].id)]}


async def forget_first(state: MessagesState) -> dict:
    return {"messages": [RemoveMessage(id=state["messages"][0].id)]}


async def forget_all(_state: MessagesState) -> dict:
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), AIMessage("a new beginning")]}


async def reply_and_count(state: Both) -> dict:
    return {"messages": ["noted"], "n": len(state["messages"])}


async def double(values: list) -> list:
    return [len(values)]


NEW: dict = {"input": {"said": []}}
HELLO: dict = {"input": {"messages": [{"role": "user", "content": "hello", "id": "m-1"}]}}

topics = Pregel(
    nodes={
        "first": NodeBuilder().subscribe_only("a").do(lambda x: x + x).write_to("b", "all"),
        "second": NodeBuilder().subscribe_only("b").do(lambda x: x + x).write_to("c", "all"),
    },
    channels={
        "a": EphemeralValue(str),
        "b": LastValue(str),
        "c": EphemeralValue(str),
        "all": Topic(str, accumulate=True),
    },
    input_channels=["a"],
    output_channels=["c", "all"],
)

whole = StateGraph(Annotated[list, operator.add]).add_node("double", double)
whole.add_edge(START, "double").add_edge("double", END)

CASES: dict[str, Case] = {
    "list that grows over turns": Case(chain(Listed, say_one, say_count), [NEW, {"input": {"said": ["again"]}}]),
    "list that is overwritten": Case(chain(Listed, say_one, replace, say_count), [NEW, NEW]),
    "node that returns nothing": Case(chain(Listed, nothing, say_one), [NEW]),
    "delta channel": Case(chain(Grown, grow, grow_more), [NEW, *([{"input": {"said": ["again"]}}] * 3)]),
    "last value": Case(chain(Plain, add_one, write_text), [{"input": {"n": 1}}, {"input": {"n": 5}}]),
    "input without all keys": Case(chain(Plain, add_one, write_text), [{"input": {"n": 1}}, {"input": {"text": "x"}}]),
    "reducers of all kinds": Case(
        chain(Reduced, reduce_all, reduce_less), [{"input": {"counts": {"a": 1}, "highest": 1, "text": "t"}}]
    ),
    "pydantic state": Case(
        chain(Basket, add_item, sum_up),
        [{"input": {"items": [{"name": "pen", "price": "2.5"}]}}, {"input": {"items": []}}],
    ),
    "dataclass state": Case(chain(Counter, count), [{"input": {"n": 1}}, {"input": {"n": 7}}]),
    "schemas of input and output": Case(
        chain(Inner, note, answer, input_schema=Asked, output_schema=Answered),
        [{"input": {"question": "why"}}, {"input": {"question": "how"}}],
    ),
    "private state between nodes": Case(chain(Listed, say_one, hide, reveal), [NEW]),
    "managed values": Case(chain(Managed, tell_steps), [{**NEW, "config": {"recursion_limit": 9}}]),
    "untracked and ephemeral values": Case(chain(Untracked, hold, use), [{"input": {"n": 0}}], forgets=True),
    "messages": Case(chain(MessagesState, reply), [HELLO, {"input": {"messages": "again"}}]),
    "message replaced by its id": Case(chain(MessagesState, reply, correct), [HELLO]),
    "message removed": Case(chain(MessagesState, reply, forget_first), [HELLO]),
    "all messages removed": Case(chain(MessagesState, reply, forget_all), [HELLO, HELLO]),
    "messages beside other keys": Case(chain(Both, reply_and_count), [{"input": {"messages": "hi", "n": 1}}] * 2),
    "state without keys": Case(whole.compile(), [{"input": ["a", "b"]}, {"input": ["c"]}]),
    "pregel without a StateGraph": Case(topics, [{"input": {"a": "x"}}, {"input": {"a": "y"}}]),
}
