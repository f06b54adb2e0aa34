"""Keys of `configurable` and `context` that name a run's thread, checkpoint and user."""

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk.errors import UnprocessableEntityError

from langgraph_rq import AsyncClient
from tests.langgraph_api.servers import serving_graphs

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@dataclass
class Reader:
    user_id: str = "unknown"
    tone: str = "dry"


class Seen(TypedDict, total=False):
    n: int
    in_config: dict[str, Any]
    in_context: dict[str, Any]


async def look(state: Seen, config: RunnableConfig, runtime: Runtime[Reader]) -> dict[str, Any]:
    told = {name: config["configurable"].get(name) for name in ("user_id", "tone")}
    context = vars(runtime.context) if isinstance(runtime.context, Reader) else runtime.context
    return {"in_config": told, "in_context": context, "n": state.get("n", 0) + 1}


@pytest.fixture
async def sdk(redis_url, redis_client):
    graph = StateGraph(Seen, context_schema=Reader).add_node("look", look).add_edge(START, "look").compile()
    plain = StateGraph(Seen).add_node("look", look).add_edge(START, "look").compile()
    async with serving_graphs(redis_url, redis_client, {"g": graph, "plain": plain}) as client:
        yield client


@pytest.fixture
async def thread(sdk):
    return (await sdk.threads.create())["thread_id"]


async def user_of(sdk, redis_url, thread):
    (run,) = await sdk.runs.list(thread, limit=1)
    async with AsyncClient(redis_url) as client:
        return (await client.status(run["run_id"])).user_id


@pytest.mark.parametrize("where", ["config", "context"])
async def test_user_reaches_the_node_and_the_context_and_is_the_tasks(sdk, redis_url, thread, where):
    given = {"user_id": "Ann B.", "tone": "kind"}
    asked = {"config": {"configurable": given}} if where == "config" else {"context": given}
    ran = await sdk.runs.wait(thread, "g", input={"n": 0}, **asked)
    assert (ran["in_config"], ran["in_context"]) == (given, given)
    assert await user_of(sdk, redis_url, thread) == "Ann B."
    (run,) = await sdk.runs.list(thread)
    assert run["kwargs"]["config"]["configurable"]["user_id"] == "Ann B."


async def test_context_of_a_graph_without_schema_is_what_the_client_gave_and_else_nothing(sdk):
    assert (await sdk.runs.wait(None, "plain", input={"n": 0}))["in_context"] is None
    given = {"user_id": "ann", "tone": "kind"}
    ran = await sdk.runs.wait(None, "plain", input={"n": 0}, config={"configurable": given})
    assert ran["in_context"] == given


async def test_thread_of_the_path_may_be_named_once_more_and_no_other(sdk, thread):
    ran = await sdk.runs.wait(thread, "g", input={"n": 1}, config={"configurable": {"thread_id": thread}})
    assert ran["n"] == 2
    for path in (thread, None):
        with pytest.raises(UnprocessableEntityError, match=r"config\.configurable\.thread_id"):
            await sdk.runs.create(path, "g", input={"n": 1}, config={"configurable": {"thread_id": UNKNOWN}})


async def test_config_that_a_thread_shows_can_be_sent_back(sdk, thread):
    await sdk.runs.wait(thread, "g", input={"n": 1}, config={"configurable": {"tone": "kind", "user_id": "ann"}})
    shown = (await sdk.threads.get(thread))["config"]
    assert shown == {"configurable": {"tone": "kind", "user_id": "ann"}}
    ran = await sdk.runs.wait(thread, "g", input={"n": 1}, config=shown)
    assert ran["in_config"] == {"tone": "kind", "user_id": "ann"}


async def test_checkpoint_in_the_config_is_forked_from(sdk, thread):
    await sdk.runs.wait(thread, "g", input={"n": 1})
    before = next(one for one in await sdk.threads.get_history(thread) if one["next"] == ["look"])
    await sdk.runs.wait(thread, "g", input={"n": 7})
    ran = await sdk.runs.wait(thread, "g", input=None, config={"configurable": before["checkpoint"]})
    assert ran["n"] == 2


@pytest.mark.parametrize("name", ["langgraph_auth_user", "langgraph_auth_user_id", "task_id", "__root"])
async def test_what_only_a_server_says_of_a_run_is_refused(sdk, thread, name):
    with pytest.raises(UnprocessableEntityError, match=name):
        await sdk.runs.create(thread, "g", input={"n": 1}, config={"configurable": {name: "root"}})


@pytest.mark.parametrize("named", [{"user_id": 7}, {"user_id": ""}, {"checkpoint_ns": "child:1"}])
async def test_what_names_no_user_or_a_subgraph_is_refused_by_name(sdk, thread, named):
    (name,) = named
    with pytest.raises(UnprocessableEntityError, match=rf"config\.configurable\.{name}"):
        await sdk.runs.create(thread, "g", input={"n": 1}, config={"configurable": named})
