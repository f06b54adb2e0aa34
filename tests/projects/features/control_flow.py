"""Control of the flow: sends, commands, subgraphs, limits and questions."""

import operator
from typing import Annotated, Any, Literal

from chains import State, after, chain
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict


def square(state: State) -> State:
    return {"seen": [state["number"] ** 2]}


send = (
    StateGraph(State)
    .add_node(square)
    .add_conditional_edges(START, lambda state: [Send("square", {"number": n}) for n in range(state["number"])])
    .compile()
)


def choose(state: State) -> Command[Literal["even", "odd"]]:
    return Command(goto="odd" if state["number"] % 2 else "even", update={"seen": ["chosen"]})


def even(state: State) -> State:
    return {"seen": ["even"]}


def odd(state: State) -> State:
    return {"seen": ["odd"]}


command = StateGraph(State).add_node(choose).add_node(even).add_node(odd).add_edge(START, "choose").compile()

_inner = chain(square, even)


def leave(state: State) -> Command[Any]:
    return Command(graph=Command.PARENT, goto="odd", update={"seen": ["left"]})


def call_inner(state: State) -> State:
    return {"seen": _inner.invoke({"number": 3})["seen"]}


subgraphs = (
    StateGraph(State)
    .add_node("inner", _inner)
    .add_node(call_inner)
    .add_node("leaving", chain(leave), destinations=("odd",))
    .add_node(odd)
    .add_edge(START, "inner")
    .add_edge("inner", "call_inner")
    .add_edge("call_inner", "leaving")
    .compile()
)


class Counted(TypedDict, total=False):
    text: str
    counted: Annotated[int, operator.add]


def count(state: Counted) -> Counted:
    return {"counted": 1}


subgraph_memory = (
    StateGraph(Counted)
    .add_node("counter", chain(count, state=Counted, checkpointer=True))
    .add_edge(START, "counter")
    .compile()
)


def again(state: State) -> State:
    return {"number": state["number"] + 1}


recursion_limit = (
    StateGraph(State)
    .add_node(again)
    .add_edge(START, "again")
    .add_conditional_edges("again", lambda _: "again")
    .compile()
    .with_config(recursion_limit=9)
)


def ask(state: State) -> State:
    return {"seen": [interrupt({"ask": state["text"]})]}


interrupts = chain(ask, after)
