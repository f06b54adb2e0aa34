"""The graph: look_up -> reply -> sign."""

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from .nodes import Reply, look_up, sign
from .state import Ticket, TicketState


def make_graph() -> StateGraph[TicketState, None, Ticket, TicketState]:
    """Build the graph with one model client for all runs; called once, when the worker starts."""
    builder = StateGraph(TicketState, input_schema=Ticket)
    builder.add_node("look_up", look_up)
    builder.add_node("reply", Reply(ChatOpenAI(model="gpt-4o-mini", max_completion_tokens=300)))
    builder.add_node("sign", sign)
    builder.add_edge(START, "look_up")
    builder.add_edge("look_up", "reply")
    builder.add_edge("reply", "sign")
    builder.add_edge("sign", END)
    return builder
