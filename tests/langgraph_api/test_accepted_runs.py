"""A run that was accepted is answered as one, though Redis goes away right after it: an error would start another."""

import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from langgraph_sdk import get_client

from langgraph_rq.shared.connections.scripts import load_script
from tests.chaos.testbed.proxy import RedisProxy
from tests.fleet import one_node_graph, worker
from tests.gateways import listening

READS_RUNS = load_script("shared/queue/scripts/records/read_runs").sha
READS_PLACE = "XREVRANGE"


@pytest.fixture
async def between(redis_url):
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisProxy(Path(folder) / "proxy.sock", Path(urlsplit(redis_url).path)).serve() as proxy,
    ):
        yield proxy


@pytest.fixture
async def sdk(redis_url, between):
    async with (
        worker(redis_url, {"g": one_node_graph(lambda _state: {"n": 1})}),
        listening(between.url) as (http, _server),
        get_client(url=str(http.base_url), api_key=None) as client,
    ):
        yield client


async def test_run_is_answered_without_a_redis_that_is_away_after_it_was_accepted(sdk, between):
    thread = (await sdk.threads.create())["thread_id"]
    between.lose_replies(READS_RUNS, every=1)
    runs = [await sdk.runs.create(thread, "g", input={"n": n}, metadata={"n": n}) for n in range(3)]
    assert between.dropped > 0
    between.lose_replies(READS_RUNS, every=0)
    listed = await sdk.runs.list(thread)
    assert [run["run_id"] for run in listed] == [run["run_id"] for run in reversed(runs)]
    assert [(run["status"], run["metadata"]["n"], run["kwargs"]["input"]) for run in runs] == [
        ("pending", n, {"n": n}) for n in range(3)
    ]


async def test_stream_of_a_run_that_was_accepted_begins_without_looking_for_it(sdk, between):
    thread = (await sdk.threads.create())["thread_id"]
    between.lose_replies(READS_PLACE, every=1)
    parts = [[part async for part in sdk.runs.stream(thread, "g", input={"n": n})] for n in range(3)]
    assert {each[-1].data["status"] for each in parts} == {"success"}
    assert between.dropped == 0
    assert len(await sdk.runs.list(thread)) == len(parts)
