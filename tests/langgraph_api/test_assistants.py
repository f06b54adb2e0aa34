"""LangGraph's stock SDK finds the graphs that workers serve, their drawings and their schemas."""

import re
from pathlib import Path
from threading import Lock
from typing import TypedDict  # the typing module's own: pydantic refuses it below Python 3.12

import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError
from redis import Redis

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.producer.gateway.langgraph_api.assistants import assistant_id
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS, GraphDescription
from langgraph_rq.worker.graphs.description import describe, publish
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from tests.gateways import gateway
from tests.langgraph_api.recordings import differences, record
from tests.langgraph_api.servers import GOLDEN, serving

MADE = """
from langgraph.graph import START, MessagesState, StateGraph

def make(config):
    return StateGraph(MessagesState).add_node("only", lambda _: {}).add_edge(START, "only")

def fail(config):
    raise ValueError(config)
"""


async def test_assistants_read_as_they_do_from_langgraphs_own_server(redis_url, redis_client, tmp_path):
    key, line = make_key("acme")
    async with serving(redis_url, redis_client, keys=line) as sdk:
        await record(str(sdk.http.client.base_url), key, tmp_path, "record_rest.py", "assistants")
        await record(str(sdk.http.client.base_url), key, tmp_path, "record_runs.py", "system")
    assert await differences(GOLDEN, tmp_path, "assistants.read") == ""
    assert await differences(GOLDEN, tmp_path, "system.*") == ""


async def test_sdk_reads_an_assistant_by_its_id_and_by_its_graphs_name(redis_url, redis_client):
    async with serving(redis_url, redis_client) as sdk:
        by_name = await sdk.assistants.get("chat")
        assert await sdk.assistants.get(by_name["assistant_id"]) == by_name
        assert await sdk.assistants.get_schemas("chat") == await sdk.assistants.get_schemas(by_name["assistant_id"])
        assert await sdk.assistants.count(name="NEST") == 2
        with pytest.raises(NotFoundError, match="expected a graph's name or the id of its assistant"):
            await sdk.assistants.get("chatt")
        with pytest.raises(UnprocessableEntityError, match="limit"):
            await sdk.assistants.search(limit=0)


async def test_run_of_a_gateway_that_no_worker_has_joined_is_told_what_to_start(redis_url):
    async with gateway(redis_url) as http:
        refused = await http.post("/runs/wait", json={"assistant_id": "chat", "input": {}})
    assert refused.status_code == 422
    assert "(none is known: start a worker that serves it)" in refused.json()["detail"]


async def test_example_of_the_page_runs(redis_url, redis_client):
    page = (Path(__file__).parents[2] / "docs/langgraph-api.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    async with serving(redis_url, redis_client) as sdk:
        example = example.replace("http://localhost:8080", str(sdk.http.client.base_url))
        body = "\n".join(f"    {line}" for line in example.splitlines())
        scope = {}
        exec(f"async def run():\n{body}\n    await client.aclose()", scope)
        await scope["run"]()


async def test_id_of_a_graphs_assistant_is_langgraphs():
    assert assistant_id("agent") == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


async def test_graph_that_is_made_for_each_run_is_described_as_it_is_made_without_one(tmp_path):
    (tmp_path / "made.py").write_text(MADE)
    (tmp_path / "langgraph.json").write_text('{"graphs": {"made": "./made.py:make", "fails": "./made.py:fail"}}')
    async with load_graphs(read_langgraph_json(tmp_path / "langgraph.json"), checkpointer=None) as graphs:
        (drawing,) = graphs.by_name["made"].describe().drawings
        assert [node["id"] for node in drawing["nodes"]] == ["__start__", "only", "__end__"]
        assert graphs.by_name["fails"].describe() is None


async def test_writing_an_assistant_is_refused_with_the_reason(redis_url):
    async with gateway(redis_url) as http:
        answer = await http.post("/assistants", json={"graph_id": "chat"})
        assert (answer.status_code, "no other is kept yet" in answer.json()["detail"]) == (501, True)
        assert (await http.get("/assistants")).status_code == 405


async def test_description_that_cannot_be_read_hides_one_graph_only(redis_url, redis_client):
    redis_client.hset(
        GRAPH_DESCRIPTIONS, mapping={"odd": b"\xff\n\xff", "cut": b'{"created_at": 1, "updated_at": 1}\nx'}
    )
    async with gateway(redis_url) as http:
        found = (await http.post("/assistants/search", json={})).json()
        assert [one["graph_id"] for one in found] == ["cut"]
        assert (await http.get("/assistants/cut/schemas")).status_code == 404


class Plain(TypedDict):
    text: str
    lock: Lock


def test_graph_that_pydantic_cannot_describe_is_described_key_by_key():
    graph = StateGraph(Plain)
    described = describe(graph.add_node("one", lambda _: {}).add_edge(START, "one").compile())
    expected = {
        "text": {"default": None, "title": "Text", "type": "string"},
        "lock": {"default": None, "title": "Lock"},
    }
    assert described.schemas["input_schema"]["properties"] == expected
    assert [node["id"] for node in described.drawings[0]["nodes"]] == ["__start__", "one", "__end__"]


def test_description_keeps_its_time_until_it_changes_and_is_written_again_when_lost(redis_url):
    def description(name: str) -> GraphDescription:
        return GraphDescription([{"nodes": [name], "edges": []}], {}, {})

    with Redis.from_url(redis_url) as redis:
        publish(redis, {"g": description("a")}, anew=True)
        first = redis.hget(GRAPH_DESCRIPTIONS, "g")
        publish(redis, {"g": description("a")}, anew=True)
        assert redis.hget(GRAPH_DESCRIPTIONS, "g") == first
        redis.delete(GRAPH_DESCRIPTIONS)
        publish(redis, {"g": description("b")}, anew=False)
        assert GraphDescription.read(redis.hget(GRAPH_DESCRIPTIONS, "g")) == description("b")
        assert 0 < redis.ttl(GRAPH_DESCRIPTIONS) <= 86_400
