"""A run that was accepted is answered as one, though Redis goes away right after it: an error would start another."""

import asyncio
import tempfile
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import UnprocessableEntityError

from langgraph_rq.shared.connections.scripts import load_script
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS
from tests.chaos.testbed.proxy import Proxy
from tests.fleet import one_node_graph, worker
from tests.gateways import listening
from tests.waiting import until

READS_RUNS = load_script("shared/queue/scripts/records/read_runs").sha
AWAITS_END = load_script("shared/queue/scripts/await_ends").sha
LOOKS = 8
"""More than a client repeats before it says that Redis is away."""


@pytest.fixture
async def between(redis_url):
    with (
        tempfile.TemporaryDirectory() as folder,
        Proxy(Path(folder) / "proxy.sock", Path(urlsplit(redis_url).path)).serve() as proxy,
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


async def test_run_is_accepted_in_four_commands(redis_url, redis_client):
    redis_client.hset(GRAPH_DESCRIPTIONS, "g", '{"created_at": 1, "updated_at": 1}\n')
    async with (
        listening(redis_url, rate="600/minute") as (http, _server),
        get_client(url=str(http.base_url), api_key=None) as sdk,
    ):
        thread = (await sdk.threads.create())["thread_id"]
        await sdk.runs.create(thread, "g", input={})  # which loads the scripts
        with redis_client.monitor() as commands:
            redis_client.echo("begin")
            await sdk.runs.create(thread, "g", input={})
            redis_client.echo("end")
            heard = iter(commands.next_command, None)
            assert any(one["command"] == "ECHO begin" for one in heard)
            sent = list(takewhile(lambda one: one["command"] != "ECHO end", heard))
    assert [one["command"].split()[0] for one in sent if one["client_type"] != "lua"] == [
        "EVALSHA_RO",  # the thread
        "EVALSHA",  # the rate and the open tasks
        "EVALSHA",  # the submit
        "EVALSHA_RO",  # the run, as it is answered
    ]


async def test_graph_that_was_forgotten_since_the_last_run_is_refused(redis_url, redis_client):
    async with (
        listening(redis_url) as (http, _server),
        get_client(url=str(http.base_url), api_key=None) as sdk,
    ):
        thread = (await sdk.threads.create())["thread_id"]
        async with worker(redis_url, {"g": one_node_graph(lambda _state: {"n": 1})}):
            await sdk.runs.wait(thread, "g", input={})
        redis_client.delete(GRAPH_DESCRIPTIONS, "agent:graphs", "agent:graph_inputs")
        async with worker(redis_url, {"h": one_node_graph(lambda _state: {"n": 1})}):
            with pytest.raises(UnprocessableEntityError, match="expected one that a live worker serves"):
                await sdk.runs.create(thread, "g", input={})


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
    between.lose_replies("XREVRANGE", every=1)
    parts = [[part async for part in sdk.runs.stream(thread, "g", input={"n": n})] for n in range(3)]
    assert {each[-1].data["status"] for each in parts} == {"success"}
    assert between.dropped == 0
    assert len(await sdk.runs.list(thread)) == len(parts)


async def test_run_that_is_waited_for_outlasts_an_outage_of_redis(sdk, between):
    thread = (await sdk.threads.create())["thread_id"]
    between.lose_replies(AWAITS_END, every=1)
    assert await sdk.runs.wait(thread, "g", input={"n": 0}) == {"n": 1}  # the first reply passes
    waiting = asyncio.create_task(sdk.runs.wait(thread, "g", input={"n": 0}))
    await until(lambda: between.dropped >= LOOKS)
    assert not waiting.done(), "an error would let its client start a second run"
    between.lose_replies(AWAITS_END, every=0)
    assert await waiting == {"n": 1}
    assert len(await sdk.runs.list(thread)) == 2
