"""Our gateway and a worker with the graphs of which LangGraph's own server was recorded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from langgraph_rq.shared.graph_description import GRAPH_DESCRIPTIONS
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from tests.fleet import worker
from tests.gateways import listening
from tests.waiting import until

HERE = Path(__file__).parent
PROJECT = HERE / "project" / "langgraph.json"
GOLDEN = HERE / "golden"


@asynccontextmanager
async def serving(redis_url: str, redis_client, **settings) -> AsyncIterator[LangGraphClient]:
    """Serve the recorded project; gives the stock SDK's client."""
    async with (
        load_graphs(read_langgraph_json(PROJECT), checkpointer=None) as graphs,
        worker(redis_url, {name: loaded.graph for name, loaded in graphs.by_name.items()}, checkpoints=True),
        listening(redis_url, **settings) as (http, _server),
    ):
        await until(lambda: redis_client.hlen(GRAPH_DESCRIPTIONS) == len(graphs.by_name))
        async with get_client(url=str(http.base_url), api_key=None) as sdk:
            yield sdk
