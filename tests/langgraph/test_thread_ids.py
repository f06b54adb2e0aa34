"""A thread's id may be any printable text: it names one conversation, and is shown as it was given."""

import asyncio
import operator
from functools import partial
from typing import Annotated, TypedDict
from urllib.parse import quote

import pytest
import pytest_asyncio
from langchain_core.runnables import RunnableConfig
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import AsyncClient, InvalidTaskError
from langgraph_rq.shared.run_fields import StreamMode
from langgraph_rq.shared.tasks import DEFAULT_TENANT, FUNCTION
from tests.gateways import gateway
from tests.langgraph.bench import Bench, bench, chain
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDS = [
    "用户 42",
    "user:42/chat#3?a=b&c",
    "a--b",
    "-a---b-",
    "50%",
    "%2D",
    "%252D",
    "TASK--x",
    "acme--x",
    "x",
    " ",
    ".",
    "*[a-z]?",
    "{tag}",
    "\"quoted\" 'twice' \\ back",
    "👩‍🚀",
    "ü" * 256,
]
"""The longest, and those that would be taken for something else in a key, a pattern, a path or a search."""


class Said(TypedDict):
    said: Annotated[list, operator.add]


async def tell_thread(_state: Said, config: RunnableConfig) -> dict:
    return {"said": [config["configurable"]["thread_id"]]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, {"telling": chain(Said, tell_thread)}) as running:
        yield running


async def say(client: AsyncClient, thread_id: str, word: str, **fields):
    task = await client.submit({"said": [word]}, graph="telling", thread_id=thread_id, **fields)
    return task.task_id, await client.wait(task.task_id, 60)


@pytest.mark.parametrize("tenant", ["acme", DEFAULT_TENANT])
async def test_each_id_is_a_conversation_of_its_own(served: Bench, tenant):
    client = served.client.for_tenant(tenant)
    for turn in ("first", "second"):
        await asyncio.gather(*(say(client, thread_id, f"{turn} of {thread_id}") for thread_id in IDS))
    for thread_id in IDS:
        state = await client.threads.state(thread_id, graph="telling")
        assert state["values"]["said"][-4::2] == [f"first of {thread_id}", f"second of {thread_id}"]
        assert state["checkpoint"]["thread_id"] == thread_id


@pytest.mark.parametrize("tenant", ["acme", DEFAULT_TENANT])
async def test_id_is_shown_as_it_was_given(served: Bench, tenant):
    client = served.client.for_tenant(tenant)
    for thread_id in IDS:
        task_id, _ = await say(client, thread_id, "x", stream=list(StreamMode))
        assert (await client.status(task_id)).thread_id == thread_id
        events = [event async for event in client.events(task_id)]
        named = [event.data["data"]["config"] for event in events if event.type == StreamMode.CHECKPOINTS]
        assert {config["configurable"]["thread_id"] for config in named} == {thread_id}
        told = [event.data["metadata"]["thread_id"] for event in events if event.type == StreamMode.MESSAGES]
        assert {*told} <= {thread_id}


async def test_node_sees_the_id_unless_it_looks_like_a_tenants(served: Bench):
    for thread_id in IDS:
        _, result = await say(served.client, thread_id, "x")
        if "%" not in thread_id and "--" not in thread_id:
            assert result.result["said"][-1] == thread_id


async def test_gateway_serves_such_threads(served: Bench, redis_server):
    async with gateway(redis_server.url) as http:
        for thread_id in IDS:
            body = {"graph": "telling", "input": {"said": ["x"]}, "thread_id": thread_id}
            assert (await http.post("/tasks", json=body)).status_code == 202
        found = (await http.post("/threads/search", json={"limit": 100})).json()
        assert {one["thread_id"] for one in found} >= {*IDS}
        for thread_id in IDS:
            if thread_id != "." and "/" not in thread_id:  # which no path can hold
                path = f"/threads/{quote(thread_id, safe='')}"
                assert (await http.get(path)).json()["thread_id"] == thread_id
                assert (await http.get(f"{path}/runs")).json()[0]["thread_id"] == thread_id


async def test_stock_rq_names_such_threads_too(served: Bench, redis_server):
    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        for number, thread_id in enumerate(IDS):
            fields = {"graph": "telling", "input": {"said": [f"by rq to {thread_id}"]}, "thread_id": thread_id}
            queue.enqueue(FUNCTION, fields, job_id=f"by-rq-{number}")
    for number, thread_id in enumerate(IDS):
        await until(partial(served.client.result, f"by-rq-{number}"))
        assert (await served.client.status(f"by-rq-{number}")).thread_id == thread_id
        state = await served.client.threads.state(thread_id, graph="telling")
        assert state["values"]["said"][-2] == f"by rq to {thread_id}"


@pytest.mark.parametrize("thread_id", ["", "ü" * 257, "a\nb", "a\x00", "a\x9b", "a\u202eb"])
async def test_other_ids_are_refused(served: Bench, thread_id):
    with pytest.raises(InvalidTaskError, match="thread_id: expected 1 to 256 characters, none of them a control"):
        await served.client.submit({"said": []}, graph="telling", thread_id=thread_id)
