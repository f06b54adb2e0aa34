"""The graphs: three nodes, two of which call a model (w); the same without calls (w0); one empty node (noop)."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict  # Python 3.11's own has no JSON schema

MODEL = "gpt-4o-mini"
OUTPUT_TOKENS = 200
"""Of one call at most: the budget holds so much while it runs."""


class Work(TypedDict):
    """The state of all three graphs.

    Key          Writer     Reader
    question     caller     classify, answer
    started_ns   classify   the measurement of latencies; monotonic, which all processes of a machine share
    label        classify   finish
    answer       answer     finish
    summary      finish     caller
    """

    question: str
    started_ns: int
    label: str
    answer: str
    summary: str


Ask = Callable[[str], Awaitable[str]]


def build(ask: Ask) -> StateGraph[Work]:
    """Connect three nodes, the first two of which `ask`."""

    async def classify(state: Work) -> dict[str, Any]:
        started_ns = time.monotonic_ns()
        label = await ask(f"Classify as simple, medium or complex: {state['question']}")
        return {"started_ns": started_ns, "label": label}

    async def answer(state: Work) -> dict[str, Any]:
        return {"answer": await ask(state["question"])}

    async def finish(state: Work) -> dict[str, Any]:
        return {"summary": f"{state['label']}: {len(state['answer'])} characters"}

    builder = StateGraph(Work)
    for node in (classify, answer, finish):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "classify")
    builder.add_edge("classify", "answer")
    builder.add_edge("answer", "finish")
    builder.add_edge("finish", END)
    return builder


_model = ChatOpenAI(model=MODEL, max_completion_tokens=OUTPUT_TOKENS)


async def _ask_model(prompt: str) -> str:
    return str((await _model.ainvoke(prompt)).text)


async def _echo(prompt: str) -> str:
    return prompt


async def _nothing(_state: Work) -> dict[str, Any]:
    return {}


w = build(_ask_model)
w0 = build(_echo)
noop = StateGraph(Work).add_node("nothing", _nothing).add_edge(START, "nothing").add_edge("nothing", END)
