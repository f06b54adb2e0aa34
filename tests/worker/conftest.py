"""The offline model server as tests of model calls use it, and the log as JSON lines."""

import io
import json
import logging

import pytest
import structlog

from langgraph_rq.shared.telemetry import logs
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


class Lines(io.StringIO):
    def named(self, event: str) -> list[dict]:
        return [line for line in map(json.loads, self.getvalue().splitlines()) if line["event"] == event]


@pytest.fixture
def lines():
    root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers
    out = Lines()
    logs.configure("debug", stream=out)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    yield out
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.reset()
