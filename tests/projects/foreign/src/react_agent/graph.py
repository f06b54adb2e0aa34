"""The graph: a model that calls tools until it answers."""

from typing import Literal, cast

from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage
from langgraph.graph import StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime

from react_agent.context import Context
from react_agent.state import InputState, State
from react_agent.tools import TOOLS


async def call_model(state: State, runtime: Runtime[Context]) -> dict[str, list[AIMessage]]:
    provider, model = runtime.context.model.split("/", maxsplit=1)
    chat = init_chat_model(model, model_provider=provider).bind_tools(TOOLS)
    prompt = runtime.context.system_prompt.format(max_search_results=runtime.context.max_search_results)
    response = cast(AIMessage, await chat.ainvoke([{"role": "system", "content": prompt}, *state.messages]))
    if state.is_last_step and response.tool_calls:
        return {"messages": [AIMessage(id=response.id, content="Sorry, I could not find an answer.")]}
    return {"messages": [response]}


def route_model_output(state: State) -> Literal["__end__", "tools"]:
    last = state.messages[-1]
    if not isinstance(last, AIMessage):
        raise TypeError(f"Expected AIMessage in output edges, but got {type(last).__name__}")
    return "tools" if last.tool_calls else "__end__"


builder = StateGraph(State, input_schema=InputState, context_schema=Context)
builder.add_node(call_model)
builder.add_node("tools", ToolNode(TOOLS))
builder.add_edge("__start__", "call_model")
builder.add_conditional_edges("call_model", route_model_output)
builder.add_edge("tools", "call_model")

graph = builder.compile(name="ReAct Agent")
