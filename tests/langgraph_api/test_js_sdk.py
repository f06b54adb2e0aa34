"""LangGraph's stock SDK for JavaScript runs graphs through our gateway."""

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.langgraph_api.node import needs_packages, run
from tests.langgraph_api.servers import serving


@needs_packages
async def test_sdk_for_javascript_creates_streams_joins_resumes_forks_and_lists(redis_url, redis_client):
    key, line = make_key("acme")
    async with serving(redis_url, redis_client, keys=line) as sdk:
        url = str(sdk.http.client.base_url)
        output = await run("node", "--test", "sdk.test.js", GATEWAY_URL=url, GATEWAY_KEY=key)
    assert "# fail 0" in output
