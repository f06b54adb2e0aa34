"""Our gateway and a worker with the graphs of which LangGraph's own server was recorded."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from langgraph_rq.worker.state.store.opening import open_store
from tests.fleet import worker
from tests.gateways import listening
from tests.waiting import until

HERE = Path(__file__).parent
PROJECT = HERE / "project" / "langgraph.json"
GOLDEN = HERE / "golden"


@asynccontextmanager
async def serving(redis_url: str, redis_client, **settings) -> AsyncIterator[LangGraphClient]:
    """Serve the recorded project; gives the stock SDK's client."""
    config = read_langgraph_json(PROJECT)
    async with (
        open_async(redis_url) as stored,
        open_store(stored, redis_url, config) as store,
        load_graphs(config, checkpointer=None, store=store) as loaded,
    ):
        graphs = {name: one.graph for name, one in loaded.by_name.items()}
        async with serving_graphs(redis_url, redis_client, graphs, store=store, **settings) as sdk:
            yield sdk


@asynccontextmanager
async def serving_graphs(
    redis_url: str, redis_client, graphs: Mapping[str, Any], store: BaseStore | None = None, **settings
) -> AsyncIterator[LangGraphClient]:
    """Serve compiled graphs; gives the stock SDK's client."""
    async with (
        worker(redis_url, graphs, checkpoints=True, store=store),
        listening(redis_url, **settings) as (http, _server),
    ):
        await until(lambda: redis_client.hlen(GRAPH_DESCRIPTIONS) == len(graphs))
        async with get_client(url=str(http.base_url), api_key=None) as sdk:
            yield sdk
