"""LangGraph's stock SDK hears from our gateway what it heard from LangGraph's own server."""

import asyncio

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.langgraph_api.recordings import differences, record
from tests.langgraph_api.servers import GOLDEN, serving

_SCENARIOS = (
    "system.*", "assistants.read", "threads.*", "runs.*", "stream.*", "multitask.*", "cancel.*", "join_stream.[!b]*"
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.timeout(300)
async def test_recorded_scenarios_are_answered_as_langgraphs_own_server_answers(redis_url, redis_client, tmp_path):
    (key, line), (other_key, other_line) = make_key("acme"), make_key("other")  # runs are cancelled by their status
    async with serving(redis_url, redis_client, keys=f"{line}\n{other_line}") as sdk:
        url = str(sdk.http.client.base_url)
        await asyncio.gather(
            record(url, key, tmp_path, "record_runs.py"),
            record(url, other_key, tmp_path, "record_rest.py", "threads", "assistants"),
        )
    found = [
        differences_of for scenarios in _SCENARIOS if (differences_of := await differences(GOLDEN, tmp_path, scenarios))
    ]
    assert "\n".join(found) == ""


async def test_recorded_use_of_the_store_is_answered_likewise(redis_url, redis_client, tmp_path):
    key, line = make_key("acme")
    async with serving(redis_url, redis_client, keys=line) as sdk:
        headers = {"x-api-key": key}
        await sdk.runs.wait(
            None, "memo", input={"text": "one"}, headers=headers
        )  # as the recordings before this one do
        await record(str(sdk.http.client.base_url), key, tmp_path, "record_rest.py", "store")
    assert await differences(GOLDEN, tmp_path, "store.*") == ""
