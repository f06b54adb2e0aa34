"""Checkpoints in a real Redis: what is kept and for how long, what survives an outage."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.state.outages import CheckpointOutageError
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.state.redis_stack.search_indexes import SearchModuleError
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.thread_saver import TASK_ID
from tests.servers import redis_stack

DOCUMENTED = ("checkpoint:", "checkpoint_latest:", "checkpoint_write:", "write_keys_zset:", "agent:checkpoints:")


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def chain(*nodes: Any) -> StateGraph[Steps]:
    """A graph of nodes, one after the other."""
    builder = StateGraph(Steps)
    for before, node in zip((START, *(one.__name__ for one in nodes)), nodes, strict=False):
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
    return builder


async def one(state):
    return {"steps": ["one"]}


async def two(state):
    return {"steps": ["two"]}


async def ask(state):
    return {"steps": [interrupt("go on?")]}


def config(thread_id=None, **configurable):
    return {"configurable": {"thread_id": thread_id or str(uuid4()), **configurable}}


def with_subgraph():
    inner = chain(one, ask).compile()
    inner.name = "inner"
    builder = StateGraph(Steps)
    builder.add_node("inner", inner)
    builder.add_node("two", two)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "two")
    return builder


@pytest.fixture
async def client(stack_url):
    async with open_async(stack_url, connections=8) as client:
        yield client


@pytest.fixture
async def checkpointer(client):
    saver = Checkpointer(client)
    await saver.setup()
    return saver


async def run(builder, saver, graph_input, run_config):
    return await builder.compile(checkpointer=saver).ainvoke(graph_input, run_config, durability="sync")


async def test_every_key_has_the_threads_time_to_live_and_a_documented_name(checkpointer, client):
    await run(with_subgraph(), checkpointer, {"steps": []}, config())
    keys = [key.decode() async for key in client.scan_iter()]
    assert {prefix for key in keys for prefix in DOCUMENTED if key.startswith(prefix)} == set(DOCUMENTED)
    assert all(key.startswith(DOCUMENTED) for key in keys)
    week_s = 7 * 24 * 3600
    assert all([week_s - 60 < await client.ttl(key) <= week_s for key in keys])


async def test_ended_task_lets_all_of_its_thread_expire_and_nothing_else(checkpointer, client):
    ended, other = config("ended"), config("other")
    for each in (ended, other):
        await run(with_subgraph(), checkpointer, {"steps": []}, each)
    assert await checkpointer.expire_thread("ended", 60) > 0
    for key in [key.decode() async for key in client.scan_iter()]:
        assert (await client.ttl(key) <= 60) == (":ended" in key), key


async def test_deleted_thread_leaves_nothing(checkpointer, client):
    await run(with_subgraph(), checkpointer, {"steps": []}, config("gone"))
    await checkpointer.expire_thread("gone", 0)
    assert await client.dbsize() == 0
    assert await checkpointer.expire_thread("gone", 0) == 0


async def test_index_of_a_thread_forgets_checkpoints_that_have_expired(checkpointer, client):
    thread, index = config("long-lived"), "agent:checkpoints:long-lived"
    await run(chain(one), checkpointer, {"steps": []}, thread)
    members = await client.zrange(index, 0, -1)
    await client.zadd(index, {members[0]: 1, members[1]: 1})
    await run(chain(one), checkpointer, {"steps": []}, thread)
    assert await client.zcard(index) == 2 * len(members) - 2


async def test_task_that_begins_on_a_thread_keeps_all_of_it_for_longer(checkpointer, client):
    thread = config("used")
    for _ in range(60):
        await run(with_subgraph(), checkpointer, {"steps": []}, thread)
    assert await client.zcard("agent:checkpoints:used") > 200  # more than one script renews
    index, members = "agent:checkpoints:used", await client.zrange("agent:checkpoints:used", 0, -1)
    await checkpointer.expire_thread("used", 60)
    await client.zadd(index, dict.fromkeys(members, 1))
    assert await checkpointer.begin("used")
    assert all([await client.ttl(key) > 3600 async for key in client.scan_iter()])
    assert await client.zcount(index, "-inf", 1) == 0
    assert not await checkpointer.begin("unused")


@pytest.mark.parametrize("thread_id", ["user:42/chat#3 *[x]", "a:__empty__:b", "50%", "50%25", "用户 {1}"])
async def test_any_id_names_a_thread_of_its_own(checkpointer, client, thread_id):
    thread, other = config(thread_id), config("user")
    for each in (thread, other, thread):
        await run(with_subgraph(), checkpointer, {"steps": [each["configurable"]["thread_id"]]}, each)
    found = [one async for one in checkpointer.alist(thread)]
    assert {one.config["configurable"]["thread_id"] for one in found} == {thread_id}
    assert {one async for one in checkpointer.athreads()} == {thread_id, "user"}
    newest = await checkpointer.aget_tuple(thread)
    assert newest.config["configurable"]["thread_id"] == newest.parent_config["configurable"]["thread_id"] == thread_id
    assert newest.checkpoint["channel_values"]["steps"] == [thread_id, thread_id]
    kept = len([one async for one in checkpointer.alist(other)])
    await checkpointer.aprune([thread_id])
    assert len([one async for one in checkpointer.alist(thread)]) < len(found)
    assert (await checkpointer.aget_tuple(thread)).config == newest.config
    await checkpointer.adelete_thread(thread_id)
    assert await checkpointer.aget_tuple(thread) is None
    assert len([one async for one in checkpointer.alist(other)]) == kept
    await checkpointer.aprune(["user"], strategy="delete")
    assert await client.dbsize() == 0


async def test_write_for_an_expired_checkpoint_does_not_bring_back_a_stump_of_it(checkpointer, client):
    place = config("t", checkpoint_ns="", checkpoint_id="expired")
    await checkpointer.aput_writes(place, [("steps", ["one"])], "node-task")
    assert not await client.exists("checkpoint:t:__empty__:expired")
    assert all([await client.ttl(key) > 0 async for key in client.scan_iter()])


async def test_history_of_a_thread_is_listed_newest_first(checkpointer):
    thread = config()
    await run(chain(one, ask, two), checkpointer, {"steps": ["zero"]}, thread)
    newest = await checkpointer.aget_tuple(thread)
    assert newest.checkpoint["channel_values"]["steps"] == ["zero", "one"]
    assert [channel for _, channel, _ in newest.pending_writes] == ["__interrupt__"]
    graph = chain(one, ask, two).compile(checkpointer=checkpointer)
    history = [state async for state in graph.aget_state_history(thread)]
    assert [(state.metadata["step"], state.values.get("steps", [])) for state in history] == [
        (1, ["zero", "one"]),
        (0, ["zero"]),
        (-1, []),
    ]
    assert [state.parent_config is None for state in history] == [False, False, True]


async def test_checkpoint_that_the_library_wrote_is_refused(checkpointer, client):
    stock = AsyncRedisSaver(redis_client=client)
    await stock.setup()
    thread = config()
    await run(chain(one, ask, two), stock, {"steps": []}, thread)
    with pytest.raises(RefusedStateError, match="state: expected"):
        await checkpointer.aget_tuple(thread)


async def test_every_checkpoint_says_which_task_wrote_it(checkpointer):
    thread = config("t")
    await run(with_subgraph(), checkpointer, {"steps": []}, config("t", **{TASK_ID: "first"}))
    graph = with_subgraph().compile(checkpointer=checkpointer)
    state = await graph.aget_state(thread, subgraphs=True)
    assert state.metadata[TASK_ID] == "first"
    assert state.tasks[0].state.metadata[TASK_ID] == "first"
    await run(with_subgraph(), checkpointer, Command(resume="yes"), config("t", **{TASK_ID: "second"}))
    assert (await graph.aget_state(thread)).metadata[TASK_ID] == "second"
    await run(with_subgraph(), checkpointer, {"steps": []}, thread)
    assert TASK_ID not in (await graph.aget_state(thread)).metadata


async def test_run_cancelled_in_a_node_goes_on_after_the_last_complete_one(checkpointer):
    entered, calls = asyncio.Event(), []

    async def first(state):
        calls.append("first")
        return {"steps": ["first"]}

    async def second(state):
        calls.append("second")
        if not entered.is_set():
            entered.set()
            await asyncio.Event().wait()
        return {"steps": ["second"]}

    thread, graph = config(), chain(first, second)
    running = asyncio.create_task(run(graph, checkpointer, {"steps": []}, thread))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await run(graph, checkpointer, None, thread))["steps"] == ["first", "second"]
    assert calls == ["first", "second", "second"]


async def test_finished_sibling_is_not_run_again(checkpointer):
    calls = []

    async def good(state):
        calls.append("good")
        return {"steps": ["good"]}

    async def bad(state):
        calls.append("bad")
        if calls.count("bad") == 1:
            while not (await checkpointer.aget_tuple(thread)).pending_writes:
                pass
            raise ValueError("once")
        return {"steps": ["bad"]}

    thread = config()
    builder = StateGraph(Steps).add_node(good).add_node(bad).add_edge(START, "good").add_edge(START, "bad")
    with pytest.raises(ValueError, match="once"):
        await run(builder, checkpointer, {"steps": []}, thread)
    assert sorted((await run(builder, checkpointer, None, thread))["steps"]) == ["bad", "good"]
    assert calls.count("good") == 1


async def test_sync_node_that_invokes_a_graph_of_its_own_does_not_hang(checkpointer):
    def sync_one(state):
        return {"steps": ["one"]}

    inner = chain(sync_one).compile(checkpointer=True)

    def outer(state):
        return {"steps": inner.invoke({"steps": ["inner"]})["steps"]}

    assert (await run(chain(outer), checkpointer, {"steps": []}, config()))["steps"] == ["inner", "one"]


async def test_hundred_runs_share_a_few_connections(stack_url):
    async with open_async(stack_url, connections=3) as client:
        saver = Checkpointer(client)
        await saver.setup()
        graph = chain(one, two).compile(checkpointer=saver)
        runs = (graph.ainvoke({"steps": []}, config(), durability="sync") for _ in range(100))
        assert all(result["steps"] == ["one", "two"] for result in await asyncio.gather(*runs))


async def test_many_workers_set_up_at_once(stack_url, client):
    async def boot():
        async with open_async(stack_url) as own:
            await Checkpointer(own).setup()

    await asyncio.gather(*(boot() for _ in range(20)))
    assert sorted(await client.execute_command("FT._LIST")) == [b"checkpoint", b"checkpoint_write"]


async def test_redis_without_modules_is_refused_with_what_to_use_instead(redis_url):
    async with open_async(redis_url) as client:
        with pytest.raises(SearchModuleError, match="use Redis >= 8 or Redis Stack"):
            await Checkpointer(client).setup()


async def test_redis_that_is_away_at_boot_is_told_from_one_that_cannot_search(tmp_path):
    async with open_async(f"unix://{tmp_path}/nobody.sock") as client:
        with pytest.raises(RedisConnectionError):
            await Checkpointer(client).setup()


async def test_outage_between_two_nodes_is_waited_for_and_no_node_runs_again():
    entered, go_on, calls = asyncio.Event(), asyncio.Event(), []

    async def before(state):
        calls.append("before")
        return {"steps": ["before"]}

    async def during(state):
        calls.append("during")
        entered.set()
        await go_on.wait()
        return {"steps": ["during"]}

    with redis_stack(appendfsync="always") as server:
        async with open_async(server.url) as client:
            saver = Checkpointer(client)
            await saver.setup()
            running = asyncio.create_task(run(chain(before, during), saver, {"steps": []}, config("t")))
            await entered.wait()
            server.kill()
            go_on.set()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asyncio.shield(running)
            server.start()
            assert (await running)["steps"] == ["before", "during"]
            assert (await saver.aget_tuple(config("t"))).checkpoint["channel_values"]["steps"] == ["before", "during"]
    assert calls == ["before", "during"]


@pytest.mark.parametrize("reason", ["fenced", "impatient"])
async def test_outage_is_not_waited_for_by_one_who_is(reason):
    with redis_stack() as server:
        async with open_async(server.url) as client:
            options: Any = {"is_fenced": lambda: True} if reason == "fenced" else {"patience_s": 0.01}
            saver = Checkpointer(client, **options)
            await saver.setup()
            server.kill()
            with pytest.raises(CheckpointOutageError) as caught:
                await run(chain(one), saver, {"steps": []}, config())
            assert isinstance(caught.value.__cause__, RedisConnectionError)


async def test_error_that_no_waiting_would_mend_is_raised_at_once(checkpointer, client):
    await client.set("checkpoint_latest:t:__empty__", "checkpoint:t:__empty__:odd")
    await client.set("checkpoint:t:__empty__:odd", "a string, not a JSON document")
    with pytest.raises(ResponseError):
        await checkpointer.aget_tuple(config("t"))
