"""An agent that remembers what its users say, in the form of LangChain's template memory-agent."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import END, StateGraph, add_messages
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore


@dataclass(kw_only=True)
class Context:
    user_id: str = "default"
    model: str = "gpt-4o-mini"
    system_prompt: str = "You are a helpful and friendly chatbot.\n{user_info}"


@dataclass(kw_only=True)
class State:
    messages: Annotated[list[AnyMessage], add_messages]


async def upsert_memory(content: str, *, user_id: str, store: BaseStore) -> str:
    memory_id = uuid.uuid4()
    await store.aput(("memories", user_id), key=str(memory_id), value={"content": content})
    return f"Stored memory {memory_id}"


async def call_model(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    found = await runtime.store.asearch(("memories", runtime.context.user_id), limit=10)
    memories = "; ".join(sorted(item.value["content"] for item in found))
    prompt = runtime.context.system_prompt.format(user_info=f"<memories>{memories}</memories>")
    model = ChatOpenAI(model=runtime.context.model)
    message = await model.ainvoke([{"role": "system", "content": prompt}, *state.messages])
    return {"messages": [message, AIMessage(f"I know: {memories}")]}


async def store_memory(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> None:
    said = [message.text for message in state.messages if message.type == "human"][-1:]
    user_id = runtime.context.user_id
    await asyncio.gather(*(upsert_memory(one, user_id=user_id, store=runtime.store) for one in said))


builder = StateGraph(State, context_schema=Context)
builder.add_node(call_model)
builder.add_edge("__start__", "call_model")
builder.add_node(store_memory)
builder.add_edge("call_model", "store_memory")
builder.add_edge("store_memory", END)
graph = builder.compile()
graph.name = "MemoryAgent"
