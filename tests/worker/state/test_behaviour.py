"""Our checkpointer behaves as LangGraph's own: scenarios return the same on it, in memory and in SQLite."""

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.worker.state.scenarios import SCENARIOS

SECRET = "a-secret-of-more-than-32-characters"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_scenario_shows_the_same_as_in_memory_and_in_sqlite(plain, scenario):
    async with AsyncSqliteSaver.from_conn_string(":memory:") as sqlite:
        expected = await scenario(InMemorySaver())
        assert await scenario(sqlite) == expected
        assert await scenario(ThreadSaver(plain)) == expected


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_scenario_shows_the_same_when_state_is_encrypted(plain, scenario):
    serializer = StateSerializer(StateKeys.parse(SECRET))
    assert await scenario(ThreadSaver(plain, serializer=serializer)) == await scenario(InMemorySaver())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "encrypted"])
async def test_scenario_shows_the_same_in_postgres(postgres, scenario, secret):
    saver = PostgresSaver(postgres, serializer=StateSerializer(StateKeys.parse(secret)))
    assert await scenario(saver) == await scenario(InMemorySaver())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_scenario_shows_the_same_on_redis_stack(stack, scenario):
    saver = Checkpointer(stack)
    await saver.asetup()
    assert await scenario(saver) == await scenario(InMemorySaver())
