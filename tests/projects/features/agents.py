"""Agents and tools."""

from typing import Annotated, Any

from langchain.agents import create_agent
from langchain.agents.middleware import before_model
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.runtime import Runtime


def look_up(
    word: str,
    state: Annotated[dict[str, Any], InjectedState],
    store: Annotated[Any, InjectedStore()],
    runtime: ToolRuntime,
) -> str:
    """Look up a word."""
    runtime.stream_writer(f"looking up {word}")
    return f"{word}, {len(state['messages'])} messages, store: {store is not None}, call: {runtime.tool_call_id}"


def call_tool(state: MessagesState) -> dict[str, Any]:
    calls = [{"name": "look_up", "args": {"word": "tide"}, "id": "call-1"}]
    return {"messages": [AIMessage("", tool_calls=calls, id="ai-1")]}


tool_node = (
    StateGraph(MessagesState)
    .add_node(call_tool)
    .add_node("tools", ToolNode([look_up]))
    .add_edge(START, "call_tool")
    .add_edge("call_tool", "tools")
    .compile()
)


class _Fake(GenericFakeChatModel):
    def bind_tools(self, *_args: Any, **_options: Any) -> Any:
        return self


def _answers() -> Any:
    calls = [{"name": "look_up", "args": {"word": "tide"}, "id": "call-1"}]
    while True:
        yield AIMessage("", tool_calls=calls, id="ai-1")
        yield AIMessage("The tide is high.", id="ai-2")


@before_model
def note(state: Any, runtime: Runtime) -> dict[str, Any] | None:
    runtime.stream_writer("before the model")
    return None


agent = create_agent(_Fake(messages=_answers()), tools=[look_up], middleware=[note])
