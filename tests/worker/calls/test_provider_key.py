"""The key of the model API from a file that changes while a worker runs."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from langchain_openai import ChatOpenAI

from langgraph_rq import Client
from langgraph_rq.shared.settings.environment import file_of
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.provider_key import VARIABLE, KeyFile
from tests.fleet import one_node_graph, worker
from tests.model_calls import Said


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    file = tmp_path / "key"
    file.write_text("first\n")
    KeyFile(file).export()
    return file


@pytest.mark.parametrize("is_sync", [False, True])
async def test_guarded_model_uses_the_new_key_of_a_file_that_changed(is_sync, file, server, llm, redis_url):
    keys = []

    def record(request):
        keys.append(request.headers["authorization"])

    async def record_async(request):
        record(request)

    async with httpx.AsyncClient(event_hooks={"request": [record_async]}) as http_async:
        with httpx.Client(event_hooks={"request": [record]}) as http:
            plain = ChatOpenAI(model="gpt-4o-mini", base_url=server.url, http_client=http, http_async_client=http_async)
            model = guarded_chat_model(plain)

            async def node(_state):
                await (asyncio.to_thread(model.invoke, "hi") if is_sync else model.ainvoke("hi"))

            async with worker(redis_url, {"g": one_node_graph(node, Said)}, key_file=KeyFile(file)):
                with Client(redis_url) as client:
                    for key in ("first", "second"):
                        file.write_text(f"{key}\n")
                        id_ = client.submit({"text": "hello"}, graph="g").task_id
                        assert (await asyncio.to_thread(client.wait, id_, 30)).status is State.SUCCESS
    assert keys == ["Bearer first", "Bearer second"]


def test_last_key_stays_while_the_file_is_empty_or_away(file):
    key = KeyFile(file)
    for change in (lambda: file.write_text(""), file.unlink):
        change()
        key.export()
        assert os.environ[VARIABLE] == "first"
    file.write_text("second")
    key.export()
    assert os.environ[VARIABLE] == "second"


def test_file_is_the_one_that_the_settings_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert file_of(VARIABLE) is None
    Path(".env").write_text(f"{VARIABLE}_FILE=from-env-file\n")
    assert file_of(VARIABLE) == Path("from-env-file")
    monkeypatch.setenv(f"{VARIABLE}_FILE", "named")
    assert file_of(VARIABLE) == Path("named")
    monkeypatch.setenv(VARIABLE, "given")
    assert file_of(VARIABLE) is None
