"""LangGraph's stock SDK for JavaScript, and CopilotKit's client on top of it, run graphs through our gateway."""

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.langgraph_api.node import JS, needs_packages, run
from tests.langgraph_api.servers import serving

pytestmark = [needs_packages, pytest.mark.slow]


@pytest.mark.parametrize("client", ["sdk", "agui"])
async def test_client_in_javascript_works(redis_url, redis_client, tmp_path, client):
    key, line = make_key("acme")
    async with serving(redis_url, redis_client, keys=line) as sdk:
        url = str(sdk.http.client.base_url)
        output = await run(JS / f"{client}.test.js", tmp_path, GATEWAY_URL=url, GATEWAY_KEY=key)
    assert "# fail 0" in output
