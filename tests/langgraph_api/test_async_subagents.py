"""A deep agent starts, checks, updates, cancels and lists subagents that run as tasks behind our gateway."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from deepagents import AsyncSubAgent, create_deep_agent
from deepagents.middleware import async_subagents
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk import get_client

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.langgraph_api.servers import serving_graphs
from tests.waiting import until


class Caller(BaseChatModel):
    """Calls the tool that it was told to call, in a human message of JSON, once."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        asked = max(i for i, one in enumerate(messages) if isinstance(one, HumanMessage) and one.text.startswith('["'))
        answer = AIMessage("done")
        if not any(isinstance(one, ToolMessage) for one in messages[asked:]):
            name, arguments = json.loads(messages[asked].text)
            answer = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "call-1", "type": "tool_call"}])
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    @property
    def _llm_type(self) -> str:
        return "caller"


async def work(state: MessagesState) -> dict[str, Any]:
    request = state["messages"][-1].text
    if request.startswith("wait"):
        await asyncio.Event().wait()
    return {"messages": [AIMessage(f"found: {request}")]}


RESEARCHER = StateGraph(MessagesState).add_node("work", work).add_edge(START, "work").compile()


@pytest.fixture
async def say(redis_url, redis_client, monkeypatch):
    """Let an agent with a remote subagent call a tool, and answer what the tool returned."""
    key, line = make_key("acme")
    opened = []

    def open_client(**options: Any) -> Any:
        opened.append(get_client(api_key=None, **options))
        return opened[-1]

    monkeypatch.setattr(async_subagents, "get_client", open_client)
    async with serving_graphs(redis_url, redis_client, {"researcher": RESEARCHER}, keys=line) as sdk:
        subagent = AsyncSubAgent(
            name="researcher",
            description="Looks things up.",
            graph_id="researcher",
            url=str(sdk.http.client.base_url),
            headers={"authorization": f"Bearer {key}"},
        )
        agent = create_deep_agent(model=Caller(), subagents=[subagent], checkpointer=InMemorySaver())

        async def call(name: str, **arguments: Any) -> str:
            message = {"role": "user", "content": json.dumps([name, arguments])}
            ended = await agent.ainvoke({"messages": [message]}, {"configurable": {"thread_id": "t1"}})
            return next(one.text for one in reversed(ended["messages"]) if isinstance(one, ToolMessage))

        yield call
        for client in opened:
            await client.aclose()


async def launch(say, description: str) -> str:
    said = await say("start_async_task", description=description, subagent_type="researcher")
    assert said.startswith("Launched async subagent")
    return re.search(r"task_id: (\S+)", said)[1]


async def test_deep_agent_starts_checks_updates_cancels_and_lists_subagents(say):
    task = await launch(say, "wait for more")
    assert json.loads(await say("check_async_task", task_id=task))["status"] in {"pending", "running"}
    assert "Updated" in await say("update_async_task", task_id=task, message="look up tea")

    async def result() -> Any:
        checked = json.loads(await say("check_async_task", task_id=task))
        assert checked["status"] in {"pending", "running", "success"}
        return checked.get("result")

    assert await until(result) == "found: look up tea"
    other = await launch(say, "wait for ever")
    assert "Cancelled" in await say("cancel_async_task", task_id=other)
    listed = await say("list_async_tasks")
    assert {line.partition("status: ")[2] for line in listed.splitlines()[1:]} == {"success", "cancelled"}
