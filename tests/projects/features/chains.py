"""What the graphs of this project share: a state, and graphs of nodes that follow each other."""

import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    text: str
    number: int
    seen: Annotated[list[Any], operator.add]


def chain(*nodes: Any, state: Any = State, **compiled: Any) -> Any:
    """Compile nodes that follow each other."""
    builder = StateGraph(state).add_sequence(nodes).add_edge(START, nodes[0].__name__)
    return builder.add_edge(nodes[-1].__name__, END).compile(**compiled)


def after(state: State) -> State:
    return {"seen": ["after"]}
