"""Which types the state of a graph may hold: those that its schemas, channels and nodes name, and no others."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import GenericFakeChatModel
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import BaseModel

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.worker.graphs.state_types import named_types, state_types

T = TypeVar("T")


class Leaf(BaseModel):
    text: str


class Mark(Enum):
    A = 1


class Other(Enum):
    B = 1


class Pair(NamedTuple):
    leaf: Leaf
    other: int


@dataclass
class Branch(Generic[T]):
    value: T
    next: "Branch[T] | None" = None


class Inner(TypedDict):
    pairs: NotRequired[dict[str, list[Pair]]]


class Outer(TypedDict):
    inner: Annotated[Inner, "a reducer"]
    branch: Branch[tuple[Mark, ...]] | None
    literal: Literal[Other.B]
    anything: Any


class Given(BaseModel):
    name: str


@dataclass
class Job:
    number: int


class Unused(BaseModel):
    """In no graph."""


class Answer(BaseModel):
    text: str


async def node(_state: Outer, runtime: Runtime[Unused]) -> dict[str, Any]:
    del runtime
    return {}


async def work(_job: Job) -> dict[str, Any]:
    return {}


def built() -> StateGraph[Any]:
    builder = StateGraph(Outer, input_schema=Given).add_node(node).add_node(work).add_edge(START, "node")
    return builder.add_conditional_edges("node", lambda _state: [Send("work", Job(1))], ["work"])


NESTED = {Leaf, Mark, Other, Pair, Branch, Given, Job}


def test_types_are_found_in_nested_schemas_and_in_what_nodes_take():
    assert state_types(built().compile()) == NESTED


def test_types_of_a_subgraph_are_found():
    parent = StateGraph(dict).add_node("child", built().compile()).add_edge(START, "child").compile()
    assert state_types(parent) == NESTED


def test_structured_response_of_an_agent_is_found():
    model = GenericFakeChatModel(messages=iter([]))
    for response_format in (Answer, ToolStrategy(Answer), ToolStrategy(Answer | Leaf)):
        found = state_types(create_agent(model, tools=[], response_format=response_format))
        assert Answer in found
        assert Unused not in found
    assert Answer not in state_types(create_agent(model, tools=[]))


@task
async def make() -> list[Leaf]:
    return [Leaf(text="x")]


@task
async def make_pair() -> Pair:
    return Pair(Leaf(text="x"), 1)


@entrypoint()
async def functional(given: Given) -> Branch[Mark]:
    await make()
    return Branch(Mark.A)


def test_what_tasks_and_entrypoints_of_the_functional_api_return_is_found():
    assert state_types(functional) >= {Leaf, Mark, Branch, Given}
    assert Pair not in state_types(functional)


async def unreadable(_state: "Missing") -> "Leaf":  # noqa: F821 - on purpose
    return {}


def test_graph_whose_hints_cannot_be_read_has_no_types():
    graph = StateGraph(dict).add_node("node", unreadable).add_edge(START, "node").compile()
    assert state_types(graph) == set()


def test_setting_names_classes():
    name = __name__
    assert named_types(f"{name}:Leaf, {name}:Mark") == [Leaf, Mark]
    assert named_types("") == []


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("no_such_module:A", "ModuleNotFoundError"),
        (f"{__name__}:Missing", "AttributeError"),
        (f"{__name__}:node", "expected a dataclass"),
        ("os:system", "expected a dataclass"),
        ("builtins:object", "expected a dataclass"),
        ("noname", "expected module:Class"),
    ],
)
def test_setting_that_names_no_class_of_data_is_refused(spec, reason):
    with pytest.raises(SettingsError, match=reason):
        named_types(spec)
