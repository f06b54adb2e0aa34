"""One real Redis for the whole test run; every test starts on an empty one and leaves no key without an owner."""

import logging
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.telemetry import logs
from tests import servers
from tests.installation import disturbed_model, installation, support_desk  # noqa: F401 - fixtures
from tests.log_lines import Lines

_LONG = {"SCENARIOS", "User", "fleet", "on_terminal", "run_node", "start_gateway", "start_worker", "work", "worker"}
"""Names in modules of tests that run workers or start processes."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that run workers or start processes, so that two test processes end together."""
    items.sort(key=lambda item: not _LONG & vars(item.module).keys())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture
async def aredis(redis_url: str) -> AsyncIterator[AsyncRedis]:
    """A client that does not decode replies, like the product's own clients."""
    async with AsyncRedis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def stack_server() -> Iterator[EmbeddedRedis]:
    with servers.redis_stack() as server:
        yield server


@pytest.fixture
def stack_url(stack_server: EmbeddedRedis) -> str:
    """The URL of a Redis with the JSON and search modules, which is empty."""
    with Redis.from_url(stack_server.url) as client:
        client.flushall()
    return stack_server.url


@pytest.fixture(scope="session")
def redis_8_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(binary=servers.redis_8()) as server:
        yield server


@pytest.fixture
def redis_8_url(redis_8_server: EmbeddedRedis) -> str:
    """The URL of a Redis with vector sets, which is empty."""
    with Redis.from_url(redis_8_server.url) as client:
        client.flushall()
    return redis_8_server.url


@pytest.fixture
async def stack(stack_url: str) -> AsyncIterator[AsyncRedis]:
    """A client of it that does not decode replies."""
    async with AsyncRedis.from_url(stack_url) as client:
        yield client


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process set up: tests of later files read the logs."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    yield
    if structlog.is_configured():
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        logs.reset()


@pytest.fixture(scope="session", autouse=True)
def _one_import_root() -> Iterator[None]:
    """Check at the end that no module was imported by its folder's name, which the import path of a checkout allows."""
    yield
    bare = [name for name in sys.modules if name.partition(".")[0] in {"shared", "producer", "worker"}]
    assert not bare, f"expected imports from langgraph_rq only, got: {bare}"


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
