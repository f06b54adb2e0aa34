"""One offline model server for all tests of it, reset before each, and an OpenAI client of it."""

import openai
import pytest

from langgraph_rq.worker.dev.offline_model.process import OfflineLLM


@pytest.fixture(scope="session")
def shared_server():
    with OfflineLLM(keep_prompts=True) as server:
        yield server


@pytest.fixture
def server(shared_server):
    shared_server.admin.clear()
    shared_server.admin.set_latency(0)
    return shared_server


@pytest.fixture
async def client(server):
    plain = openai.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than most tests
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key="secret-key", max_retries=0, timeout=20, http_client=plain
    ) as client:
        yield client
