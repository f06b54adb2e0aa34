"""A hundred runs that are created at once on one thread: what each strategy lets through, and never two at a time."""

import asyncio
import operator
from collections import Counter
from contextlib import suppress
from typing import Annotated, TypedDict

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import ConflictError

from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS
from tests.fleet import one_node_graph, worker
from tests.gateways import listening
from tests.waiting import until

MANY = 100


class Numbers(TypedDict, total=False):
    seen: Annotated[list[int], operator.add]


class Turnstile:
    """A graph whose runs wait until it is opened, and that counts those inside."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = self.most = 0
        self.graph = one_node_graph(self.node, Numbers)

    async def node(self, state: Numbers):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return {"seen": [len(state["seen"])]}


@pytest.mark.parametrize(
    ("strategy", "taken", "listed", "seen"),
    [
        ("reject", 1, {"success": 1}, 2),
        ("enqueue", MANY, {"success": MANY}, 2 * MANY),
        ("interrupt", MANY, {"success": 1, "interrupted": MANY - 1}, None),
        ("rollback", MANY, {"success": 1}, 2),
    ],
)
async def test_runs_that_are_created_at_once(redis_url, redis_client, strategy, taken, listed, seen):
    turnstile = Turnstile()
    async with worker(redis_url, {"count": turnstile.graph}, checkpoints=True), listening(redis_url) as (http, _):
        await until(lambda: redis_client.hlen(GRAPH_DESCRIPTIONS) == 1)
        async with get_client(url=str(http.base_url), api_key=None) as sdk:
            thread = (await sdk.threads.create())["thread_id"]

            async def create(number: int):
                with suppress(ConflictError):
                    return await sdk.runs.create(thread, "count", input={"seen": [number]}, multitask_strategy=strategy)

            runs = [run for run in await asyncio.gather(*map(create, range(MANY))) if run]
            assert len(runs) == taken
            assert {run["status"] for run in runs} == {"pending"}
            turnstile.open.set()
            await until(lambda: _is_idle(sdk, thread), 60)
            found = await sdk.runs.list(thread, limit=MANY)
            assert Counter(run["status"] for run in found) == listed
            assert turnstile.most == 1
            state = await sdk.threads.get_state(thread)
            assert seen in {None, len(state["values"]["seen"])}
            assert state["next"] == []


async def _is_idle(sdk, thread):
    return (await sdk.threads.get(thread))["status"] == "idle"
