"""Agents as people write them, with nothing of this library in them: unchanged ChatOpenAI without an output limit."""

import operator
from typing import Annotated, Any, TypedDict

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send

chat = ChatOpenAI(model="gpt-4o-mini")


def weather(city: str) -> str:
    """Look up the weather of a city."""
    return f"it rains in {city}"


tool_agent = create_agent(chat, tools=[weather], system_prompt="You look up the weather.")

deep_agent = create_deep_agent(model=chat, tools=[weather], system_prompt="You plan before you act.")


class Research(TypedDict, total=False):
    topic: str
    findings: Annotated[list[str], operator.add]
    report: str


_GUIDE = "Compare sources, quote them, and say what is not known. " * 215  # about 12 kB, as research agents have


async def _search(state: Research) -> dict[str, Any]:
    answer = await chat.ainvoke([SystemMessage(_GUIDE), HumanMessage(f"Research: {state['topic']}")])
    return {"findings": [str(answer.content)]}


async def _write(state: Research) -> dict[str, Any]:
    prompt = [SystemMessage(_GUIDE), HumanMessage("Write a report of: " + "; ".join(state["findings"]))]
    return {"report": str((await chat.ainvoke(prompt)).content)}


researcher = (
    StateGraph(Research)
    .add_node("search", _search)
    .add_node("write", _write)
    .add_edge(START, "search")
    .add_edge("search", "write")
    .add_edge("write", END)
    .compile()
)


async def _reply(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await chat.ainvoke(state["messages"])]}


talk = StateGraph(MessagesState).add_node("reply", _reply).add_edge(START, "reply").add_edge("reply", END).compile()


class Crowd(TypedDict, total=False):
    width: int
    number: int
    answers: Annotated[list[str], operator.add]


async def _ask(state: Crowd) -> dict[str, Any]:
    return {"answers": [str((await chat.ainvoke(f"Say something about the number {state['number']}.")).content)]}


fan_out = (
    StateGraph(Crowd)
    .add_node("ask", _ask)
    .add_conditional_edges(START, lambda state: [Send("ask", {"number": n}) for n in range(state["width"])], ["ask"])
    .add_edge("ask", END)
    .compile()
)
