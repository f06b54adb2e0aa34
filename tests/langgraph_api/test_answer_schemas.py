"""The schema of an answer, which a node gives with its question, is shown wherever the question is."""

from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from tests.langgraph_api.servers import serving_graphs

SCHEMA = {"type": "object", "properties": {"approved": {"type": "boolean"}}}


class Asked(TypedDict, total=False):
    answer: bool


async def ask(_state: Asked) -> Asked:
    return {"answer": interrupt("approve?", response_schema=SCHEMA)["approved"]}


async def test_schema_of_an_answer_is_shown_with_its_question(redis_url, redis_client):
    graph = StateGraph(Asked).add_node("ask", ask).add_edge(START, "ask").compile()
    async with serving_graphs(redis_url, redis_client, {"g": graph}) as sdk:
        thread = (await sdk.threads.create())["thread_id"]
        asked = await sdk.runs.wait(thread, "g", input={"answer": False})
        state, (found,) = await sdk.threads.get_state(thread), await sdk.threads.search(status="interrupted")
        ((of_thread,),) = found["interrupts"].values()
        (of_state,), (of_run,) = state["interrupts"], asked["__interrupt__"]
        assert of_thread == of_state == of_run == {"id": of_run["id"], "value": "approve?", "response_schema": SCHEMA}
        assert (await sdk.runs.wait(thread, "g", command={"resume": {"approved": True}}))["answer"] is True
