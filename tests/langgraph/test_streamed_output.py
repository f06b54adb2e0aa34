"""The output of a graph that is streamed is that of `ainvoke`, whatever the form of the graph."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import EphemeralValue, LastValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from langgraph_rq.shared.tasks import StreamMode
from langgraph_rq.worker.outputs.json_values import as_json
from langgraph_rq.worker.task.invocation.streaming import stream_graph


class Recorded:
    async def add(self, _kind: str, **data: Any) -> None:
        as_json(data)


class Numbers(TypedDict, total=False):
    total: Annotated[int, operator.add]
    last: int


class Total(TypedDict):
    total: int


class Model(BaseModel):
    total: int = 0
    note: str | None = None


@dataclass
class Record:
    total: int = 0
    note: str = ""


async def add(_state: Any) -> Any:
    return {"total": 1}


def state_graph(state: Any, **schemas: Any) -> Any:
    graph = StateGraph(state, **schemas).add_node("first", add).add_node("second", add)
    return graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()


def of_a_list() -> Any:
    async def one(state: list) -> list:
        return [*state, 1]

    graph = StateGraph(Annotated[list, operator.add]).add_node("one", one)
    return graph.add_edge(START, "one").compile()


def with_sends() -> Any:
    graph = StateGraph(Numbers, output_schema=Total).add_node("add", add)
    return graph.add_conditional_edges(START, lambda _: [Send("add", {}), Send("add", {})]).compile()


def with_command() -> Any:
    async def route(_state: Numbers) -> Command:
        return Command(update={"total": 5}, goto="add")

    return StateGraph(Numbers).add_node("route", route).add_node("add", add).add_edge(START, "route").compile()


def asking_twice() -> Any:
    async def ask(_state: Numbers) -> Numbers:
        return {"last": interrupt("a number?")}

    graph = StateGraph(Numbers, output_schema=Total).add_node("add", add).add_node("one", ask).add_node("two", ask)
    return graph.add_edge(START, "add").add_edge("add", "one").add_edge("add", "two").compile()


def that_does_nothing() -> Any:
    return StateGraph(Numbers).add_node("add", add).add_conditional_edges(START, lambda _: END).compile()


def functional() -> Any:
    @task
    async def double(number: int) -> int:
        return 2 * number

    @entrypoint()
    async def work(given: Numbers) -> Any:
        return await double(given["total"])

    return work


def without_state_graph(output: Any) -> Any:
    double = NodeBuilder().subscribe_only("a").do(lambda given: {"b": given["total"] * 2}["b"]).write_to("b")
    return Pregel(
        nodes={"double": double},
        channels={"a": EphemeralValue(dict), "b": LastValue(int)},
        input_channels="a",
        output_channels=output,
    )


GRAPHS = {
    "typed dict": state_graph(Numbers),
    "output schema": state_graph(Numbers, output_schema=Total),
    "pydantic": state_graph(Model),
    "dataclass": state_graph(Record),
    "list": of_a_list(),
    "sends": with_sends(),
    "command": with_command(),
    "two questions": asking_twice(),
    "nothing": that_does_nothing(),
    "functional": functional(),
    "one channel": without_state_graph("b"),
    "channels": without_state_graph(["b"]),
}


def without_ids(output: Any) -> Any:
    """An output as JSON, without the ids of its questions, which are made anew in each run."""
    found = as_json(output)
    for question in found.get("__interrupt__", ()) if isinstance(found, dict) else ():
        del question["id"]
    return found


@pytest.mark.parametrize("modes", [["values"], ["updates"], ["events"], list(StreamMode)], ids=lambda modes: modes[0])
@pytest.mark.parametrize("name", GRAPHS)
async def test_streamed_output_is_that_of_ainvoke(name, modes):
    config: Any = {"configurable": {"thread_id": "t"}}
    given = [0] if name == "list" else {"total": 3}
    bare = GRAPHS[name].copy({"checkpointer": InMemorySaver()})
    expected = await bare.ainvoke(given, config)
    for subgraphs in (False, True):
        graph = GRAPHS[name].copy({"checkpointer": InMemorySaver()})
        asked = [StreamMode(mode) for mode in modes]
        found = await stream_graph(graph, given, config, {}, asked, Recorded(), subgraphs=subgraphs)
        assert without_ids(found) == without_ids(expected)
