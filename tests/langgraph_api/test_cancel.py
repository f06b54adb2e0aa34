"""Runs that are stopped: by whom, as their threads and results say, and as soon as no client listens any more."""

import asyncio
import json

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from langgraph_rq import AsyncClient, State
from tests.langgraph_api.servers import serving
from tests.waiting import until

STAYS = {"name": "a", "ticks": 500, "tick_s": 0.1}


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


async def test_thread_says_who_cancelled_its_run(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "slow", input=STAYS)
    await sdk.runs.cancel(thread, run["run_id"], wait=True)
    found = await sdk.threads.get(thread)
    asked = "interrupt requested via POST /threads/{thread_id}/runs/{run_id}/cancel"
    assert (found["status"], found["error"]) == ("interrupted", {"error": "UserInterrupt", "message": asked})


async def test_result_names_the_run_that_superseded_it(sdk, redis_url):
    thread = (await sdk.threads.create())["thread_id"]
    runs = [await sdk.runs.create(thread, "slow", input=STAYS) for _ in range(2)]
    last = await sdk.runs.create(thread, "slow", input={**STAYS, "ticks": 1}, multitask_strategy="interrupt")
    async with AsyncClient(redis_url) as client:
        for run in runs:
            ended = await client.wait(run["run_id"], 20)
            assert ended.status is State.CANCELLED
            assert ended.metadata.cancel_reason == f"superseded by {last['run_id']}"
        assert (await client.wait(last["run_id"], 20)).status is State.SUCCESS


async def test_open_runs_of_a_status_are_cancelled_and_no_others(sdk, redis_url):
    async def states():
        return [(await sdk.runs.list(thread))[0]["status"] for thread in threads]

    threads = [(await sdk.threads.create())["thread_id"] for _ in range(3)]
    ended, running, waiting = threads
    await sdk.runs.wait(ended, "slow", input={**STAYS, "ticks": 1})
    await sdk.runs.create(running, "slow", input=STAYS)
    await sdk.runs.create(waiting, "slow", input=STAYS, after_seconds=600)
    await until(lambda: _is_running(sdk, running))
    await sdk.runs.cancel_many(status="pending")
    assert await states() == ["success", "running", "interrupted"]
    await sdk.runs.cancel_many(status="all")
    async with AsyncClient(redis_url) as client:
        (run,) = await sdk.runs.list(running)
        assert (await client.wait(run["run_id"], 20)).status is State.CANCELLED
    with pytest.raises(NotFoundError):
        await sdk.runs.cancel_many(status="running")


async def test_runs_to_be_cancelled_are_named_in_one_way(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    for named in ({}, {"thread_id": thread}, {"thread_id": thread, "run_ids": [thread], "status": "all"}):
        with pytest.raises(UnprocessableEntityError, match="status: expected either"):
            await sdk.http.post("/runs/cancel", json=named)


@pytest.mark.parametrize(("path", "heard"), [("runs/stream", b'{"tick":1}'), ("runs/wait", b"200 OK")])
async def test_run_whose_reader_closes_its_socket_stops_if_it_was_asked_to(sdk, redis_url, path, heard):
    thread = (await sdk.threads.create())["thread_id"]
    body = {"assistant_id": "slow", "input": STAYS, "stream_mode": "custom", "on_disconnect": "cancel"}
    text = json.dumps(body)
    url = sdk.http.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        f"POST /threads/{thread}/{path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    await reader.readuntil(heard)
    (run,) = await until(lambda: sdk.runs.list(thread))
    await until(lambda: _is_running(sdk, thread))
    writer.close()
    async with AsyncClient(redis_url) as client:
        ended = await client.wait(run["run_id"], 20)
    assert ended.status is State.CANCELLED
    assert ended.metadata.cancel_reason == "its client has disconnected"


async def _is_running(sdk, thread):
    return await sdk.runs.list(thread, status="running")


async def test_batch_is_taken_whole_or_not_at_all(sdk, redis_client):
    one = {"assistant_id": "nested", "input": {"value": 1}}
    batch = [{**one, "on_completion": "keep"}, {**one, "assistant_id": "unknown"}]
    refused = await sdk.http.client.post("/runs/batch", json=batch)
    assert refused.status_code == 422
    assert redis_client.keys("agent:task:*") == []
    assert redis_client.keys("agent:run*") == []
    assert redis_client.keys("agent:thread_row:*") == []
    taken = await sdk.runs.create_batch([one] * 5)
    ended = [await sdk.runs.join(run["thread_id"], run["run_id"]) for run in taken]
    assert [end["value"] for end in ended] == [20] * 5
