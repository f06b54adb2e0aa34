"""A run that is rolled back leaves its thread as it was before: what its state is, what is listed, what is asked."""

import asyncio
import operator
from contextlib import asynccontextmanager
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk import get_client
from langgraph_sdk.errors import NotFoundError
from redis import Redis

from langgraph_rq import AsyncClient, State
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS
from langgraph_rq.shared.queue.attempts import claim_call
from langgraph_rq.shared.queue.keys import OPEN, graph_list
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from tests.fleet import QUEUES, worker
from tests.gateways import listening
from tests.waiting import until
from tests.worker.state.scenarios import extend


class Said(TypedDict, total=False):
    said: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    steps: Annotated[list[str], operator.add]
    stays: bool


class Talk:
    """A graph that says something, in a subgraph too, and stays there for ever if its input says so."""

    def __init__(self) -> None:
        self.staying = asyncio.Event()
        inner = StateGraph(Said)
        inner.add_node("inner", self.inner).add_node("stay", self.stay)
        inner.add_edge(START, "inner").add_edge("inner", "stay").add_edge("stay", END)
        outer = StateGraph(Said)
        outer.add_node("say", self.say).add_node("ask", self.ask).add_node("child", inner.compile())
        outer.add_edge(START, "say").add_edge("say", "ask").add_edge("ask", "child").add_edge("child", END)
        self.graph = outer.compile()

    async def say(self, state: Said):
        return {"said": ["a long answer " * 40], "steps": ["say"]}

    async def ask(self, state: Said):
        answer = interrupt("stay?") if state.get("stays") is None else state["stays"]
        return {"stays": answer == "yes" or answer is True, "steps": [f"ask {answer}"]}

    async def inner(self, state: Said):
        return {"said": ["inner"], "steps": ["inner"]}

    async def stay(self, state: Said):
        if state["stays"]:
            self.staying.set()
            await asyncio.Event().wait()
        return {"steps": ["stay"]}


def asks(stays=None):
    return {"said": ["question"], "steps": [], "stays": stays}


@asynccontextmanager
async def serving(redis_url, redis_client, **options):
    talk = Talk()
    async with worker(redis_url, {"talk": talk.graph}, checkpoints=True, **options), listening(redis_url) as (http, _):
        await until(lambda: redis_client.hlen(GRAPH_DESCRIPTIONS) == 1)
        async with get_client(url=str(http.base_url), api_key=None) as sdk:
            yield talk, sdk


@pytest.fixture
async def talk_and_sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as both:
        yield both


async def shown(sdk, thread, redis_url):
    """All that can be seen of a thread, and what is kept of it, but for times and its token."""
    found = await sdk.threads.get(thread)
    with Redis.from_url(redis_url) as redis:
        kept = redis.hgetall(f"agent:thread_state:{thread}")
    names = ("status", "values", "metadata", "interrupts", "config")
    return {
        "thread": {name: found[name] for name in names if name in found},
        "state": await sdk.threads.get_state(thread, subgraphs=True),
        "history": await sdk.threads.get_history(thread, limit=100),
        "runs": await sdk.runs.list(thread),
        "kept": {field: value for field, value in kept.items() if field != b"t"},
    }


@pytest.mark.parametrize("wait", [True, False])
async def test_rolled_back_run_leaves_its_thread_as_it_was(talk_and_sdk, redis_url, redis_client, wait):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create(metadata={"topic": "leases"}))["thread_id"]
    for _ in range(3):
        await sdk.runs.wait(thread, "talk", input=asks(stays=False))
    before = await shown(sdk, thread, redis_url)
    run = await sdk.runs.create(thread, "talk", input=asks(stays=True))
    await talk.staying.wait()
    await sdk.runs.cancel(thread, run["run_id"], wait=wait, action="rollback")
    await until(lambda: redis_client.hget(f"agent:task:{run['run_id']}", "state") == "cancelled")
    assert await shown(sdk, thread, redis_url) == before
    for method, path in (("GET", ""), ("GET", "/join"), ("GET", "/stream"), ("POST", "/cancel")):
        answer = await sdk.http.client.request(method, f"/threads/{thread}/runs/{run['run_id']}{path}")
        assert answer.status_code == 404
    assert redis_client.lpos(f"agent:thread_runs:{thread}", run["run_id"]) is None
    answer = await sdk.runs.wait(thread, "talk", input=asks(stays=False))
    assert answer["steps"][: len(before["state"]["values"]["steps"])] == before["state"]["values"]["steps"]


async def test_thread_without_any_run_is_as_new_again(talk_and_sdk):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "talk", input=asks(stays=True))
    await talk.staying.wait()
    await sdk.runs.cancel(thread, run["run_id"], wait=True, action="rollback")
    found = await sdk.threads.get(thread)
    assert (found["status"], found["values"]) == ("idle", None)
    assert await sdk.threads.get_history(thread) == []
    assert await sdk.runs.list(thread) == []


async def test_answer_that_is_rolled_back_leaves_the_question_open(talk_and_sdk, redis_url):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "talk", input=asks())
    before = await shown(sdk, thread, redis_url)
    assert before["thread"]["status"] == "interrupted"
    run = await sdk.runs.create(thread, "talk", command={"resume": "yes"})
    await talk.staying.wait()
    await sdk.runs.cancel(thread, run["run_id"], wait=True, action="rollback")
    after = await shown(sdk, thread, redis_url)
    del before["kept"], after["kept"]
    assert after == before
    answer = await sdk.runs.wait(thread, "talk", command={"resume": "no"})
    assert answer["steps"] == ["say", "ask no"] * 2 + ["inner", "stay"]


async def test_question_that_was_dropped_is_open_again(talk_and_sdk, redis_url):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "talk", input=asks())
    (asked,) = await sdk.runs.list(thread)
    run = await sdk.runs.create(thread, "talk", input=asks(stays=True))
    await talk.staying.wait()
    await sdk.runs.cancel(thread, run["run_id"], wait=True, action="rollback")
    assert (await sdk.threads.get(thread))["status"] == "interrupted"
    async with AsyncClient(redis_url) as client:
        assert (await client.result(asked["run_id"])).metadata.question_dropped_by is None
        answer = await client.resume(asked["run_id"], "no")
        assert (await client.wait(answer.task_id, 20)).result["steps"][:2] == ["say", "ask no"]


async def test_new_run_rolls_those_before_it_back(talk_and_sdk):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create())["thread_id"]
    first = await sdk.runs.create(thread, "talk", input=asks(stays=True))
    await talk.staying.wait()
    waiting = await sdk.runs.create(thread, "talk", input=asks(stays=True))
    later = await sdk.runs.create(thread, "talk", input=asks(stays=True), after_seconds=500)
    answer = await sdk.runs.wait(thread, "talk", input=asks(stays=False), multitask_strategy="rollback")
    assert answer["steps"] == ["say", "ask False"] * 2 + ["inner", "stay"]
    for run in (first, waiting, later):
        with pytest.raises(NotFoundError):
            await sdk.runs.get(thread, run["run_id"])
    (run,) = await sdk.runs.list(thread)
    assert {one["metadata"]["run_id"] for one in await sdk.threads.get_history(thread)} == {run["run_id"]}


async def test_some_runs_of_a_thread_are_rolled_back_at_once(talk_and_sdk):
    talk, sdk = talk_and_sdk
    thread = (await sdk.threads.create())["thread_id"]
    runs = [(await sdk.runs.create(thread, "talk", input=asks(stays=True)))["run_id"] for _ in range(3)]
    await talk.staying.wait()
    await sdk.runs.cancel_many(thread_id=thread, run_ids=runs, action="rollback")
    await until(lambda: _is_idle(sdk, thread))
    assert await sdk.runs.list(thread) == []


async def _is_idle(sdk, thread):
    return (await sdk.threads.get(thread))["status"] == "idle"


async def test_run_whose_worker_has_died_is_rolled_back_by_another_one(redis_url, redis_client):
    times = QueueTimes(lease_ms=300)
    async with serving(redis_url, redis_client, times=times) as (_, sdk):
        thread = (await sdk.threads.create())["thread_id"]
        await sdk.runs.wait(thread, "talk", input=asks(stays=False))
        before = await shown(sdk, thread, redis_url)
    async with AsyncClient(redis_url) as client:
        await scripts.run(client.redis, renew_call("w", 300, QUEUES, {"talk": "{}"}, join=True))
        task = await client.submit(asks(stays=False), graph="talk", thread_id=thread)
        await scripts.run(client.redis, claim_call("w", 1, QUEUES, graph_list(["talk"]), times))
        assert await client.cancel(task.task_id, rollback=True) is State.RUNNING
        async with serving(redis_url, redis_client, times=times) as (_, sdk):
            assert (await client.wait(task.task_id, 20)).status is State.CANCELLED
            assert await shown(sdk, thread, redis_url) == before


async def test_waiting_run_that_has_begun_is_rolled_back_once_there_is_a_worker(redis_url, redis_client):
    async with serving(redis_url, redis_client, drain_s=0.01) as (talk, sdk):
        thread = (await sdk.threads.create())["thread_id"]
        run = await sdk.runs.create(thread, "talk", input=asks(stays=True))
        await talk.staying.wait()
    async with AsyncClient(redis_url) as client:
        assert await client.cancel(run["run_id"], rollback=True) is State.PENDING
        async with serving(redis_url, redis_client) as (_, sdk):
            assert (await client.wait(run["run_id"], 20)).status is State.CANCELLED
            assert await sdk.threads.get_history(thread) == []


async def test_runs_of_a_batch_are_rolled_back_when_one_of_it_is_refused(redis_url, redis_client):
    key, line = make_key("acme")
    talk, one = Talk(), {"assistant_id": "talk", "input": asks(stays=True)}
    async with (
        worker(redis_url, {"talk": talk.graph}, checkpoints=True),
        listening(redis_url, keys=f"{line} open_tasks=2\n") as (http, _),
    ):
        http.headers["x-api-key"] = key
        await until(lambda: redis_client.hlen(GRAPH_DESCRIPTIONS) == 1)
        refused = await http.post("/runs/batch", json=[one, {**one, "on_completion": "keep"}] * 2)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:langgraph-rq:problem:tenant_full")
        await until(lambda: redis_client.zcard(OPEN) == 0)
        tasks = [redis_client.hgetall(key) for key in redis_client.scan_iter("agent:task:*")]
        assert [(task["state"], task["cancel_reason"]) for task in tasks] == [
            ("cancelled", "another run of its batch was refused")
        ] * 2
        assert (await http.post("/threads/search", json={})).json() == []
        assert [*redis_client.scan_iter("agent:thread_row:*")] == []
        left = redis_client.scan_iter("agent:thread_index:*")  # of a run without a thread, for as long as its result
        assert all("TASK--" in key and redis_client.ttl(key) > 0 for key in left)
        taken = await http.post("/runs/batch", json=[{**one, "input": asks(stays=False)}] * 2)
        assert (taken.status_code, len(taken.json())) == (200, 2)
        await until(lambda: redis_client.zcard(OPEN) == 0)
