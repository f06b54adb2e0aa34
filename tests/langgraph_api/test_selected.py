"""What clients select: keys of states, also single values; keys of runs; paths into threads; modes of a stream."""

import json

import pytest
from langgraph_sdk.errors import UnprocessableEntityError

from tests.langgraph_api.servers import serving

HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


@pytest.fixture
async def thread(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "nested", input={"value": 1})
    return thread


async def test_states_have_the_keys_that_were_selected_and_single_values(sdk, thread):
    select = ["values.value", "next"]
    newest, *_, oldest = await sdk.threads.get_history(thread)
    expected = {"values": {"value": 20}, "next": []}
    at = oldest["checkpoint"]
    assert await sdk.threads.get_state(thread, select=select) == expected
    assert (await sdk.threads.get_history(thread, limit=1, select=select)) == [expected]
    for named in ({"checkpoint": newest["checkpoint"]}, {"checkpoint_id": newest["checkpoint"]["checkpoint_id"]}):
        assert await sdk.threads.get_state(thread, select=select, **named) == expected
    earlier = await sdk.threads.get_state(thread, checkpoint=at, select=["values", "values.value"])
    assert earlier == {"values": {"steps": []}}
    assert await sdk.threads.get_state(thread, select=["values.unknown"]) == {"values": {}}


async def test_selected_names_that_do_not_exist_are_refused(sdk, thread):
    asked = [
        sdk.threads.get_state(thread, select=["valeus"]),
        sdk.threads.get_history(thread, select=["valeus"]),
        sdk.runs.list(thread, select=["stauts"]),
        sdk.threads.search(select=["stauts"]),
        sdk.assistants.search(select=["naem"]),
    ]
    for one in asked:
        with pytest.raises(UnprocessableEntityError, match="select"):
            await one
    for path in ("/threads/search", "/assistants/search"):
        assert "metadata" in (await sdk.http.post(path, json={"select": []}))[0]
    for extract in ({"a": "vaules.a"}, {"a-b": "values.a"}, {f"a{i}": "values.a" for i in range(11)}):
        with pytest.raises(UnprocessableEntityError, match="extract"):
            await sdk.threads.search(extract=extract)


@pytest.mark.parametrize("write", [json.dumps, ",".join, list])
async def test_modes_of_a_joined_stream_are_read_as_each_sdk_writes_them(sdk, thread, write):
    run = await sdk.runs.create(thread, "chat", input=HI, stream_mode=["values", "updates", "custom"])
    await sdk.runs.join(thread, run["run_id"])
    path = f"/threads/{thread}/runs/{run['run_id']}/stream"
    asked = {"stream_mode": write(["updates", "custom"])}
    heard = [part.event async for part in sdk.http.stream(path, "GET", params=asked)]
    assert [*dict.fromkeys(heard)] == ["metadata", "custom", "updates", "end"]
    again = await sdk.http.client.get(path, params=asked)
    assert again.headers["Location"] == f"{path}?stream_mode=updates&stream_mode=custom"  # for one that is cut off
    with pytest.raises(UnprocessableEntityError, match="stream_mode"):
        [part async for part in sdk.runs.join_stream(thread, run["run_id"], stream_mode=["upadtes"])]
