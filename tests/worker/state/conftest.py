"""The saver on the private Redis, and a Postgres."""

import asyncio

import psycopg
import pytest

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.state.postgres.connections import open_postgres
from langgraph_rq.worker.state.postgres.schema import set_up
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.postgres import find_programs, private_postgres

TABLES_OF_A_TEST = (
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "lgrq_threads",
    "lgrq_items",
    "lgrq_attempts",
)


@pytest.fixture
async def plain(redis_url):
    async with open_async(redis_url, connections=8) as client:
        yield client


@pytest.fixture
async def saver(plain):
    return ThreadSaver(plain)


@pytest.fixture(scope="session")
def postgres_server():
    if not find_programs():
        pytest.skip("no Postgres on this machine: apt-get install postgresql")
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_database(postgres_server):
    """The URL of a database with our tables, which tests share."""

    async def create():
        async with open_postgres(postgres_server.url) as postgres:
            await set_up(postgres)

    asyncio.run(create())
    return postgres_server.url


@pytest.fixture
def postgres_url(postgres_database):
    """The URL of a database whose tables are empty."""
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES_OF_A_TEST)}".encode())
    return postgres_database


@pytest.fixture
async def postgres(postgres_url):
    async with open_postgres(postgres_url, connections=8) as postgres:
        yield postgres
