"""Keys, TTLs, odd data and odd ids of the checkpointer on plain Redis."""

import asyncio
import time
from uuid import uuid4

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.worker.state.scenarios import LONG, Deltas, chain, step, talk, thread

STATE, INDEX = "agent:thread_state:t", "agent:thread_index:t"
WEEK_MS = 7 * 24 * 3600 * 1000


async def test_thread_takes_two_keys_and_less_than_four_kilobytes(saver, plain):
    graph = chain(step("one"), step("two"), step("three")).compile(checkpointer=saver)
    ids = {"task_id": str(uuid4()), "user_id": "ann"}
    await graph.ainvoke({"steps": [], "note": "Why is the sky blue?"}, thread("t", **ids), durability="sync")
    assert {key.decode() async for key in plain.scan_iter()} == {STATE, INDEX}
    assert sum([await plain.memory_usage(key, samples=0) for key in (STATE, INDEX)]) <= 4_000


async def test_all_of_a_thread_expires_at_one_instant_that_every_write_defers(saver, plain):
    graph = chain(talk, of=Deltas).compile(checkpointer=saver)
    await graph.ainvoke({"messages": ["question"], "count": 0}, thread(), durability="sync")
    instants = []
    for write in (
        lambda: graph.ainvoke({"messages": ["question"], "count": 0}, thread(), durability="sync"),
        lambda: saver.aput_writes(thread(checkpoint_ns="", checkpoint_id="1"), [("messages", [])], "task"),
        lambda: saver.begin("t"),
    ):
        for key in (STATE, INDEX):
            await plain.pexpire(key, 1_000_000)
        await write()
        instants = [await plain.pexpiretime(key) for key in (STATE, INDEX)]
        assert instants[0] == instants[1]
        assert instants[0] > time.time() * 1000 + WEEK_MS - 60_000


async def test_no_key_is_ever_without_a_ttl(saver, plain):
    seen = []

    async def watch(state):
        seen.extend([(key, await plain.ttl(key)) async for key in plain.scan_iter()])
        return {"steps": []}

    await chain(watch, step("one")).compile(checkpointer=saver).ainvoke({"steps": []}, thread(run_id="r"))
    assert {key.split(b":")[1] for key, _ in seen} == {b"thread_state", b"thread_index", b"run_threads"}
    assert all(ttl > 0 for _, ttl in seen)


async def test_deleted_thread_leaves_nothing(saver, plain):
    await chain(step("one")).compile(checkpointer=saver).ainvoke({"steps": []}, thread())
    await saver.adelete_thread("t")
    assert await plain.dbsize() == 0
    assert await saver.expire_thread("t", 0) == 0


async def test_ids_that_look_alike_do_not_collide(saver):
    places = [
        ("t", ""),
        ("t:", ""),
        ("t", ":"),
        ("t", "0::"),
        ("t", "a"),
        ("t", "a:b"),
        ("t:a", "b"),
        ("t", "1:a:"),
        ("t", "é"),
        ("ti*[]\n\0é" + "x" * 240, "|"),
    ]
    for number, (name, namespace) in enumerate(places):
        checkpoint = {**empty_checkpoint(), "channel_values": {"n": f"{number} {LONG}"}, "channel_versions": {"n": 1}}
        await saver.aput(thread(name, checkpoint_ns=namespace), checkpoint, {}, {"n": 1})
    for number, (name, namespace) in enumerate(places):
        config = thread(name, checkpoint_ns=namespace)
        assert [one.checkpoint["channel_values"]["n"][:2] async for one in saver.alist(config)] == [f"{number} "[:2]]
    assert len([one async for one in saver.alist(None)]) == len(places)


async def test_two_writers_of_one_node_count_once_and_the_first_wins(saver):
    config = await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
    await asyncio.gather(*(saver.aput_writes(config, [("a", n), ("b", n)], "task", "path") for n in range(20)))
    writes = (await saver.aget_tuple(config)).pending_writes
    assert [write[:2] for write in writes] == [("task", "a"), ("task", "b")]
    assert writes[0][2] == writes[1][2]


async def test_writes_that_come_before_their_checkpoint_are_found_with_it(saver):
    checkpoint = empty_checkpoint()
    config = thread(checkpoint_ns="", checkpoint_id=checkpoint["id"])
    await saver.aput_writes(config, [("a", 1)], "task")
    assert await saver.aget_tuple(thread()) is None
    assert not await saver.begin("t")
    await saver.aput(thread(checkpoint_ns=""), checkpoint, {}, {})
    assert (await saver.aget_tuple(thread())).pending_writes == [("task", "a", 1)]


async def test_many_large_writes_of_one_step_are_all_read(saver, plain):
    config = await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
    for number in range(40):
        incompressible = "".join(uuid4().hex for _ in range(500))
        await saver.aput_writes(config, [("a", f"{number} {incompressible}")], f"task {number:02}")
    found = (await saver.aget_tuple(config)).pending_writes
    assert [write[2].split()[0] for write in found] == [str(number) for number in range(40)]
    assert max([await plain.hstrlen(STATE, field) for field in await plain.hkeys(STATE)]) < 100_000
    await saver.aprune(["t"], strategy="delete")
    assert await plain.dbsize() == 0


async def test_list_reads_more_than_fits_in_one_script(saver):
    graph = chain(step("one")).compile(checkpointer=saver)
    for number in range(25):
        note = "".join(uuid4().hex for _ in range(10_000))
        await graph.ainvoke({"steps": [str(number)], "note": note}, thread(), durability="sync")
    found = [one async for one in saver.alist(thread(checkpoint_ns=""))]
    assert len(found) == 75
    assert len({one.checkpoint["id"] for one in found}) == 75


async def test_sync_methods_work_from_threads_and_say_why_not_on_the_loop(saver):
    graph = chain(step("one")).compile(checkpointer=saver)
    await graph.ainvoke({"steps": ["start"]}, thread())

    def use():
        found = [one.checkpoint["id"] for one in saver.list(thread())]
        config = saver.put(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
        saver.put_writes(config, [("a", 1)], "task")
        assert saver.get_tuple(config).pending_writes == [("task", "a", 1)]
        saver.copy_thread("t", "u")
        saver.prune(["t"])
        saver.delete_for_runs(["r"])
        assert saver.get_delta_channel_history(config=thread(), channels=["a"])["a"]["writes"] == []
        saver.delete_thread("t")
        return found

    assert len(await asyncio.to_thread(use)) == 3
    with pytest.raises(RuntimeError, match="expected ainvoke"):
        saver.get_tuple(thread())


@pytest.mark.parametrize("planted", [b"", b"\x01", b"\x02rest", b"\x01\x00\x02\xc1\xc1rest", b"\x01\x00\x00\x00\xc1"])
async def test_planted_record_is_refused_and_breaks_no_script(saver, plain, planted):
    config = await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
    field = f"c0::{config['configurable']['checkpoint_id']}"
    await plain.hset(STATE, field, planted)
    if planted:
        with pytest.raises(RefusedStateError, match="state: expected"):
            await saver.aget_tuple(config)
    else:
        assert await saver.aget_tuple(config) is None
    await saver.aprune(["t"])
    await saver.adelete_thread("t")


@pytest.mark.parametrize("planted", ["1e15", "inf", "nan", "-1", "x"])
async def test_planted_number_of_fields_holds_up_no_script(saver, plain, planted):
    config = await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
    await saver.aput_writes(config, [("a", 1)], "node")
    await plain.hset(STATE, f"n0::{config['configurable']['checkpoint_id']}", planted)
    assert (await saver.aget_tuple(config)).pending_writes == [("node", "a", 1)]
    await saver.roll_back("t", "task")
    await saver.aput(config, empty_checkpoint(), {}, {})
    await saver.aprune(["t"])
    assert len([one async for one in saver.alist(thread())]) == 1


@pytest.mark.parametrize("key", [STATE, INDEX])
async def test_key_of_another_type_is_as_good_as_none(saver, plain, key):
    await plain.rpush(key, "a list")
    config = await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
    assert await saver.aget_tuple(config)


def version_number(version):
    return version >> 40


async def test_versions_grow_and_differ_between_branches(saver):
    first = saver.get_next_version(None)
    branches = {saver.get_next_version(first) for _ in range(100)}
    assert len(branches) == 100
    assert all(branch > first and version_number(branch) == 2 for branch in branches)
    assert saver.get_next_version("00000000000000000000000000000007.0.5").startswith("0" * 31 + "8.0")


async def test_run_goes_on_and_threads_can_be_deleted_where_memory_is_full(saver, plain):
    graph = chain(step("one", note=LONG), step("two")).compile(checkpointer=saver)
    await plain.config_set("maxmemory", "100kb")
    try:
        assert await saver.begin("t") is False
        assert (await graph.ainvoke({"steps": []}, thread(), durability="sync"))["steps"] == ["one", "two"]
        await saver.aprune(["t"])
        await saver.adelete_thread("t")
    finally:
        await plain.config_set("maxmemory", 0)
    assert await plain.dbsize() == 0


async def test_hundred_runs_share_a_few_connections(redis_url):
    async with open_async(redis_url, connections=3) as client:
        graph = chain(step("one"), step("two")).compile(checkpointer=ThreadSaver(client))
        runs = (graph.ainvoke({"steps": []}, thread(str(number))) for number in range(100))
        assert all(result["steps"] == ["one", "two"] for result in await asyncio.gather(*runs))


async def test_outage_between_two_nodes_is_waited_for_and_no_node_runs_again():
    entered, go_on, calls = asyncio.Event(), asyncio.Event(), []

    async def before(_state):
        calls.append("before")
        return {"steps": ["before"]}

    async def during(_state):
        calls.append("during")
        entered.set()
        await go_on.wait()
        return {"steps": ["during"], "note": LONG}

    with EmbeddedRedis(appendfsync="always") as server:
        async with open_async(server.url) as client:
            saver = ThreadSaver(client)
            graph = chain(before, during).compile(checkpointer=saver)
            running = asyncio.create_task(graph.ainvoke({"steps": []}, thread(), durability="sync"))
            await entered.wait()
            server.kill()
            go_on.set()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asyncio.shield(running)
            server.start()
            assert (await running)["steps"] == ["before", "during"]
            assert (await saver.aget_tuple(thread())).checkpoint["channel_values"]["note"] == LONG
    assert calls == ["before", "during"]


@pytest.mark.parametrize("reason", ["fenced", "impatient"])
async def test_outage_is_not_waited_for_by_one_who_is(reason):
    with EmbeddedRedis() as server:
        async with open_async(server.url) as client:
            options = {"is_fenced": lambda: True} if reason == "fenced" else {"patience_s": 0.01}
            saver = ThreadSaver(client, **options)
            server.kill()
            expected = CheckpointFencedError if reason == "fenced" else CheckpointOutageError
            with pytest.raises(expected):
                await saver.aput(thread(checkpoint_ns=""), empty_checkpoint(), {}, {})
            with pytest.raises(CheckpointOutageError):
                await saver.aget_tuple(thread())
