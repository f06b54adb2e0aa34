"""A Redis without modules, and the saver on it."""

import subprocess

import pytest
from redis import Redis

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import find_redis
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver


@pytest.fixture(scope="session")
def server_without_modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    socket = folder / "redis.sock"
    command = [find_redis().server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert any("ready to accept connections" in line.lower() for line in server.stdout)
        yield f"unix://{socket}"
        server.kill()


@pytest.fixture
def plain_url(server_without_modules):
    with Redis.from_url(server_without_modules) as client:
        client.flushall()
    return server_without_modules


@pytest.fixture
async def plain(plain_url):
    async with open_async(plain_url, connections=8) as client:
        yield client


@pytest.fixture
async def saver(plain):
    return ThreadSaver(plain)
