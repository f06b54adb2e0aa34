"""Checkpointers and stores that a project brings along: used where they can be, and named where they are replaced."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore

from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, read_langgraph_json
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer
from langgraph_rq.worker.state.project_state import adopt, open_project_state, unencrypted

CODE = """
from contextlib import asynccontextmanager, contextmanager
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from redis.asyncio import Redis

URL = "URL"
left = []

class Store(BaseStore):
    def batch(self, ops): ...
    async def abatch(self, ops): ...

class SyncSaver(BaseCheckpointSaver): ...

class LostSaver(BaseCheckpointSaver):
    async def aget_tuple(self, config):
        raise OSError("no such host")

store, sync, lost, memory, empty = Store(), SyncSaver(), LostSaver(), InMemorySaver(), InMemoryStore()

@asynccontextmanager
async def saver():
    async with Redis.from_url(URL) as client:
        one = AsyncRedisSaver(redis_client=client)
        await one.asetup()
        yield one
    left.append("saver")

@contextmanager
def kept():
    yield Store()
    left.append("store")

builder = StateGraph(dict).add_node("a", lambda state: state).add_edge(START, "a").add_edge("a", END)
plain = builder.compile()
remembers = builder.compile(checkpointer=memory, store=empty)
forgets = builder.compile(checkpointer=InMemorySaver())
has_sync = builder.compile(checkpointer=sync, store=store)
has_lost = builder.compile(checkpointer=lost)
per_run = lambda config: remembers

@asynccontextmanager
async def durable():
    async with saver() as one:
        yield builder.compile(checkpointer=one)
"""


@pytest.fixture(autouse=True)
def _untouched_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def project(tmp_path, stack_url):
    """A project whose own checkpointer needs modules."""
    (tmp_path / "brought.py").write_text(CODE.replace('"URL"', repr(stack_url)))

    def read(graphs=("plain",), **keys):
        path = tmp_path / "langgraph.json"
        path.write_text(json.dumps({"graphs": {name: f"./brought.py:{name}" for name in graphs}, **keys}))
        return read_langgraph_json(path)

    yield read
    for name in [name for name in sys.modules if name.startswith("graph_brought_")]:
        del sys.modules[name]


def module():
    return next(module for name, module in sys.modules.items() if name.startswith("graph_brought_"))


def is_fenced():
    return False


@asynccontextmanager
async def opened(config, *, keeps_checkpoints=True):
    async with AsyncExitStack() as stack:
        yield await open_project_state(config, stack, is_fenced, keeps_checkpoints=keeps_checkpoints)


def at(name):
    return {"path": f"./brought.py:{name}"}


@asynccontextmanager
async def loaded(config, **options):
    options = {"adopt": lambda saver: adopt(is_fenced, saver), **options}
    async with load_graphs(config, checkpointer=OURS, store=OUR_STORE, **options) as graphs:
        yield graphs


OURS, OUR_STORE = InMemorySaver(), InMemoryStore()


@pytest.mark.parametrize("name", ["store", "kept", "Store"])
async def test_store_of_langgraph_json_is_used_and_left_at_the_end(name, project):
    async with opened(project(store=at(name))) as brought:
        assert isinstance(brought.store, module().Store)
        assert brought.warnings == ()
    assert module().left == (["store"] if name == "kept" else [])


async def test_checkpointer_of_langgraph_json_is_used_and_left_at_the_end(project):
    async with opened(project(checkpointer=at("saver"))) as brought:
        assert isinstance(brought.checkpointer, ProjectCheckpointer)
        assert isinstance(brought.checkpointer, AsyncRedisSaver)
        assert brought.warnings == ()
    assert module().left == ["saver"]


async def test_checkpointer_is_not_opened_where_no_graph_has_checkpoints(project):
    async with opened(project(checkpointer=at("saver")), keeps_checkpoints=False) as brought:
        assert brought.checkpointer is None


@pytest.mark.parametrize(
    ("name", "why"), [("memory", "InMemorySaver (it is in the"), ("sync", "SyncSaver (it is not a")]
)
async def test_checkpointer_that_cannot_be_used_is_a_warning(name, why, project):
    async with opened(project(checkpointer=at(name))) as brought:
        assert brought.checkpointer is None
    (warning,) = brought.warnings
    assert f"checkpointer.path (./brought.py:{name}): the worker's own replaces {why}" in warning


async def test_state_key_does_not_encrypt_what_the_project_keeps(project):
    async with opened(project(store=at("store"))) as brought, loaded(project(["durable", "per_run"])) as graphs:
        (warning,) = unencrypted(brought, graphs.by_name.values())
        assert warning == "LGRQ_STATE_KEY does not encrypt what AsyncRedisSaver, Store of the project keeps"
    async with opened(project()) as brought, loaded(project()) as graphs:
        assert unencrypted(brought, graphs.by_name.values()) == []


async def test_store_in_memory_is_a_warning(project):
    async with opened(project(store=at("empty"))) as brought:
        assert brought.store is None
    assert "the worker's own replaces InMemoryStore (it is in the memory of one process)" in brought.warnings[0]


REFUSED = {
    "lost": "checkpointer.path (./brought.py:lost): cannot be read: OSError: no such host",
    "store": "checkpointer.path (./brought.py:store): expected a BaseCheckpointSaver, got: Store",
    "none": "has no 'none'",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_checkpointer_that_does_not_open_stops_the_worker(name, project):
    with pytest.raises(GraphLoadError) as caught:
        async with opened(project(checkpointer=at(name))):
            pass
    assert REFUSED[name] in str(caught.value)


async def test_graph_keeps_the_durable_checkpointer_that_it_was_compiled_with(project):
    async with loaded(project(["durable", "plain"])) as graphs:
        durable, plain = graphs.by_name["durable"], graphs.by_name["plain"]
        assert isinstance(durable.own_checkpointer, ProjectCheckpointer)
        assert durable.graph.checkpointer is durable.own_checkpointer
        assert (plain.own_checkpointer, plain.graph.checkpointer) == (None, OURS)
        assert graphs.warnings == ()


async def test_graph_keeps_the_store_that_it_was_compiled_with(project):
    async with loaded(project(["has_sync"])) as graphs:
        assert graphs.by_name["has_sync"].graph.store is module().store


REPLACED = (
    "the worker's own replaces what graphs were compiled with: "
    "checkpointer InMemorySaver of remembers, forgets (it is in the memory of one process); "
    "store InMemoryStore of remembers, per_run (it is in the memory of one process); "
    "checkpointer SyncSaver of has_sync (it is not async); "
    "checkpointer InMemorySaver of per_run (it is made for each run)"
)


async def test_all_that_is_replaced_stands_in_one_warning(project):
    async with loaded(project(["remembers", "forgets", "has_sync", "per_run"])) as graphs:
        assert [graphs.by_name[name].graph.checkpointer for name in ("remembers", "forgets")] == [OURS, OURS]
        assert graphs.by_name["remembers"].graph.store is OUR_STORE
    assert graphs.warnings == (REPLACED,)


async def test_those_of_langgraph_json_are_for_all_graphs(project):
    async with loaded(project(["has_sync"]), adopt=None, keeps_stores=False) as graphs:
        graph = graphs.by_name["has_sync"].graph
        assert (graph.checkpointer, graph.store) == (OURS, OUR_STORE)
    (warning,) = graphs.warnings
    assert "checkpointer SyncSaver of has_sync (langgraph.json has another one for all graphs)" in warning


async def test_compiled_checkpointer_that_cannot_be_read_stops_the_worker(project):
    with pytest.raises(GraphLoadError, match="its checkpointer cannot be read: OSError: no such host"):
        async with loaded(project(["has_lost"])):
            pass


class Count(TypedDict, total=False):
    number: int


def counter(checkpointer):
    def add(state):
        return {"number": state.get("number", 0) + 1}

    builder = StateGraph(Count).add_node("add", add).add_edge(START, "add").add_edge("add", END)
    return builder.compile(checkpointer=checkpointer)


@pytest.fixture
async def theirs(stack):
    saver = AsyncRedisSaver(redis_client=stack)
    await saver.asetup()
    return saver


def thread(name, **more):
    return {"configurable": {"thread_id": name, "task_id": "task-1", **more}}


async def is_kept(checkpointer):
    return await checkpointer.aget_tuple(thread("t")) is not None


async def test_adopted_checkpointer_says_which_task_wrote_a_checkpoint(theirs):
    ours = await adopt(is_fenced, theirs)
    assert not await is_kept(ours)
    for _ in range(2):
        await counter(ours).ainvoke({}, thread("t"))
    assert await is_kept(ours)
    last = await ours.aget_tuple(thread("t"))
    assert last.metadata["task_id"] == "task-1"
    assert last.checkpoint["channel_values"]["number"] == 2


async def test_adopted_checkpointer_is_a_copy(theirs):
    await adopt(is_fenced, theirs)
    assert type(theirs) is AsyncRedisSaver


@pytest.mark.parametrize(("ttl_s", "stays"), [(60.0, False), (86_400.0, True)])
async def test_checkpoints_of_a_task_without_thread_are_deleted_at_its_end(ttl_s, stays, theirs):
    ours = await adopt(is_fenced, theirs)
    await counter(ours).ainvoke({}, thread("t"))
    await ours.expire_thread("t", ttl_s)
    assert await is_kept(ours) is stays


async def test_worker_that_has_lost_its_tasks_writes_no_checkpoint(theirs):
    ours = await adopt(lambda: True, theirs)
    with pytest.raises(CheckpointFencedError):
        await counter(ours).ainvoke({}, thread("t"))
    assert not await is_kept(ours)
    with pytest.raises(CheckpointFencedError):
        await ours.aput_writes(thread("t"), [("a", 1)], "node")
    for step in (lambda: ours.put(thread("t"), {}, {}, {}), lambda: ours.put_writes(thread("t"), [("a", 1)], "node")):
        with pytest.raises(CheckpointFencedError):
            await asyncio.to_thread(step)


async def test_failing_deletion_ends_no_task(lines):
    class Fails(BaseCheckpointSaver):
        async def aget_tuple(self, config):
            del config

        async def adelete_thread(self, thread_id):
            raise OSError(thread_id)

    assert await (await adopt(is_fenced, Fails())).expire_thread("t", 0) == 0
    assert lines.named("checkpoints.not_expired")[0]["error"] == "OSError: t"
