"""LGRQ_STATE_KEY: readers of Redis learn nothing of the state, writers cannot change it, a wrong key loses nothing."""

import asyncio
import json
from typing import Any, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from langgraph_rq import State
from langgraph_rq.shared.errors import ErrorType, SettingsError
from langgraph_rq.shared.settings import RedisSettings, StateSettings, WorkerSettings, load
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from langgraph_rq.worker.state.redis_stack.store import open_redis_stack_store
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from langgraph_rq.worker.state.store.opening import open_store
from tests.fleet import worker

OLD, NEW = "o" * 32, "n" * 32
SECRET = "a-very-private-sentence"


class Talk(TypedDict, total=False):
    said: Any


async def reply(state: Talk) -> Talk:
    return {"said": [state.get("said"), HumanMessage(SECRET)]}


async def ask(state: Talk) -> Talk:
    return {"said": interrupt(SECRET)}


def serializer(*secrets: str) -> StateSerializer:
    return StateSerializer(StateKeys.parse(",".join(secrets) or None))


@pytest.fixture
def talk():
    return StateGraph(Talk).add_node(reply).add_edge(START, "reply").compile()


@pytest.fixture
def say(redis_url, client, talk):
    """Run a task on the thread `t` in a worker with these secrets."""

    async def say(*secrets: str) -> Any:
        async with worker(redis_url, {"g": talk}, checkpoints=True, serializer=serializer(*secrets)):
            task = client.submit({}, graph="g", thread_id="t")
            return await asyncio.to_thread(client.wait, task.task_id, 20)

    return say


async def stored(redis, pattern: str) -> dict[str, Any]:
    """All JSON documents whose keys match."""
    return {key.decode(): await redis.json().get(key) async for key in redis.scan_iter(match=pattern)}


async def threads(redis) -> dict[str, Any]:
    """All that threads hold."""
    return {key.decode(): await redis.hgetall(key) async for key in redis.scan_iter(match="agent:thread_state:*")}


async def held(redis) -> Any:
    """What threads hold, except the token of the task that ran last."""
    return {key: {**fields, b"t": None} for key, fields in (await threads(redis)).items()}


async def newest(redis, thread: str) -> bytes:
    """Return the field of a thread's newest checkpoint."""
    return b"c" + (await redis.zrange(f"agent:thread_index:{thread}", -1, -1))[0]


async def test_nothing_of_the_state_is_readable_in_redis(aredis, talk):
    saver = ThreadSaver(aredis, serializer=serializer(NEW))
    asking = StateGraph(Talk).add_node(ask).add_edge(START, "ask")
    for builder in (talk.builder, asking):
        config = {"configurable": {"thread_id": "t", "task_id": "task"}}
        await builder.compile(checkpointer=saver).ainvoke({"said": SECRET}, config, durability="sync")
    found = repr(await threads(aredis))
    assert found.count("+aes256gcm:") > 4
    assert SECRET not in found
    plain = await asking.compile(checkpointer=saver).aget_state({"configurable": {"thread_id": "t"}})
    assert plain.interrupts[0].value == SECRET
    assert plain.metadata["task_id"] == "task"


async def test_wrong_key_is_one_error_and_loses_nothing(say, aredis):
    assert (await say(OLD)).error is None
    before = await held(aredis)
    result = await say(NEW)
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.STATE_REFUSED)
    assert "LGRQ_STATE_KEY" in result.error.message
    assert result.metadata.attempts == 1
    assert await held(aredis) == before
    assert len((await say(OLD)).result["said"][0]) == 2


@pytest.mark.parametrize(
    ("written", "read", "refused"),
    [
        ((OLD,), (NEW, OLD), None),
        ((NEW, OLD), (OLD, NEW), None),
        ((), (NEW, "plain"), None),
        (("plain", NEW), (), None),
        ((NEW, "plain"), ("plain", NEW), None),
        ((OLD,), (NEW,), "encrypted with the secret"),
        ((OLD,), (), "it is not set"),
        ((), (NEW,), "add the word plain to the end"),
        (("plain", NEW), (NEW,), "got: plain"),
        ((NEW, "plain"), (), "encrypted with the secret"),
    ],
)
def test_first_secret_writes_and_all_of_them_read(written, read, refused):
    text = serializer(*written).at("thread:t").dumps_typed({"a": (1,)})
    if refused is None:
        assert serializer(*read).at("thread:t").loads_typed(text) == {"a": (1,)}
    else:
        with pytest.raises(RefusedStateError, match=refused):
            serializer(*read).at("thread:t").loads_typed(text)


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_error_does_not_tell_a_secret(secret):
    text = serializer(secret).dumps_typed([1])
    with pytest.raises(RefusedStateError) as caught:
        serializer("x" * 32).loads_typed(text)
    assert secret[:9] not in str(caught.value)
    assert "x" * 9 not in str(caught.value)


@pytest.mark.parametrize("change", ["flipped", "cut", "empty", "relabelled", "moved"])
def test_changed_or_moved_text_is_refused(change):
    here = serializer(NEW).at("thread:t")
    kind, data = here.dumps_typed({"a": 1})
    reader = serializer(NEW).at("thread:other") if change == "moved" else here
    changed = {
        "flipped": (kind, data[:-1] + bytes([data[-1] ^ 1])),
        "cut": (kind, data[:-1]),
        "empty": (kind, b""),
        "relabelled": (kind.replace("msgpack", "bytes"), data),
        "moved": (kind, data),
    }
    assert here.loads_typed((kind, data)) == {"a": 1}
    with pytest.raises(RefusedStateError, match="they were changed, or moved here"):
        reader.loads_typed(changed[change])


async def test_checkpoint_of_another_thread_is_refused(aredis, talk):
    saver = ThreadSaver(aredis, serializer=serializer(NEW))
    graph = talk.builder.compile(checkpointer=saver)
    for thread in ("mine", "yours"):
        await graph.ainvoke({"said": thread}, {"configurable": {"thread_id": thread}}, durability="sync")
    mine, yours = [await newest(aredis, thread) for thread in ("mine", "yours")]
    theirs = await aredis.hget("agent:thread_state:yours", yours)
    await aredis.hset("agent:thread_state:mine", mine, theirs)
    with pytest.raises(RefusedStateError):
        await graph.aget_state({"configurable": {"thread_id": "mine"}})


async def test_planted_plain_checkpoint_is_refused(aredis, talk):
    config = {"configurable": {"thread_id": "t"}}
    for one in (serializer(), serializer(NEW)):
        graph = talk.builder.compile(checkpointer=ThreadSaver(aredis, serializer=one))
        if one.is_plain:
            await graph.ainvoke({"said": "planted"}, config, durability="sync")
        else:
            with pytest.raises(RefusedStateError, match="got: plain"):
                await graph.ainvoke({"said": "more"}, config, durability="sync")


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "langgraph.json"
    path.write_text('{"graphs": {"g": "./a.py:g"}}')
    return read_langgraph_json(path)


async def test_store_items_are_encrypted_found_by_filter_and_bound_to_their_place(aredis, redis_url, described):
    async with open_store(aredis, redis_url, described, serializer(NEW)) as store:
        for name in ("ada", "bob"):
            await store.aput(("users", name), "k", {"name": name, "secret": SECRET})
        ada, bob = [await aredis.hget(f"agent:store:default:users.{name}", "k") for name in ("ada", "bob")]
        assert SECRET.encode() not in ada + bob
        found = await store.asearch(("users",), filter={"name": "bob"})
        assert [(item.namespace, item.value["secret"]) for item in found] == [(("users", "bob"), SECRET)]
        await aredis.hset("agent:store:default:users.ada", "k", bob)
        assert not await is_read(store.aget(("users", "ada"), "k"))
        async with open_store(aredis, redis_url, described) as planting:
            await planting.aput(("users", "bob"), "k", {"name": "planted"})
        assert not await is_read(store.asearch(("users", "bob")))


async def test_items_of_redis_stack_are_encrypted_found_by_filter_and_bound_to_their_place(stack, described):
    async with open_redis_stack_store(stack, described, serializer(NEW)) as store:
        for name in ("ada", "bob"):
            await store.aput(("users", name), "k", {"name": name, "secret": SECRET})
        documents = await stored(stack, "store:*")
        assert SECRET not in json.dumps(documents)
        found = await store.asearch(("users",), filter={"name": "bob"})
        assert [(item.namespace, item.value["secret"]) for item in found] == [(("users", "bob"), SECRET)]
        (ada, bob) = documents
        await stack.json().set(ada, "$.value", documents[bob]["value"])
        refused = [name for name in ("ada", "bob") if not await is_read(store.aget(("users", name), "k"))]
        assert len(refused) == 1
        await stack.json().set(bob, "$.value", {"name": "planted"})
        assert not await is_read(store.asearch(("users",)))


async def is_read(reading: Any) -> bool:
    try:
        await reading
    except RefusedStateError:
        return False
    return True


@pytest.mark.parametrize("text", ["short", f"{NEW},short", f"{NEW} plain2", "", " , "])
def test_short_secret_is_refused_without_telling_it(text):
    with pytest.raises(SettingsError, match="LGRQ_STATE_KEY: expected secrets of at least 32 characters") as caught:
        StateKeys.parse(text)
    assert "short" not in str(caught.value).replace("shorter", "")


async def test_empty_file_of_secrets_does_not_switch_encryption_off(redis_url, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("\n")
    monkeypatch.setenv("LGRQ_STATE_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    with pytest.raises(SettingsError, match="got: an empty file"):
        async with open_context(load(WorkerSettings), load(RedisSettings)):
            pass


def test_secrets_come_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "key").write_text(f"{NEW}\n{OLD}\n")
    monkeypatch.setenv("LGRQ_STATE_KEY_FILE", str(tmp_path / "key"))
    key = load(StateSettings).key
    assert NEW not in repr(key)
    assert len(StateKeys.parse(key.get_secret_value()).secrets) == 2
