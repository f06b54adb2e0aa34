"""Workers that keep state in Postgres: what they open, and the one line that says why they do not."""

import asyncio
import json
import sys

import pytest

from langgraph_rq import Client, State
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.postgres.connections import PostgresUnavailableError


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The settings of a worker whose graph puts an item and says what it found before."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "graph.py").write_text(GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"g": "./graph.py:graph"}}))
    return WorkerSettings(config=tmp_path / "langgraph.json", state="postgres")


GRAPH = """
import operator
from typing import Annotated, TypedDict
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph

class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]

async def node(state):
    store = get_store()
    await store.aput(("users",), str(len(state["steps"])), {"n": 1})
    return {"steps": [f"items: {len(await store.asearch(('users',)))}"]}

graph = StateGraph(Steps).add_node(node).add_edge(START, "node").add_edge("node", END).compile()
"""


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        (None, SettingsError, "LGRQ_STATE_URL: expected a URL such as postgresql://"),
        ("postgresql://nobody@127.0.0.1:1/x", PostgresUnavailableError, "Postgres cannot be reached: .*refused"),
    ],
)
async def test_worker_without_its_postgres_does_not_start(settings, redis_url, monkeypatch, url, error, says):
    if url:
        monkeypatch.setenv("LGRQ_STATE_URL", url)
    with pytest.raises(error, match=says):
        async with open_context(settings, RedisSettings(redis_url=redis_url)):
            pass


async def test_thread_has_the_token_of_the_task_that_ran_last(settings, redis_url, postgres, postgres_url, monkeypatch):
    monkeypatch.setenv("LGRQ_STATE_URL", postgres_url)
    tokens, results = [], []
    async with open_context(settings, RedisSettings(redis_url=redis_url)) as context:
        assert isinstance(context.checkpointer, PostgresSaver)
        worker = GraphWorker([context.base_queue], redis_url, context, concurrency=4)
        running = asyncio.create_task(worker.run())
        with Client(redis_url) as client:
            for _ in range(2):
                receipt = client.submit({"steps": []}, graph="g", thread_id="th")
                results.append(await asyncio.to_thread(client.wait, receipt.task_id, 30))
                (row,) = await postgres.rows("SELECT token FROM lgrq_threads", {})
                tokens.append(row["token"])
        worker.stop()
        await running
    assert [result.status for result in results] == [State.SUCCESS] * 2
    assert results[-1].result == {"steps": ["items: 1", "items: 2"]}
    assert 0 < tokens[0] < tokens[1]
