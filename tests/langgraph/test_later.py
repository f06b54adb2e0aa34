"""Tasks that start later: after `delay_s`, or at `run_at`, by every door; their deadline counts from there."""

import operator
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
import pytest_asyncio
from langgraph.graph import START, StateGraph
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import InvalidTaskError
from langgraph_rq.shared.tasks import FUNCTION, State
from tests.gateways import gateway
from tests.langgraph.bench import bench
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Said(TypedDict):
    said: Annotated[list, operator.add]


async def say(state: Said) -> dict:
    return {"said": [len(state["said"])]}


GRAPHS: dict[str, Any] = {"g": StateGraph(Said).add_node(say).add_edge(START, "say").compile()}
NEW: dict = {"said": []}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, GRAPHS) as running:
        yield running


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("later", [lambda: {"delay_s": 0.5}, lambda: {"run_at": soon(0.5)}], ids=["delay_s", "run_at"])
async def test_task_starts_no_earlier_than_it_was_asked_to(served, later):
    fields = later()
    receipt = await served.client.submit(NEW, graph="g", **fields)
    result = await served.client.wait(receipt.task_id, 30)
    assert result.status is State.SUCCESS
    start = fields.get("run_at") or result.submitted_at + timedelta(seconds=0.5)
    assert result.started_at >= start - timedelta(milliseconds=50)


async def test_task_that_waits_says_until_when_and_can_be_cancelled(served):
    at = soon(86_400).replace(microsecond=0)
    receipt = await served.client.submit(NEW, graph="g", run_at=at, deadline_s=60)
    found = await served.client.status(receipt.task_id)
    assert (found.state, found.reason) == (State.PENDING, f"waits for its time, {at.isoformat()}")
    assert found.deadline_at == at + timedelta(seconds=60)
    assert await served.client.redis.hget(f"rq:job:{receipt.task_id}", "status") == b"scheduled"
    assert await served.client.cancel(receipt.task_id) is State.CANCELLED
    assert await served.client.redis.zscore("agent:delayed", receipt.task_id) is None


async def test_deadline_counts_from_the_start(served):
    receipt = await served.client.submit(NEW, graph="g", delay_s=1.5, deadline_s=1)
    assert (await served.client.wait(receipt.task_id, 30)).status is State.SUCCESS


async def test_task_that_waits_does_not_hold_up_its_thread_and_enters_it_at_its_time(served):
    thread_id = str(uuid4())
    late = await served.client.submit(NEW, graph="g", thread_id=thread_id, delay_s=1)
    first = await served.client.submit(NEW, graph="g", thread_id=thread_id)
    assert (await served.client.wait(first.task_id, 30)).result == {"said": [0]}
    assert (await served.client.wait(late.task_id, 30)).result == {"said": [0, 1]}
    assert not await served.client.redis.exists(f"agent:thread:{thread_id}")


async def test_time_in_the_past_is_now(served):
    receipt = await served.client.submit(NEW, graph="g", run_at=soon(-60))
    assert (await served.client.wait(receipt.task_id, 30)).status is State.SUCCESS


async def test_same_task_with_another_writing_of_its_time_is_the_same(served):
    fields = {"graph": "g", "task_id": "later-once"}
    at = soon(86_400)
    elsewhere = at.astimezone(timezone(timedelta(hours=1))).isoformat()
    await served.client.submit(NEW, run_at=at, **fields)
    assert not (await served.client.submit(NEW, run_at=elsewhere, **fields)).created


async def test_job_of_stock_rq_starts_at_its_time(served, redis_server):
    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        task = {"input": NEW, "graph": "g", "thread_id": "rq-later", "delay_s": 0.5}
        queue.enqueue(FUNCTION, task, job_id="rq-later")
        result = await until(lambda: served.client.result("rq-later"))
    assert result.status is State.SUCCESS
    assert result.started_at - result.submitted_at >= timedelta(seconds=0.4)


async def test_http_takes_both(served, redis_server):
    async with gateway(redis_server.url) as http:
        for later in ({"delay_s": 0.2}, {"run_at": soon(0.2).isoformat()}):
            answer = await http.post("/tasks", json={"input": NEW, "graph": "g", **later})
            assert answer.status_code == 202, answer.text
            assert (await served.client.wait(answer.json()["task_id"], 30)).status is State.SUCCESS
        refused = await http.post("/tasks", json={"input": NEW, "graph": "g", "delay_s": -1})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "delay_s")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"run_at": "2030-12-24T18:00:00"}, "run_at: expected an instant with its offset"),
        ({"run_at": "tomorrow"}, "run_at: expected an instant with its offset"),
        ({"delay_s": -1}, "delay_s: expected greater than or equal to 0"),
        ({"delay_s": 1e9}, "delay_s: expected at most 2,592,000 s from now"),
        ({"run_at": "2099-01-01T00:00:00Z"}, "run_at: expected at most 2,592,000 s from now"),
        ({"run_at": soon(60), "delay_s": 1}, "delay_s: expected either run_at or delay_s, got: both"),
    ],
)
async def test_time_that_cannot_be_kept_is_refused(served, fields, words):
    with pytest.raises(InvalidTaskError) as refused:
        await served.client.submit(NEW, graph="g", **fields)
    assert words in str(refused.value)
