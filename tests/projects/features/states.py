"""Forms of state: models, dataclasses, schemas, channels and messages."""

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any

from chains import State, chain
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel, EphemeralValue, UntrackedValue
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Overwrite
from pydantic import BaseModel
from typing_extensions import TypedDict


class Model(BaseModel):
    text: str = "none"
    tags: set[str] = set()
    seen: Annotated[list[str], operator.add] = []


def look_at_model(state: Model) -> dict[str, Any]:
    return {"seen": [type(state).__name__, *sorted(state.tags)], "tags": {state.text}}


pydantic_state = chain(look_at_model, state=Model)


@dataclass
class Data:
    text: str = "none"
    seen: Annotated[list[str], operator.add] = field(default_factory=list)


def look_at_data(state: Data) -> dict[str, Any]:
    return {"seen": [type(state).__name__, state.text]}


dataclass_state = chain(look_at_data, state=Data)


class Given(TypedDict):
    text: str


class Private(TypedDict):
    secret: str


def hide(state: Given) -> Private:
    return {"secret": state["text"] + "!"}


def show(state: Private) -> State:
    return {"seen": [state["secret"]]}


schemas = (
    StateGraph(State, input_schema=Given, output_schema=State)
    .add_sequence([hide, show])
    .add_edge(START, "hide")
    .compile()
)


def _extend(items: list[str], writes: list[list[str]]) -> list[str]:
    return [*items, *(one for write in writes for one in write)]


class Channels(TypedDict, total=False):
    text: str
    short: Annotated[str, EphemeralValue]
    untracked: Annotated[str, UntrackedValue]
    grown: Annotated[list[str], DeltaChannel(_extend)]
    seen: Annotated[list[Any], operator.add]


def fill(state: Channels) -> dict[str, Any]:
    return {"short": "short", "untracked": "untracked", "grown": [state["text"]], "seen": ["dropped"]}


def look_at_channels(state: Channels) -> dict[str, Any]:
    return {"grown": ["more"], "seen": Overwrite([state.get("short"), state.get("untracked")])}


channels = chain(fill, look_at_channels, state=Channels)


def forget(state: MessagesState) -> dict[str, Any]:
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("anew", id="1")]}


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("first", id="2"), AIMessage("second", id="2")]}


messages = chain(forget, answer, state=MessagesState)
