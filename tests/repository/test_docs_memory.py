"""The page about memory is true: what it says that things cost in Redis, they cost here within a factor of 1.5."""

import re
from secrets import token_urlsafe
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import add_messages

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.queue.answers import Finished
from langgraph_rq.shared.queue.attempts import finish_call
from langgraph_rq.shared.queue.events import append_call
from langgraph_rq.shared.queue.verbs import submit_call
from langgraph_rq.shared.tasks import State, Task, TaskLimits
from langgraph_rq.shared.threads.rows import create_call
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from tests.installation import ROOT
from tests.shared.queue.test_records import crowded
from tests.shared.queue.test_task_queue import QUEUE, TIMES, QueueOnRedis
from tests.worker.state.scenarios import chain, extend, step, thread

PAGE = (ROOT / "docs/explanation/memory.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", PAGE, re.MULTILINE)
SAID = {what: int(bytes_.replace(",", "")) for what, bytes_ in ROWS}
FACTOR = 1.5
MANY = 500


@pytest.fixture
async def costs(aredis):
    """Check a row of the page; each row is checked by one test."""
    return Costs(aredis)


class Costs:
    def __init__(self, redis):
        self.redis = redis

    async def held(self, *patterns):
        """Return how many bytes keys take, all without patterns, with what Redis needs to find them."""
        keys = [key for pattern in patterns or ("*",) for key in await self.redis.keys(pattern)]
        pipeline = self.redis.pipeline(transaction=False)
        for key in keys:
            pipeline.memory_usage(key, samples=0)
        return sum(await pipeline.execute())

    def are(self, what, found):
        assert SAID[what] / FACTOR < found < SAID[what] * FACTOR, f"{what}: {found:.0f} bytes, not {SAID[what]}"


def make_task(n, **fields):
    document = {
        "input": {"query": "x" * 86},
        "task_id": f"0f1e2d3c-4b5a-4000-8000-{n:012}",
        "user_id": f"user-{n}",
        **fields,
    }
    return Task.parse(document, TaskLimits())


async def end_all(queue, result, change=lambda call: call):
    """Run what waits; returns how many tasks there were."""
    ended = 0
    while claimed := (await queue.claim(n=100)).tasks:
        calls = [change(finish_call(one, "w1", State.SUCCESS, result, TIMES, now_ms=queue.now_ms)) for one in claimed]
        assert set(await scripts.run_many(queue.redis, calls)) == {Finished.WRITTEN}
        ended += len(claimed)
    return ended


@pytest.mark.parametrize("kind", ["without a thread", "with a thread"])
async def test_tasks_cost_what_the_page_says(costs, kind):
    queue = QueueOnRedis(costs.redis)
    await queue.join()
    before = await costs.held()
    of_thread = kind == "with a thread"
    tasks = [
        make_task(n, **({"thread_id": f"0f1e2d3c-4b5a-4000-9000-{n:012}"} if of_thread else {})) for n in range(MANY)
    ]
    await scripts.run_many(costs.redis, [submit_call(task, QUEUE, TIMES, queue.now_ms) for task in tasks])
    costs.are(f"a task that waits, {kind}, with an input of 100 bytes", (await costs.held() - before) / MANY)
    assert await end_all(queue, b"x" * 600) == MANY
    await costs.redis.delete(*await costs.redis.keys("agent:events:*"))
    costs.are(f"a task that has ended, {kind}, with a result of 600 bytes", (await costs.held() - before) / MANY)
    what = "the record of the one task of a thread" if of_thread else "the record of an ended task"
    costs.are(what, await costs.held("agent:runs:*", "agent:thread_runs:*") / MANY)


async def test_ids_cost_what_the_page_says(costs):
    queue = QueueOnRedis(costs.redis)
    await queue.join()
    ended = 0
    while ended < 5_000:
        tasks = [make_task(n) for n in range(ended, ended + MANY)]
        await scripts.run_many(costs.redis, [submit_call(task, QUEUE, TIMES, queue.now_ms) for task in tasks])
        ended += await end_all(queue, b"{}", crowded)
    costs.are("an id that is only remembered, beside thousands of others", await costs.held("agent:ids:*") / 5_000)


async def test_events_cost_what_the_page_says(costs):
    queue = QueueOnRedis(costs.redis)
    await queue.join()
    await queue.submit()
    claimed = await queue.claim_one()
    events = [("messages", b"x" * 200)] * MANY
    await scripts.run(costs.redis, append_call("t1", claimed.epoch, "w1", 0, events))
    costs.are("an event of 200 bytes", await costs.held("agent:events:*") / MANY)


async def test_threads_cost_what_the_page_says(costs):
    threads = [f"0f1e2d3c-4b5a-4000-9000-{n:012}" for n in range(MANY)]
    metadata = '{"owner": "ann", "topic": "greetings"}'
    await scripts.run_many(costs.redis, [create_call(one, "default", metadata) for one in threads])
    costs.are("a thread in lists, with two pairs of metadata", await costs.held() / MANY)


async def test_checkpoints_cost_what_the_page_says(costs):
    graph = chain(step("one"), step("two"), step("three")).compile(checkpointer=ThreadSaver(costs.redis))
    for n in range(20):
        await graph.ainvoke(
            {"steps": [], "note": "short"}, thread(f"0f1e2d3c-4b5a-4000-9000-{n:012}"), durability="sync"
        )
    costs.are("the checkpoints of a finished thread of three nodes", await costs.held() / 20)


class Messages(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Deltas(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(extend)]


@pytest.mark.parametrize(("of", "kind"), [(Messages, "in a list"), (Deltas, "in a `DeltaChannel`")])
async def test_long_threads_cost_what_the_page_says(costs, of, kind):
    async def answer(_state):
        return {"messages": [AIMessage(token_urlsafe(150))]}

    graph = chain(answer, of=of).compile(checkpointer=ThreadSaver(costs.redis))
    for _ in range(50):
        end = await graph.ainvoke({"messages": [HumanMessage(token_urlsafe(150))]}, thread(), durability="sync")
    assert len(end["messages"]) == 100
    costs.are(f"the checkpoints of a thread of 50 turns, with 100 messages of 200 bytes {kind}", await costs.held())


async def test_store_items_cost_what_the_page_says(costs, redis_url):
    async with open_async(redis_url) as redis:
        loops = EventLoops(redis, redis_url)
        store = Store(Access(loops, Outages()))
        for n in range(MANY):
            await store.aput(("users", "ann"), f"key-{n:04}", {"text": "x" * 190})
        costs.are("a store item of 200 bytes", await costs.held() / MANY)
        await loops.aclose()


def test_every_row_of_the_page_is_measured():
    tests = (ROOT / "tests/repository/test_docs_memory.py").read_text()
    for what in SAID:
        assert re.sub(r"(?<=, )with(out)? a thread|in a (list|`DeltaChannel`)$", "{kind}", what) in tests
