"""The offline model server as tests of model calls use it."""

import pytest

from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.model_calls import chat_models


@pytest.fixture(scope="module")
def server():
    with OfflineLLM() as server:
        yield server


@pytest.fixture
def llm(server):
    server.admin.clear()
    server.admin.set_latency(0)
    return server.admin


@pytest.fixture
async def chat(server):
    async with chat_models(server.url) as chat:
        yield chat
