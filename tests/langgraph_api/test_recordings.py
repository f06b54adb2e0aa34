"""LangGraph's stock SDK hears from our gateway what it heard from LangGraph's own server."""

import asyncio

import pytest

from tests.langgraph_api.recordings import differences, record
from tests.langgraph_api.servers import GOLDEN, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.timeout(300)
async def test_recorded_scenarios_are_answered_as_langgraphs_own_server_answers(redis_url, redis_client, tmp_path):
    async with serving(redis_url, redis_client) as sdk:
        url = str(sdk.http.client.base_url)
        await asyncio.gather(
            record(url, tmp_path, "record_runs.py"), record(url, tmp_path, "record_rest.py", "threads", "assistants")
        )
    found = [
        differences_of
        for area in ("system", "assistants", "threads", "runs", "stream", "multitask", "cancel")
        if (differences_of := await differences(GOLDEN, tmp_path, f"{area}.*"))
    ]
    assert "\n".join(found) == ""


async def test_recorded_use_of_the_store_is_answered_likewise(redis_url, redis_client, tmp_path):
    async with serving(redis_url, redis_client) as sdk:
        await sdk.runs.wait(None, "memo", input={"text": "one"})  # as the recordings before this one do
        await record(str(sdk.http.client.base_url), tmp_path, "record_rest.py", "store")
    assert await differences(GOLDEN, tmp_path, "store.*") == ""
