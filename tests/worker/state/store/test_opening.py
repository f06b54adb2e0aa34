"""The store as langgraph.json describes it, and as a worker's settings choose it."""

import asyncio
import json
import subprocess
import sys

import pytest

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import MEMORY
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, read_langgraph_json
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.redis_stack.store import RedisStackStore
from langgraph_rq.worker.state.store.opening import open_store
from langgraph_rq.worker.state.store.store import Store
from tests.fleet import PRICING
from tests.waiting import until

PROJECT = """
from langgraph.graph import END, START, StateGraph

def embed(texts):
    return [[float("cat" in text), float("dog" in text), 0.1] for text in texts]

graph = StateGraph(dict).add_node("node", lambda state: state).add_edge(START, "node").add_edge("node", END).compile()
"""
OPENAI = {"dims": 1536, "embed": "openai:text-embedding-3-small"}


@pytest.fixture
def store_index():
    return "scan"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a project with this `store` in its langgraph.json, and return the path of that."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(store=None):
        (tmp_path / "project_of_store.py").write_text(PROJECT)
        path = tmp_path / "langgraph.json"
        graphs = {"g": "./project_of_store.py:graph"}
        path.write_text(json.dumps({"graphs": graphs, **({"store": store} if store else {})}))
        return path

    return write


@pytest.fixture
def opened_as(redis_url, project):
    """Open the store that a langgraph.json with this `store` describes."""

    class Opened:
        def __init__(self, store=None):
            self.config = read_langgraph_json(project(store))

        async def __aenter__(self):
            self.client = open_async(redis_url)
            self.opening = open_store(self.client, redis_url, self.config)
            return await self.opening.__aenter__()

        async def __aexit__(self, *error):
            await self.opening.__aexit__(*error)
            await self.client.aclose()

    return Opened


@pytest.fixture
async def task(redis_url, monkeypatch):
    """Act as a task whose calls are paid by this budget, beside an offline model server."""
    with OfflineLLM() as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", "offline")
        async with open_async(redis_url) as client:
            opened = []

            def task(**budget):
                guards = Guards(client, redis_url, BreakerLimits(), BudgetLimits(**budget), PRICING)
                opened.append(guards)
                guard = TaskGuard(guards)
                current_task.set(guard)
                return llm, guard

            yield task
            current_task.set(None)
            for guards in opened:
                await guards.aclose()


async def test_items_are_found_by_meaning_with_a_function_of_the_project(opened_as):
    async with opened_as({"index": {"dims": 3, "embed": "./project_of_store.py:embed", "fields": ["text"]}}) as store:
        for pet in ("a cat", "a dog"):
            await store.aput(("pets",), pet, {"text": pet})
        (found,) = await store.asearch(("pets",), query="my dog", limit=1)
        assert found.key == "a dog"


async def test_embeddings_are_paid_by_the_task_that_stores_or_searches(opened_as, task):
    llm, guard = task()
    async with opened_as({"index": OPENAI}) as store:
        for text in ("invoices are paid in May", "the garden has roses"):
            await store.aput(("notes",), text, {"text": text})
        await asyncio.to_thread(store.put, ("notes",), "sync", {"text": "from a sync node"})
        store.put(("notes",), "blocking", {"text": "from a sync call in an async node"})
        (found,) = await store.asearch(("notes",), query="roses in the garden", limit=1)
        assert len(llm.admin.calls()) == 5
        # langchain-openai leaves its sync client, and that its socket, to the garbage collector.
        store._reading.index.embeddings.client._resource._client.close()
    assert guard.input_tokens == llm.admin.stats()["input_tokens"]["text-embedding-3-small"]
    assert found.key == "the garden has roses"


async def test_spent_budget_refuses_to_store_what_must_be_embedded(opened_as, task):
    llm, _ = task(daily_tokens=10)
    async with opened_as({"index": OPENAI}) as store:
        with pytest.raises(BudgetExceeded):
            await store.aput(("notes",), "k", {"text": "cats"})
        assert await store.aget(("notes",), "k") is None
    assert llm.admin.calls() == []


async def test_ttl_of_the_file_is_put_on_items(opened_as, redis_client):
    async with opened_as({"ttl": {"default_ttl": 10, "sweep_interval_minutes": 60}}) as store:
        await store.aput(("users",), "ada", {"text": "cats"})
    assert all(0 < redis_client.ttl(key) <= 600 for key in redis_client.scan_iter())


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ({"index": {"dims": 3}}, "expected dims and embed, got: dims"),
        ({"index": {"dims": 3, "embed": "./project_of_store.py:embde"}}, "has no 'embde' (did you mean embed?)"),
        ({"index": {"dims": 3, "embed": "nobody:model"}}, "nobody"),
        ({"index": {"dims": "3", "embed": "./project_of_store.py:embed"}}, "dims: expected a number from 1, got: '3'"),
        ({"index": {"dims": 3, "embed": "./project_of_store.py:embed", "field": ["a"]}}, "got: field"),
        ({"index": {"dims": 3, "embed": "./project_of_store.py:embed", "fields": "a"}}, "expected a list of paths"),
        ({"ttl": {"default_ttl": 0}}, "expected minutes above 0, got: 0"),
        ({"ttl": {"default_tll": 1}}, "got: default_tll"),
        ({"ttl": {"refresh_on_read": "yes"}}, "expected true or false, got: 'yes'"),
    ],
)
async def test_description_that_is_wrong_is_refused(store, expected, opened_as):
    with pytest.raises(GraphLoadError) as caught:
        async with opened_as(store):
            pass
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("state", "expected", "checkpoints", "server"),
    [
        ("redis", Store, False, "redis_url"),
        ("redis", Store, True, "redis_url"),
        ("redis-stack", RedisStackStore, False, "stack_url"),
    ],
)
def test_worker_has_the_store_of_its_settings_with_or_without_checkpoints(
    state, expected, checkpoints, server, project, request
):
    settings = WorkerSettings(config=project(), state=state, checkpoints=checkpoints)
    asyncio.run(check_store(settings, request.getfixturevalue(server), expected))


BY_MEANING = {"index": {"dims": 3, "embed": "./project_of_store.py:embed", "fields": ["text"]}}


async def test_worker_searches_by_meaning_in_vector_sets_if_its_settings_say_so(redis_8_url, project):
    settings = WorkerSettings(config=project(BY_MEANING), store_index="vector-sets")
    async with (
        open_context(settings, RedisSettings(redis_url=redis_8_url)) as context,
        open_async(redis_8_url) as redis,
    ):
        store = context.graphs["g"].graph.store
        await store.aput(("pets",), "k", {"text": "a cat"})
        assert (await store.asearch(("pets",), query="my cat"))[0].key == "k"
        assert await redis.execute_command("VCARD", "agent:store_index:default:pets") == 1


@pytest.mark.parametrize(
    ("state", "key", "server", "expected"),
    [
        ("redis", None, "stack_url", "expected Redis 8.0 or later, which has vector sets, got: "),
        ("redis", "a-secret-of-more-than-32-characters", "redis_8_url", "expected state without encryption"),
        ("postgres", None, "redis_8_url", "expected LGRQ_STATE=redis, got: postgres"),
        ("redis-stack", None, "redis_8_url", "expected LGRQ_STATE=redis, got: redis-stack"),
    ],
)
def test_worker_does_not_start_where_vector_sets_cannot_be(state, key, server, expected, project, request, monkeypatch):
    if key:
        monkeypatch.setenv("LGRQ_STATE_KEY", key)
    settings = WorkerSettings(config=project(BY_MEANING), state=state, store_index="vector-sets")
    with pytest.raises(SettingsError, match=f"LGRQ_STORE_INDEX=vector-sets: {expected}.*LGRQ_STORE_INDEX=scan"):
        asyncio.run(check_store(settings, request.getfixturevalue(server), Store))


async def check_store(settings, redis_url, expected):
    async with open_context(settings, RedisSettings(redis_url=redis_url)) as context:
        store = context.graphs["g"].graph.store
        assert isinstance(store, expected)
        await store.aput(("users",), "ada", {"n": 1})
        assert (await store.aget(("users",), "ada")).value == {"n": 1}


async def test_threads_and_items_are_in_the_redis_of_their_own(redis_url, redis_client, project):
    with EmbeddedRedis() as own:
        settings = RedisSettings(redis_url=redis_url, checkpoint_redis_url=own.url)
        async with open_context(WorkerSettings(config=project()), settings) as context, open_async(own.url) as there:
            graph = context.graphs["g"].graph
            await graph.ainvoke({}, {"configurable": {"thread_id": "t"}})
            await graph.store.aput(("users",), "ada", {"n": 1})
            kept = {b"agent:thread_state:t", b"agent:thread_index:t", b"agent:store:default:users"}
            assert kept <= {*await there.keys()}
    assert redis_client.keys("agent:thread_*") == redis_client.keys("agent:store*") == []


async def test_worker_notes_for_the_doctor_what_a_redis_of_its_checkpoints_own_uses(redis_url, redis_client, project):
    with EmbeddedRedis() as own:
        settings = RedisSettings(redis_url=redis_url, checkpoint_redis_url=own.url)
        async with open_context(WorkerSettings(config=project()), settings), open_async(own.url) as there:
            (noted,) = await until(lambda: there.hvals(MEMORY))
            assert int(noted) > 100_000
            assert 0 < await there.ttl(MEMORY) <= 2 * 86_400
    assert not redis_client.exists(MEMORY)


OPENING = """
import asyncio, sys
from langgraph_rq.shared.queue.keys import MEMORY
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings
from langgraph_rq.worker.boot import open_context

async def open_and_list():
    async with open_context(WorkerSettings(config=sys.argv[1]), RedisSettings(redis_url=sys.argv[2])):
        others = ("redisvl", "psycopg", "langgraph.checkpoint.redis", "langgraph.checkpoint.postgres")
        print([name for name in sys.modules if name.startswith(others)])

asyncio.run(open_and_list())
"""


def test_libraries_of_the_other_ways_to_keep_state_are_not_loaded(redis_url, project):
    command = [sys.executable, "-c", OPENING, str(project()), redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
