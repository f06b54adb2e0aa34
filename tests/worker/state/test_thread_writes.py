"""How many scripts the checkpoints of a run take, and what each write may rely on although it shares one."""

import asyncio
from secrets import token_bytes

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.worker.state.scenarios import LONG, Steps, chain, step, thread

STATE, INDEX = "agent:thread_state:t", "agent:thread_index:t"
TOKEN = 1_764_000_000_000_000
DAY_MS = 24 * 3600 * 1000


async def scripts_run(client):
    stats = await client.info("commandstats")
    return sum(stats[f"cmdstat_{name}"]["calls"] for name in ("evalsha", "evalsha_ro") if f"cmdstat_{name}" in stats)


@pytest.fixture
async def counted(plain):
    """The saver of a task, and how many scripts a step has run."""
    saver = ThreadSaver(plain, token=lambda _thread: TOKEN)
    await chain(step("one")).compile(checkpointer=saver).ainvoke({"steps": []}, thread("warm"), durability="sync")
    await saver.expire_thread("warm", 0)

    async def count(*work):
        before = await scripts_run(plain)
        found = await asyncio.gather(*work)
        return found, await scripts_run(plain) - before

    return saver, count


async def put(saver, channels=None, new=None, **metadata):
    checkpoint = {
        **empty_checkpoint(),
        "channel_values": channels or {},
        "channel_versions": dict.fromkeys(channels or (), 1),
    }
    return await saver.aput(thread(checkpoint_ns=""), checkpoint, metadata, new or {})


async def writes_of(saver, config):
    return [value for _, _, value in (await saver.aget_tuple(config)).pending_writes]


async def test_checkpoints_of_three_nodes_take_few_scripts(counted):
    saver, count = counted
    graph = chain(step("one"), step("two"), step("three")).compile(checkpointer=saver)
    saver.begin_new("t")
    _, scripts = await count(graph.ainvoke({"steps": []}, thread(), durability="sync"))
    found = [one async for one in saver.alist(thread())]
    assert [one.metadata["source"] for one in found] == ["loop"] * 4 + ["input"]
    assert sum(len({task for task, *_ in one.pending_writes}) for one in found) == 4
    assert scripts <= 4


async def test_thread_of_a_task_of_the_same_id_is_not_taken_for_a_new_one(counted, plain):
    saver, _count = counted
    await saver.begin("t")
    await put(saver)
    later = ThreadSaver(plain, token=lambda _thread: TOKEN + 1)
    later.begin_new("t")
    with pytest.raises(CheckpointFencedError):
        await chain(step("one")).compile(checkpointer=later).ainvoke({"steps": []}, thread(), durability="sync")
    assert len([one async for one in saver.alist(thread())]) == 1


async def test_checkpoint_of_an_input_is_saved_before_the_write_that_follows_has_returned(counted, plain):
    saver, _count = counted
    config = await put(saver, source="input")
    await saver.aput_writes(config, [("a", 1)], "task")
    assert (await ThreadSaver(plain).aget_tuple(thread())).config == config


async def test_checkpoint_of_an_input_is_saved_before_it_is_read(counted):
    saver, _count = counted
    first = await put(saver, source="input")
    assert (await saver.aget_tuple(thread())).config == first
    second = await put(saver, source="input")
    listed = [one.config async for one in saver.alist(thread())]
    assert listed[0] == second


async def test_input_that_a_later_task_has_barred_refuses_the_write_that_follows(counted, plain):
    saver, _count = counted
    await put(saver)
    await ThreadSaver(plain, token=lambda _thread: TOKEN + 1).begin("t")
    config = await put(saver, source="input")
    with pytest.raises(CheckpointFencedError):
        await saver.aput_writes(config, [("a", 1)], "task")


async def test_checkpoint_of_an_input_without_a_task_is_saved_when_it_returns(plain):
    config = await put(ThreadSaver(plain), source="input")
    assert (await ThreadSaver(plain).aget_tuple(thread())).config == config


async def test_writes_of_a_wide_step_share_scripts(counted):
    saver, count = counted
    builder = StateGraph(Steps)
    builder.add_node("one", step("one"))
    builder.add_conditional_edges(START, lambda _state: [Send("one", {}) for _ in range(100)])
    graph = builder.compile(checkpointer=saver)
    (found,), scripts = await count(graph.ainvoke({"steps": []}, thread(), durability="sync"))
    assert found["steps"] == ["one"] * 100
    assert scripts < 30


async def test_large_writes_that_come_together_have_scripts_of_their_own(counted):
    saver, count = counted
    config = await put(saver)
    texts = [token_bytes(10_000) for _ in range(20)]
    _, scripts = await count(
        *(saver.aput_writes(config, [("a", text)], f"task {n:02}") for n, text in enumerate(texts))
    )
    assert await writes_of(saver, config) == texts
    assert scripts == 4


async def test_write_whose_caller_is_cancelled_keeps_no_other_from_being_saved(counted):
    saver, _count = counted
    config = await put(saver)
    first, second = (asyncio.create_task(saver.aput_writes(config, [("a", n)], f"task {n}")) for n in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await writes_of(saver, config) == [1]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_checkpoint_without_one_of_its_values_is_written_again_and_what_came_with_it_once(counted, plain):
    saver, _count = counted
    config = await put(saver, {"note": LONG}, {"note": 1})
    await plain.hdel(STATE, *[field for field in await plain.hkeys(STATE) if field.startswith(b"v")])
    later, _ = await asyncio.gather(put(saver, {"note": LONG}), saver.aput_writes(config, [("a", "written")], "task"))
    assert (await saver.aget_tuple(later)).checkpoint["channel_values"] == {"note": LONG}
    assert await writes_of(saver, config) == ["written"]


async def test_all_writes_that_share_a_script_are_refused_with_it(counted, plain):
    saver, _count = counted
    config = await put(saver)
    await ThreadSaver(plain, token=lambda _thread: TOKEN + 1).begin("t")
    writes = (put(saver), *(saver.aput_writes(config, [("a", n)], f"task {n}") for n in range(3)))
    refused = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(one) for one in refused} == {CheckpointFencedError}


async def test_steps_that_follow_each_other_leave_the_ttl_as_it_is_until_it_is_too_short(counted, plain):
    saver, _count = counted
    await saver.begin("t")
    await put(saver)
    instants = [await plain.pexpiretime(key) for key in (STATE, INDEX)]
    await put(saver)
    assert [await plain.pexpiretime(key) for key in (STATE, INDEX)] == instants
    for key in (STATE, INDEX):
        await plain.pexpire(key, 7 * DAY_MS - 1)
    await put(saver)
    assert [await plain.pttl(key) > 7 * DAY_MS for key in (STATE, INDEX)] == [True, True]


async def test_what_a_task_begins_on_is_read_once_until_it_writes(counted):
    saver, count = counted
    config = await put(saver)
    await saver.begin("t")
    (found, again), scripts = await count(saver.aget_tuple(thread()), saver.aget_tuple(thread()))
    assert found.config == again.config == config
    assert found.checkpoint is not again.checkpoint
    assert scripts == 0
    await saver.aput_writes(config, [("a", 1)], "task")
    assert await writes_of(saver, thread()) == [1]


async def test_thread_without_checkpoints_is_not_read_again(counted):
    saver, count = counted
    assert not await saver.begin("t")
    assert await count(saver.aget_tuple(thread())) == ([None], 0)
    config = await put(saver)
    assert (await saver.aget_tuple(thread())).config == config


async def test_only_the_task_that_began_reads_what_was_read_then(plain):
    tokens = [TOKEN]
    saver = ThreadSaver(plain, token=lambda _thread: tokens[0])
    await saver.begin("t")
    tokens[0] = None
    config = await put(ThreadSaver(plain))
    for tokens[0] in (None, TOKEN + 1):
        assert (await saver.aget_tuple(thread())).config == config


async def test_many_small_writes_that_come_together_are_one_append(counted, plain):
    saver, count = counted
    config = await put(saver)
    await plain.config_resetstat()
    _, scripts = await count(*(saver.aput_writes(config, [("a", n)], f"task {n:03}") for n in range(500)))
    assert await writes_of(saver, config) == list(range(500))
    assert (await plain.info("commandstats"))["cmdstat_hset"]["calls"] == scripts


async def test_run_that_stops_behind_its_input_waits_until_that_is_saved(counted, plain):
    saver, _count = counted
    config = await put(saver, source="input")
    await saver.input_is_saved("t")
    assert (await ThreadSaver(plain).aget_tuple(thread())).config == config


async def test_input_that_is_refused_is_an_error_of_its_own_task_only(counted, plain):
    saver, _count = counted
    config = await put(saver)
    await ThreadSaver(plain, token=lambda _thread: TOKEN + 1).begin("t")
    await put(saver, source="input")
    for _ in range(2):
        with pytest.raises(CheckpointFencedError):
            await saver.input_is_saved("t")
    saver._threads._token = lambda _thread: TOKEN + 1
    await saver.input_is_saved("t")
    assert (await saver.aget_tuple(thread())).config == config


async def test_caller_that_is_cancelled_while_it_waits_for_an_input_does_not_stop_it(counted, plain):
    saver, _count = counted
    config = await put(saver, source="input")
    waiting = asyncio.create_task(saver.input_is_saved("t"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await saver.input_is_saved("t")
    assert (await ThreadSaver(plain).aget_tuple(thread())).config == config
