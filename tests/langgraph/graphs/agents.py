"""Agents, tools, and graphs that ask: models answer from a script, so that their calls can be counted."""

import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelCallLimitMiddleware, before_model
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import Command, interrupt

from tests.langgraph.bench import CALLS, Case, Scripted, chain


class Said(TypedDict):
    said: Annotated[list, operator.add]


@tool
def weather(place: str) -> str:
    """Tell the weather of a place."""
    CALLS["weather"] += 1
    return f"sunny in {place}"


@tool
async def broken(place: str) -> str:
    """Fail for every place."""
    CALLS["broken"] += 1
    raise ValueError(f"no weather in {place}")


@tool
async def approve(amount: int) -> str:
    """Let a person approve an amount."""
    answer = interrupt({"approve": amount})
    CALLS["approve"] += 1
    return f"{amount}: {answer}"


@tool
def count_messages(state: Annotated[dict, InjectedState]) -> str:
    """Count the messages so far."""
    return str(len(state["messages"]))


@tool
def hand_over(to: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:
    """Hand the conversation over."""
    return Command(goto=END, update={"messages": [ToolMessage(f"handed to {to}", tool_call_id=tool_call_id)]})


@tool
def thread_known(runtime: ToolRuntime) -> str:
    """Tell whether there is a thread."""
    return str(bool(runtime.config["configurable"].get("thread_id")))


@tool
async def research(topic: str) -> str:
    """Let another agent look something up."""
    get_stream_writer()(f"looks up {topic}")
    asked = {"messages": [{"role": "user", "content": topic, "id": "m-2"}]}
    found = await create_agent(model(asks_for(call("weather", place=topic)), AIMessage("found")), [weather]).ainvoke(
        asked
    )
    return str(found["messages"][-1].content)


def call(name: str, number: int = 1, **args: Any) -> dict:
    return {"name": name, "args": args, "id": f"call-{number}"}


def model(*answers: AIMessage) -> Scripted:
    return Scripted(answers=list(answers))


def asks_for(*calls: dict) -> AIMessage:
    return AIMessage("", tool_calls=list(calls))


DONE = AIMessage("done")


def react(tools: list, *answers: AIMessage) -> Any:
    """The graph of LangGraph's tutorials: a model, tools, and back."""
    scripted = model(*answers)

    async def think(state: MessagesState) -> dict:
        return {"messages": [await scripted.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node(think).add_node("tools", ToolNode(tools)).add_edge(START, "think")
    return builder.add_conditional_edges("think", tools_condition).add_edge("tools", "think").compile()


@before_model
def note_call(state: Any, _runtime: Any) -> None:
    CALLS[f"before {len(state['messages'])}"] += 1


def think_sync(state: MessagesState) -> dict:
    return {"messages": [model(AIMessage("sync")).invoke(state["messages"])]}


async def think_streaming(state: MessagesState) -> dict:
    pieces = [piece async for piece in model(AIMessage("piece by piece")).astream(state["messages"])]
    return {"messages": [AIMessage("".join(str(piece.content) for piece in pieces))]}


async def think_in_batch(_state: MessagesState) -> dict:
    answers = await model(AIMessage("one of two")).abatch([[HumanMessage("a")], [HumanMessage("b")]])
    return {"messages": [AIMessage(" ".join(str(one.content) for one in answers))]}


def team() -> Any:
    """Two agents that are nodes of a graph; the first chooses."""
    first = create_agent(model(asks_for(call("weather", place="Lima")), AIMessage("sunny")), [weather], name="first")
    second = create_agent(model(AIMessage("second opinion")), [], name="second")

    async def route(state: MessagesState) -> Command[Literal["first", "second"]]:
        return Command(goto="first" if len(state["messages"]) == 1 else "second")

    builder = StateGraph(MessagesState).add_node(route).add_node("first", first).add_node("second", second)
    return builder.add_edge(START, "route").add_edge("first", "second").compile()


async def ask(state: Said) -> dict:
    return {"said": [interrupt(f"after {len(state['said'])}?")]}


async def ask_twice(_state: Said) -> dict:
    return {"said": [interrupt("first?"), interrupt("second?")]}


async def ask_until_yes(_state: Said) -> dict:
    answers = []
    while not answers or answers[-1] != "yes":
        answers.append(interrupt(f"sure after {len(answers)}?"))
    return {"said": answers}


async def ask_with_object(_state: Said) -> dict:
    return {"said": [interrupt({"question": "which?", "of": [1, 2]})]}


async def say(_state: Said) -> dict:
    CALLS["say"] += 1
    return {"said": ["said"]}


async def remember(_state: Said) -> dict:
    return {"said": ["remembered"]}


def asks_inside() -> Any:
    builder = StateGraph(Said).add_node(say).add_node("inner", chain(Said, remember, ask)).add_edge(START, "say")
    return builder.add_edge("say", "inner").compile()


async def ask_below(state: Said) -> dict:
    return {"said": (await chain(Said, remember, ask).ainvoke({"said": ["below"]}))["said"]}


def asks_in_subgraphs_side_by_side() -> Any:
    builder = (
        StateGraph(Said).add_node("left", chain(Said, remember, ask)).add_node("right", chain(Said, say, ask_twice))
    )
    return builder.add_edge(START, "left").add_edge(START, "right").compile()


def asks_beside() -> Any:
    builder = StateGraph(Said).add_node(say).add_node(ask).add_node(ask_with_object)
    return builder.add_edge(START, "say").add_edge(START, "ask").add_edge(START, "ask_with_object").compile()


HELLO: dict = {"input": {"messages": [{"role": "user", "content": "Weather in Lima?", "id": "m-1"}]}}
NEW: dict = {"input": {"said": []}}
LIMA = call("weather", place="Lima")
APPROVE = call("approve", amount=7)

CASES: dict[str, Case] = {
    "react agent": Case(react([weather], asks_for(LIMA), DONE), [HELLO, {"input": {"messages": "And Rome?"}}]),
    "react agent without a tool call": Case(react([weather], DONE), [HELLO]),
    "tools side by side": Case(react([weather], asks_for(LIMA, call("weather", 2, place="Rome")), DONE), [HELLO]),
    "tool that fails": Case(react([broken], asks_for(call("broken", place="Lima")), DONE), [HELLO], fails=True),
    "tool that asks": Case(react([approve], asks_for(APPROVE), DONE), [HELLO, {"command": {"resume": "yes"}}]),
    "tool beside one that asks": Case(
        create_agent(model(asks_for(APPROVE, call("weather", 2, place="Lima")), DONE), [approve, weather]),
        [HELLO, {"command": {"resume": "yes"}}],
    ),
    "tool with the state": Case(react([count_messages], asks_for(call("count_messages")), DONE), [HELLO]),
    "tool with the runtime": Case(react([thread_known], asks_for(call("thread_known")), DONE), [HELLO]),
    "tool that commands": Case(react([hand_over], asks_for(call("hand_over", to="ann")), DONE), [HELLO]),
    "agent as a tool": Case(react([research], asks_for(call("research", topic="Lima")), DONE), [HELLO]),
    "unknown tool": Case(react([weather], asks_for(call("wether", place="Lima")), DONE), [HELLO]),
    "create_agent": Case(create_agent(model(asks_for(LIMA), DONE), [weather]), [HELLO]),
    "create_agent with a prompt": Case(create_agent(model(DONE), [], system_prompt="Be short."), [HELLO, HELLO]),
    "create_agent with middleware": Case(
        create_agent(model(asks_for(LIMA), DONE), [weather], middleware=[note_call]), [HELLO]
    ),
    "create_agent with a limit of calls": Case(
        create_agent(model(asks_for(LIMA)), [weather], middleware=[ModelCallLimitMiddleware(run_limit=2)]),
        [HELLO],
        forgets=True,
    ),
    "create_agent that waits for approval": Case(
        create_agent(
            model(asks_for(LIMA), DONE),
            [weather],
            middleware=[HumanInTheLoopMiddleware(interrupt_on={"weather": True})],
        ),
        [HELLO, {"command": {"resume": {"decisions": [{"type": "approve"}]}}}],
    ),
    "agents as nodes": Case(team(), [HELLO]),
    "sync call of a model": Case(chain(MessagesState, think_sync), [HELLO]),
    "streamed call of a model": Case(chain(MessagesState, think_streaming), [HELLO]),
    "batch of calls": Case(chain(MessagesState, think_in_batch), [HELLO]),
    "question": Case(chain(Said, say, ask, remember), [NEW, {"command": {"resume": 1}}]),
    "two questions of one node": Case(
        chain(Said, ask_twice), [NEW, {"command": {"resume": "a"}}, {"command": {"resume": "b"}}]
    ),
    "question in a loop": Case(
        chain(Said, ask_until_yes), [NEW, *({"command": {"resume": word}} for word in ("no", "no", "yes"))]
    ),
    "question in a subgraph": Case(asks_inside(), [NEW, {"command": {"resume": {"free": ["form"]}}}]),
    "question in a subgraph called by a node": Case(chain(Said, say, ask_below), [NEW, {"command": {"resume": "so"}}]),
    "questions of subgraphs side by side": Case(asks_in_subgraphs_side_by_side(), [NEW, {"input": None}]),
    "questions side by side": Case(asks_beside(), [NEW, {"input": None}]),
    "question that new input drops": Case(chain(Said, ask), [NEW, NEW, {"command": {"resume": 3}}]),
    "answer with an update": Case(chain(Said, ask), [NEW, {"command": {"resume": 1, "update": {"said": ["more"]}}}]),
}
