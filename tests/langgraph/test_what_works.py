"""What docs/reference/langgraph.md says that works: small graphs, run by LangGraph alone and by two processes."""

import asyncio
import json
import re
from importlib import import_module
from uuid import uuid4

import pytest
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeError
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.guards.refusals import BudgetExceeded
from tests.installation import ROOT, start_worker

PROJECT = ROOT / "tests/projects/features"
PAGE = (ROOT / "docs/reference/langgraph.md").read_text()

GIVEN = {"text": "hello", "number": 3}
SAID = {"messages": [{"role": "user", "content": "What is a tide?", "id": "asked"}]}

INPUTS = {
    "stream_writer": GIVEN,
    "store": GIVEN,
    "sync_store": GIVEN,
    "config": GIVEN,
    "runtime": GIVEN,
    "managed_values": {"text": "hello"},
    "functional": [1, 2, 3],
    "sync_functional": [1, 2, 3],
    "node_timeout": GIVEN,
    "timed_out": GIVEN,
    "idle_timeout": GIVEN,
    "retry_policy": GIVEN,
    "node_defaults": GIVEN,
    "error_handler": GIVEN,
    "deferred": GIVEN,
    "send": {"number": 5},
    "command": GIVEN,
    "subgraphs": GIVEN,
    "subgraph_memory": {"text": "hello"},
    "recursion_limit": GIVEN,
    "pydantic_state": {"text": "hello", "tags": ["a", "b"]},
    "dataclass_state": {"text": "hello"},
    "schemas": {"text": "hello"},
    "channels": {"text": "hello"},
    "messages": SAID,
    "tool_node": SAID,
    "agent": SAID,
    "runnables": GIVEN,
    "sync_nodes": GIVEN,
}

STREAMED = ("stream_writer", "tool_node", "agent", "subgraphs")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with EmbeddedRedis(tcp=True) as redis:
        arguments = ("--config", str(PROJECT / "langgraph.json"), "--processes", "2")
        with start_worker(tmp_path_factory.mktemp("features"), {"REDIS_URL": redis.url}, *arguments) as worker:
            worker.wait_until_ready(2)
            assert worker.events("config.questioned") == []
            with Client(redis.url) as client:
                yield client
            assert worker.process.poll() is None, worker.said()


@pytest.fixture(scope="module")
def graphs():
    """The graphs by name, as Python alone imports them."""
    paths = json.loads((PROJECT / "langgraph.json").read_text())["graphs"]
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(PROJECT)
        return {
            name: getattr(import_module(path.removeprefix("./").partition(".py:")[0]), name)
            for name, path in paths.items()
        }


def bare(graphs, name):
    """The graph as LangGraph alone runs it, with the context that LangGraph Server gives."""
    return graphs[name].copy({"checkpointer": InMemorySaver(), "store": InMemoryStore()})


def config(thread="t"):
    return {"configurable": {"thread_id": thread}}


def plain(value):
    """A value as a result shows it."""

    def encode(one):
        return sorted(one) if isinstance(one, set) else one.model_dump() if isinstance(one, BaseMessage) else vars(one)

    return json.loads(json.dumps(value, default=encode))


def comparable(value):
    """Without the order of sets, and the random ids of tool messages."""
    if isinstance(value, dict):
        random = {"id"} if value.get("type") == "tool" else set()
        return {
            key: sorted(one) if key == "tags" else comparable(one) for key, one in value.items() if key not in random
        }
    return [comparable(one) for one in value] if isinstance(value, list) else value


async def run_bare(graphs, name, given):
    context = {} if name == "runtime" else None
    try:
        return plain(await bare(graphs, name).ainvoke(given, config(), context=context)), None
    except Exception as error:
        return None, type(error).__name__


async def run(client, name, given, **fields):
    task = client.submit(given, graph=name, **fields)
    return await asyncio.to_thread(client.wait, task.task_id, 60)


@pytest.mark.parametrize("name", INPUTS)
async def test_worker_answers_as_langgraph_alone(name, client, graphs):
    expected, error = await run_bare(graphs, name, INPUTS[name])
    result = await run(client, name, INPUTS[name])
    if error:
        assert result.status is State.ERROR
        assert error in result.error.message
    else:
        assert (result.status, result.error) == (State.SUCCESS, None)
        assert comparable(result.result) == comparable(expected)


@pytest.mark.parametrize("name", STREAMED)
async def test_what_a_graph_writes_is_streamed_as_langgraph_alone_does(name, client, graphs):
    written = [part async for part in bare(graphs, name).astream(INPUTS[name], config(), stream_mode="custom")]
    task = client.submit(INPUTS[name], graph=name, stream=["custom"])
    events = await asyncio.to_thread(lambda: [*client.events(task.task_id)])
    assert [event.data["data"] for event in events if event.type == "custom"] == written


async def test_previous_is_what_the_last_task_of_the_thread_saved(client, graphs):
    alone, thread = bare(graphs, "functional"), uuid4().hex
    for numbers in ([1, 2], [3], [4, 5]):
        expected = await alone.ainvoke(numbers, config())
        assert (await run(client, "functional", numbers, thread_id=thread)).result == expected


async def test_subgraph_with_a_memory_of_its_own_remembers_what_it_did_on_the_thread(client, graphs):
    alone, thread = bare(graphs, "subgraph_memory"), uuid4().hex
    for text in ("a", "b", "c"):
        expected = await alone.ainvoke({"text": text}, config())
        assert (await run(client, "subgraph_memory", {"text": text}, thread_id=thread)).result == expected


async def test_result_of_a_cached_node_is_shared_by_all_workers(client, graphs):
    alone = bare(graphs, "cached")
    first, second = await alone.ainvoke({"text": "a"}, config("1")), await alone.ainvoke({"text": "a"}, config("2"))
    assert first["seen"] == second["seen"]
    result = await run(client, "cached", {"text": "first"})
    again = await asyncio.gather(*(run(client, "cached", {"text": "first"}) for _ in range(20)))
    assert [one.result["seen"] for one in again] == [result.result["seen"]] * 20
    other = await run(client, "cached", {"text": "second"})
    assert other.result["seen"] != result.result["seen"]


async def test_interrupt_is_answered(client, graphs):
    alone = bare(graphs, "interrupts")
    asked = await alone.ainvoke(GIVEN, config())
    result = await run(client, "interrupts", GIVEN)
    assert (result.status, [one.value for one in asked["__interrupt__"]]) == (State.INTERRUPTED, [{"ask": "hello"}])
    expected = await alone.ainvoke(Command(resume="so"), config())
    task = client.resume(result.task_id, "so")
    assert (await asyncio.to_thread(client.wait, task.task_id, 60)).result == expected


async def test_spent_budget_passes_by_error_handlers_and_retries():
    tries = []

    def refused(_state):
        tries.append(1)
        raise BudgetExceeded("the budget is spent")

    def handler(_state, error: NodeError):
        pytest.fail(f"handled {error.error!r}")

    builder = StateGraph(dict).set_node_defaults(error_handler=handler, retry_policy=RetryPolicy(jitter=False))
    graph = builder.add_node("refused", refused).add_edge(START, "refused").compile()
    with pytest.raises(BudgetExceeded):
        await graph.ainvoke({})
    assert len(tries) == 1


def test_page_names_a_test_graph_for_each_feature_and_every_graph():
    named = set(re.findall(r"\| `(\w+)` \|$", PAGE, re.MULTILINE))
    assert named == json.loads((PROJECT / "langgraph.json").read_text())["graphs"].keys()
