"""What a graph announces of its input: no more than LangGraph itself would refuse."""

from typing import Annotated, Any, Optional, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.managed import RemainingSteps
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.worker.graphs.input_keys import graph_input
from tests.fleet import one_node_graph
from tests.graph_inputs import GRAPHS, nothing


class Plain(BaseModel):
    text: str = ""
    count: int | None = None
    share: Optional[float] = None  # noqa: UP045 - as projects write it too
    flag: bool = False
    either: int | str = 0
    names: list[str] = []
    anything: Any = None


LAX = ("boolean", "number", "string")


def test_plain_fields_of_a_pydantic_state_are_announced_with_what_pydantic_may_convert():
    announced = graph_input(one_node_graph(nothing, Plain))
    assert announced == GraphInput(
        ("text", "count", "share", "flag", "either", "names", "anything"),
        {
            "text": ("string",),
            "count": ("boolean", "null", "number", "string"),
            "share": ("boolean", "null", "number", "string"),
            "flag": LAX,
            "either": LAX,
        },
    )
    assert GraphInput.read(announced.announcement().encode()) == announced


class Coerced(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    text: str


class Converted(BaseModel):
    text: Annotated[str, BeforeValidator(str)]


class Rewritten(BaseModel):
    text: str

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, values: Any) -> Any:
        return {"text": str(values["text"])}


class Made(BaseModel):
    text: str

    def __init__(self, text: Any) -> None:
        super().__init__(text=str(text))


@pytest.mark.parametrize("model", [Coerced, Converted, Rewritten, Made])
async def test_field_of_a_model_that_converts_its_values_itself_is_not_judged(model):
    graph = one_node_graph(nothing, model)
    assert graph_input(graph) == GraphInput(("text",))
    assert await graph.ainvoke({"text": 7}) == {"text": 7}


class State(TypedDict):
    text: str
    inner: str
    left: RemainingSteps


class Input(TypedDict):
    text: str


async def test_keys_are_those_of_the_input_schema_without_what_langgraph_manages():
    graph = StateGraph(State, input_schema=Input).add_node("node", nothing).add_edge(START, "node").compile()
    assert graph_input(graph) == GraphInput(("text",))
    assert graph_input(one_node_graph(nothing, State)) == GraphInput(("text", "inner"))


async def test_model_of_a_node_that_may_not_run_is_not_judged():
    async def run(_state: Plain) -> dict:
        return {}

    graph = StateGraph(State).add_node("node", nothing).add_node("other", run)
    graph = graph.add_conditional_edges(START, lambda _state: "node", ["node", "other"]).add_edge("node", END).compile()
    assert graph_input(graph) == GraphInput(("text", "inner"))
    assert await graph.ainvoke({"text": 7}) == {"text": 7}


class Text(BaseModel):
    text: str


async def take(_state: Text) -> dict:
    return {}


async def rewrite(_state: State) -> dict:
    return {"text": "written"}


async def test_model_of_a_node_that_runs_after_others_is_not_judged():
    graph = StateGraph(State).add_node("rewrite", rewrite).add_node("take", take, defer=True)
    graph = graph.add_edge(START, "rewrite").add_edge(START, "take").compile()
    assert graph_input(graph) == GraphInput(("text", "inner"))
    assert await graph.ainvoke({"text": 7}) == {"text": "written"}


class Reduced(TypedDict):
    text: Annotated[str, lambda _old, new: str(new)]


async def test_value_that_a_reducer_changes_is_not_judged():
    graph = StateGraph(Reduced).add_node("take", take).add_edge(START, "take").compile()
    assert graph_input(graph) == GraphInput(("text",))
    assert await graph.ainvoke({"text": 7}) == {"text": "7"}


@pytest.mark.parametrize("graph", ["anything", "functional"])
def test_graph_whose_input_has_no_keys_announces_none(graph):
    assert graph_input(GRAPHS[graph]) == GraphInput()


@pytest.mark.parametrize(
    "announced",
    [
        None,
        b"",
        b"{}",
        b"{nope",
        b"\xff",
        b"[]",
        b'{"keys": 3}',
        b'{"title": "Input", "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}',
    ],
)
def test_announcement_that_cannot_be_read_judges_nothing(announced):
    takes = GraphInput.read(announced)
    assert (takes.refuse([1]), takes.refuse({"x": {}}), takes.ignored({"x": 1})) == ([], [], [])
