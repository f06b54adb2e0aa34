"""Data of a task name no code: whatever they look like, nothing is imported or called, and they come back as they came.

The canary is a module that writes a file when it is imported; its dataclass and its function write one when called.
"""

import base64
import json
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import ormsgpack
import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from langgraph_rq import State
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings, load
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.graphs.langgraph_json import LanggraphJson, read_langgraph_json
from langgraph_rq.worker.state.redis_stack.store import open_redis_stack_store
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.records import packed_header
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.store.opening import open_store
from tests.fleet import ended, worker

CANARY = """
from dataclasses import dataclass
from pathlib import Path

TRACE = Path(__file__).with_name("trace")
TRACE.write_text("imported")

def run(*args, **kwargs):
    TRACE.write_text("called")

@dataclass
class Gadget:
    command: str = ""
    def __post_init__(self):
        run()
"""


def packed(code: int, *content: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(list(content))))


def hexed(data: bytes) -> str:
    return data.hex()


ENVELOPES = {
    "lc2 of a function": {"lc": 2, "type": "constructor", "id": ["canary", "run"], "args": ["x"]},
    "lc2 of a dataclass": {"lc": 2, "type": "constructor", "id": ["canary", "Gadget"], "kwargs": {"command": "x"}},
    "lc2 of os.system": {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["true"]},
    "lc2 of a set": {"lc": 2, "type": "constructor", "id": ["builtins", "set"], "args": [[1, 2]]},
    "lc1 of a message": {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", "HumanMessage"],
        "kwargs": {"content": "x", "type": "human"},
    },
    "lc1 of a secret": {"lc": 1, "type": "secret", "id": ["PATH"]},
    "a send": {"__send__": True, "node": "n", "arg": {"a": 1}},
    "an interrupt": {"__interrupt__": True, "value": "v", "id": "i"},
    "bytes": {"__bytes__": "aGVsbG8="},
    "a delta snapshot": {"__delta_snapshot__": True, "value": [1]},
    "a text of the store": {"__serde_type__": "msgpack", "__serde_data__": hexed(packed(1, "canary", "run", ["x"]))},
    "a text of the serializer": {"type": "msgpack", "blob": base64.b64encode(packed(1, "canary", "run", [])).decode()},
}
EXTENSIONS = {
    "one argument": packed(0, "canary", "run", "x"),
    "arguments": packed(1, "canary", "run", ["x"]),
    "named arguments": packed(2, "canary", "Gadget", {"command": "x"}),
    "method": packed(3, "canary", "Gadget", "x", "run"),
    "pydantic v1": packed(4, "canary", "Gadget", {"command": "x"}),
    "pydantic": packed(5, "canary", "Gadget", {"command": "x"}, "model_validate_json"),
    "os.system": packed(0, "os", "system", "true"),
    "eval": packed(0, "builtins", "eval", "__import__('canary')"),
    "method of a name": packed(0, "canary:Gadget", "run", "x"),
    "unhashable names": packed(0, ["canary"], {"run": 1}, "x"),
    "nested": ormsgpack.packb([{"a": ormsgpack.Ext(2, ormsgpack.packb(["canary", "Gadget", {}]))}]),
    "unknown code": packed(99, "canary", "run", "x"),
}
envelopes = pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
extensions = pytest.mark.parametrize("extension", EXTENSIONS.values(), ids=EXTENSIONS)


class Kept(TypedDict, total=False):
    data: Any
    messages: Annotated[list[AnyMessage], add_messages]


@dataclass
class Elsewhere:
    """A dataclass that is in no graph's schema."""

    command: str


async def keep(state: Kept) -> Kept:
    return {"data": state.get("data")}


async def see(state: Kept) -> Kept:
    return {"data": state["data"]}


async def ask(state: Kept) -> Kept:
    return {"data": [state.get("data"), interrupt(state.get("data"))]}


async def hold(_state: Kept) -> Kept:
    return {"data": Elsewhere("x")}


def graph(*nodes: Any) -> Any:
    builder = StateGraph(Kept)
    for before, node in zip((START, *(one.__name__ for one in nodes)), nodes, strict=False):
        builder.add_node(node.__name__, node).add_edge(before, node.__name__)
    return builder.compile()


@pytest.fixture(autouse=True)
def _canary(tmp_path, monkeypatch):
    """Put the canary on the import path, and check that nobody touched it."""
    (tmp_path / "canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    yield
    assert sys.modules.pop("canary", None) is None
    assert not (tmp_path / "trace").exists()
    assert not ran


@pytest.fixture
def serving(redis_url):
    return worker(redis_url, {"g": graph(keep, see), "asks": graph(ask), "holds": graph(hold)}, checkpoints=True)


async def plant(redis, extension: bytes) -> None:
    """Put an extension into every checkpoint of Redis, in place of what the worker wrote."""
    keys = [key async for key in redis.scan_iter(match="agent:thread_state:*")]
    assert keys
    for key in keys:
        for field, record in (await redis.hgetall(key)).items():
            if field.startswith(b"c"):
                await redis.hset(key, field, record[: 3 + len(packed_header(record))] + b"\0" + extension)


@envelopes
async def test_input_comes_back_as_it_came_in_the_next_task_of_its_thread(client, serving, envelope):
    async with serving:
        first = await ended(client, client.submit({"data": [envelope]}, graph="g", thread_id="t").task_id)
        second = await ended(client, client.submit({"messages": []}, graph="g", thread_id="t").task_id)
    assert [result.error for result in (first, second)] == [None, None]
    assert [result.result["data"] for result in (first, second)] == [[envelope], [envelope]]


@envelopes
async def test_additional_kwargs_and_metadata_come_back_as_they_came(client, serving, envelope):
    message = {"type": "human", "id": "m", "content": "hi", "additional_kwargs": {"data": envelope}}
    async with serving:
        await ended(client, client.submit({"messages": [message]}, graph="g", thread_id="t").task_id)
        result = await ended(client, client.submit({"data": 1}, graph="g", thread_id="t").task_id)
    assert result.error is None
    assert [one["additional_kwargs"] for one in result.result["messages"]] == [{"data": envelope}]


@envelopes
async def test_answer_to_an_interrupt_and_its_question_come_back_as_they_came(client, serving, envelope):
    async with serving:
        asked = client.submit({"data": envelope}, graph="asks")
        question = (await ended(client, asked.task_id)).result["__interrupt__"][0]
        result = await ended(client, client.resume(asked.task_id, {"answer": envelope}).task_id)
    assert question["value"] == envelope
    assert result.result["data"] == [envelope, {"answer": envelope}]


@envelopes
@pytest.mark.parametrize("has_objects", [False, True], ids=["json", "with a message"])
async def test_store_item_comes_back_as_it_came(aredis, redis_url, tmp_path, envelope, has_objects):
    async with open_store(aredis, redis_url, stored(tmp_path)) as store:
        await check_items_come_back(store, envelope, has_objects)


@envelopes
@pytest.mark.parametrize("has_objects", [False, True], ids=["json", "with a message"])
async def test_item_of_redis_stack_comes_back_as_it_came(stack, tmp_path, envelope, has_objects):
    async with open_redis_stack_store(stack, stored(tmp_path)) as store:
        await check_items_come_back(store, envelope, has_objects)


async def check_items_come_back(store, envelope, has_objects):
    value = {"data": envelope, **({"message": HumanMessage("hi")} if has_objects else {})}
    for item in (value, envelope):
        await store.aput(("ns",), "k", item)
        found = await store.aget(("ns",), "k")
        assert found.value == item
        assert [one.value for one in await store.asearch(("ns",))] == [item]


@extensions
async def test_planted_checkpoint_is_an_error_of_its_task_that_names_type_and_setting(
    client, serving, aredis, extension
):
    async with serving:
        await ended(client, client.submit({"data": 1}, graph="g", thread_id="t").task_id)
        await plant(aredis, extension)
        result = await ended(client, client.submit({"messages": []}, graph="g", thread_id="t").task_id)
        other = await ended(client, client.submit({"data": 2}, graph="g", thread_id="other").task_id)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.STATE_REFUSED)
    assert other.status is State.SUCCESS
    if b"Gadget" in extension and b"canary:" not in extension:
        assert "'canary:Gadget'" in result.error.message
        assert "LGRQ_STATE_TYPES=canary:Gadget" in result.error.message


@extensions
async def test_planted_store_item_is_refused(aredis, redis_url, tmp_path, extension):
    async with open_store(aredis, redis_url, stored(tmp_path)) as store:
        await store.aput(("ns",), "k", {"data": 1})
        item = await aredis.hget("agent:store:default:ns", "k")
        header, _, _ = item.partition(b"msgpack")
        await aredis.hset("agent:store:default:ns", "k", header + b"msgpack" + extension)
        with pytest.raises(RefusedStateError):
            await store.aget(("ns",), "k")
        with pytest.raises(RefusedStateError):
            await store.asearch(("ns",))


@extensions
@pytest.mark.parametrize("encode", [hexed, lambda data: base64.b64encode(data).decode()], ids=["library", "ours"])
async def test_planted_item_of_redis_stack_is_refused(stack, tmp_path, extension, encode):
    async with open_redis_stack_store(stack, stored(tmp_path)) as store:
        await store.aput(("ns",), "k", {"data": 1})
        (key,) = [key async for key in stack.scan_iter(match="store:*")]
        planted = {"__serde_type__": "msgpack", "__serde_data__": encode(extension)}
        await stack.json().set(key, "$.value", planted)
        with pytest.raises(RefusedStateError):
            await store.aget(("ns",), "k")
        with pytest.raises(RefusedStateError):
            await store.asearch(("ns",))


@pytest.mark.parametrize("kind", ["pickle", "json", "msgpack+aes", "x" * 1000])
async def test_other_kinds_than_msgpack_are_refused(kind):
    pickled = b"ccanary\nrun\n)R."
    for data in (pickled, json.dumps(ENVELOPES["lc2 of a dataclass"]).encode()):
        with pytest.raises(RefusedStateError):
            StateSerializer().loads_typed((kind, data))


async def test_type_that_is_not_allowed_is_refused_when_it_is_written(client, serving, aredis):
    async with serving:
        result = await ended(client, client.submit({"data": 1}, graph="holds", thread_id="t").task_id)
    assert result.error.type is ErrorType.STATE_REFUSED
    assert f"LGRQ_STATE_TYPES={Elsewhere.__module__}:Elsewhere" in result.error.message
    assert result.metadata.attempts == 1


async def test_setting_allows_a_type(redis_url, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from dataclasses import dataclass\n@dataclass\nclass Mine:\n    a: int\n")
    (tmp_path / "graphs.py").write_text(
        "from langgraph.graph import START, StateGraph\nfrom mine import Mine\n"
        "async def node(_state):\n    return {'data': Mine(1)}\n"
        "g = StateGraph(dict).add_node('node', node).add_edge(START, 'node')\n"
    )
    (tmp_path / "langgraph.json").write_text('{"graphs": {"g": "./graphs.py:g"}}')
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LGRQ_STATE_TYPES", "mine:Mine")
    settings = load(WorkerSettings, config=tmp_path / "langgraph.json")
    async with open_context(settings, load(RedisSettings)) as context:
        serializer = context.checkpointer.serde
        mine = sys.modules["mine"].Mine(1)
        assert serializer.loads_typed(serializer.dumps_typed(mine)) == mine


async def test_cache_of_node_results_reads_only_allowed_types(redis_url, tmp_path, monkeypatch):
    (tmp_path / "graphs.py").write_text(
        "from langgraph.cache.memory import InMemoryCache\nfrom langgraph.graph import START, StateGraph\n"
        "async def node(_state):\n    return {}\n"
        "g = StateGraph(dict).add_node('node', node).add_edge(START, 'node').compile(cache=InMemoryCache())\n"
    )
    (tmp_path / "langgraph.json").write_text('{"graphs": {"g": "./graphs.py:g"}}')
    monkeypatch.setenv("REDIS_URL", redis_url)
    async with open_context(load(WorkerSettings, config=tmp_path / "langgraph.json"), load(RedisSettings)) as context:
        serde = context.graphs["g"].graph.cache.serde
        with pytest.raises(RefusedStateError, match="'canary:Gadget'"):
            serde.loads_typed(("msgpack", EXTENSIONS["named arguments"]))


def stored(tmp_path) -> LanggraphJson:
    """A langgraph.json for a store without an index."""
    path = tmp_path / "langgraph.json"
    path.write_text('{"graphs": {"g": "./a.py:g"}}')
    return read_langgraph_json(path)
