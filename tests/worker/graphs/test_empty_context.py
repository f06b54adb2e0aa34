"""The context of a task that gives none."""

from dataclasses import dataclass, field
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from langgraph_rq.worker.graphs.empty_context import empty_context


@dataclass(kw_only=True)
class Defaults:
    model: str = "small"
    tags: list[str] = field(default_factory=list)
    made: str = field(init=False)

    def __post_init__(self):
        self.made = self.model


@dataclass
class Wants:
    model: str


class Model(BaseModel):
    model: str = "small"


class WantingModel(BaseModel):
    model: str


class Plain(TypedDict, total=False):
    model: str


SCHEMAS = {Defaults: {}, Model: {}, Plain: {}, Wants: None, WantingModel: None, None: None}


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_defaults_apply_where_a_schema_needs_no_value(schema):
    def node(state, runtime):
        return {"context": repr(runtime.context)}

    graph = StateGraph(dict, schema).add_node("node", node).add_edge(START, "node").add_edge("node", END).compile()
    context = empty_context(graph)
    assert context == SCHEMAS[schema]
    made = schema() if context is not None else None
    made = made or None  # LangGraph itself gives a node None for an empty dict
    assert await graph.ainvoke({}, context=context) == {"context": repr(made)}
