"""The stream of a thread tells of its runs one after the other, each as its own stream does, from any event on."""

import asyncio
from contextlib import aclosing

import pytest
from langgraph_sdk.errors import NotFoundError

from langgraph_rq.producer.gateway.langgraph_api.threads import stream
from tests.langgraph_api.servers import serving
from tests.langgraph_api.test_runs import HI
from tests.waiting import until


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


async def listen(sdk, thread, runs, **options):
    """What is heard until so many runs are done."""
    heard = []
    async with aclosing(await sdk.threads.join_stream(thread, **options)) as parts:
        async for part in parts:
            heard.append(part)
            if part.event == "metadata" and part.data.get("status") == "run_done":
                runs -= 1
            if not runs:
                break
    return heard


def said(parts):
    return [(part.event, part.data) for part in parts]


async def test_runs_are_heard_one_after_the_other_and_from_any_event_on(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    listening = asyncio.create_task(listen(sdk, thread, 2, last_event_id="-"))
    own = [[part async for part in sdk.runs.stream(thread, "chat", input=HI, stream_mode=["updates", "custom"])]]
    own.append([part async for part in sdk.runs.stream(thread, "nested", input={"value": 1})])
    heard = await listening
    expected = []
    for parts in own:
        expected += [*said(parts)[:-1], ("metadata", {"status": "run_done", "run_id": parts[0].data["run_id"]})]
    assert said(heard) == expected
    assert said(await listen(sdk, thread, 2, last_event_id="-")) == expected
    for at in range(len(heard) - 1):
        left = sum(data.get("status") == "run_done" for _, data in expected[at + 1 :])
        assert said(await listen(sdk, thread, left, last_event_id=heard[at].id)) == expected[at + 1 :]


async def test_reader_without_a_place_hears_what_has_not_ended(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "nested", input={"value": 1})
    slow = {"name": "a", "ticks": 5, "tick_s": 0.1}
    run = await sdk.runs.create(thread, "slow", input=slow, stream_mode="custom")
    heard = await listen(sdk, thread, 1)
    assert {part.data["run_id"] for part in heard if part.event == "metadata"} == {run["run_id"]}
    assert [part.data for part in heard if part.event == "custom"] == [{"tick": tick} for tick in range(5)]


async def test_lifecycle_tells_how_runs_begin_fail_and_end(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "broken", input={"steps": []}, stream_mode=["values", "updates"])
    heard = await listen(sdk, thread, 1, stream_mode="lifecycle", last_event_id="-")
    assert said(heard) == [
        ("metadata", {"run_id": run["run_id"], "attempt": 1}),
        ("error", {"error": "ValueError", "message": "broken on purpose"}),
        ("metadata", {"status": "run_done", "run_id": run["run_id"]}),
    ]


async def test_stream_of_a_thread_that_does_not_exist_is_refused(sdk):
    with pytest.raises(NotFoundError):
        await listen(sdk, "00000000-0000-4000-8000-000000000000", 1)


@pytest.mark.parametrize("after_s", [0, 1])
async def test_reader_of_a_quiet_thread_is_woken_by_a_run_that_begins(sdk, redis_client, monkeypatch, after_s):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 3_600.0)
    thread = (await sdk.threads.create())["thread_id"]
    listening = asyncio.create_task(listen(sdk, thread, 1))
    await until(lambda: redis_client.exists(f"agent:wake:thread:{thread}"))
    assert 0 < redis_client.ttl(f"agent:wake:thread:{thread}") <= 60
    run = await sdk.runs.create(thread, "nested", input={"value": 1}, after_seconds=after_s)
    assert {part.data["run_id"] for part in await listening if part.event == "metadata"} == {run["run_id"]}


async def test_key_of_another_type_wakes_nobody_and_ends_no_stream(sdk, redis_client):
    thread = (await sdk.threads.create())["thread_id"]
    redis_client.set(f"agent:wake:thread:{thread}", "x", ex=60)
    listening = asyncio.create_task(listen(sdk, thread, 1, last_event_id="-"))
    run = await sdk.runs.create(thread, "nested", input={"value": 1})
    assert {part.data["run_id"] for part in await listening if part.event == "metadata"} == {run["run_id"]}
