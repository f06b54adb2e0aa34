"""A graph whose nodes live in packages that have the names of ours."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from producer.reports import write
from shared.prices import price_of
from worker.calculations import total


class Report(TypedDict, total=False):
    """Key: writer, reader.

    items: caller, add_up
    total: add_up, report
    text: report, caller
    """

    items: list[str]
    total: int
    text: str


def add_up(state: Report) -> Report:
    """Price the items."""
    return {"total": total(price_of(item) for item in state["items"])}


def report(state: Report) -> Report:
    """Write the report."""
    return {"text": write(state["items"], state["total"])}


graph = (
    StateGraph(Report)
    .add_node(add_up)
    .add_node(report)
    .add_edge(START, "add_up")
    .add_edge("add_up", "report")
    .add_edge("report", END)
)
