"""A worker that lost its task writes nothing to the thread any more, and brings no deleted thread back."""

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.worker.state.scenarios import chain, step, thread

CLAIMED = 1_764_000_000_000_000
"""A token: microseconds."""


def with_token(client, token):
    return ThreadSaver(client, token=lambda _thread: token)


async def begun(client, token):
    saver = with_token(client, token)
    await saver.begin("t")
    return saver


async def put(saver, config=None, **metadata):
    return await saver.aput(config or thread(checkpoint_ns=""), empty_checkpoint(), {"step": 0, **metadata}, {})


VERBS = {
    "begin": lambda saver, _: saver.begin("t"),
    "put": lambda saver, _: put(saver),
    "put_writes": lambda saver, config: saver.aput_writes(config, [("steps", ["late"])], "task"),
    "expire": lambda saver, _: saver.expire_thread("t", 1),
    "delete": lambda saver, _: saver.adelete_thread("t"),
    "prune": lambda saver, _: saver.aprune(["t"]),
    "delete_for_runs": lambda saver, _: saver.adelete_for_runs(["run"]),
    "copy into": lambda saver, _: saver.acopy_thread("another", "t"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_write_of_an_earlier_token_is_refused_and_changes_nothing(plain, verb):
    zombie, owner = await begun(plain, CLAIMED), with_token(plain, CLAIMED + 1)
    first = await put(zombie, run_id="run")
    await put(zombie, first, run_id="run")
    await owner.begin("t")
    state, index = "agent:thread_state:t", "agent:thread_index:t"
    before = [await plain.hgetall(state), await plain.zrange(index, 0, -1), await plain.pexpiretime(state)]
    with pytest.raises(CheckpointFencedError):
        await VERBS[verb](zombie, first)
    assert [await plain.hgetall(state), await plain.zrange(index, 0, -1), await plain.pexpiretime(state)] == before


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "copy into"])
async def test_owner_goes_on_and_may_repeat_what_was_done(plain, verb):
    owner = await begun(plain, CLAIMED)
    first = await put(owner, run_id="run")
    for _ in range(2):
        await VERBS[verb](owner, first)


@pytest.mark.parametrize("verb", ["put", "put_writes"])
async def test_task_of_which_redis_has_forgotten_that_it_began_writes_nothing(plain, verb):
    config = await put(await begun(plain, CLAIMED))
    with pytest.raises(CheckpointFencedError):
        await VERBS[verb](with_token(plain, CLAIMED + 1), config)
    assert (await ThreadSaver(plain).aget_tuple(thread())).config["configurable"] == config["configurable"]
    assert (await ThreadSaver(plain).aget_tuple(config)).pending_writes == []


async def test_threads_have_tokens_of_their_own(plain):
    tokens = {"t": CLAIMED, "u": CLAIMED - 5}
    saver = ThreadSaver(plain, token=tokens.get)
    for name in tokens:
        await saver.begin(name)
        await put(saver, thread(name, checkpoint_ns=""))
    await put(saver, thread("v", checkpoint_ns=""))


async def test_operation_without_a_task_is_not_compared(plain):
    await put(await begun(plain, CLAIMED))
    await put(ThreadSaver(plain))


async def test_late_write_does_not_bring_a_deleted_thread_back(plain):
    owner = await begun(plain, CLAIMED)
    await put(owner)
    await ThreadSaver(plain).adelete_thread("t")
    with pytest.raises(CheckpointFencedError):
        await put(owner)
    assert await owner.aget_tuple(thread()) is None
    assert not await with_token(plain, CLAIMED + 1).begin("t")
    assert all([await plain.ttl(key) > 0 async for key in plain.scan_iter()])


async def test_run_of_a_zombie_loses_no_turn_of_its_successor(plain):
    tokens = [CLAIMED]
    zombie = chain(step("one"), step("two")).compile(checkpointer=await begun(plain, CLAIMED))
    await zombie.ainvoke({"steps": ["first"]}, thread(), durability="sync")
    owner = chain(step("one"), step("two")).compile(checkpointer=await begun(plain, CLAIMED + 1))
    await owner.ainvoke({"steps": ["second"]}, thread(), durability="sync")
    with pytest.raises(CheckpointFencedError):
        await zombie.ainvoke({"steps": ["late"]}, thread(), durability="sync")
    values = (await owner.aget_state(thread())).values
    assert values["steps"] == ["first", "one", "two", "second", "one", "two"]
    assert tokens == [CLAIMED]


async def test_token_that_is_no_number_counts_as_none(plain):
    await plain.hset("agent:thread_state:t", "t", "not a number")
    await put(await begun(plain, CLAIMED))
    assert int(await plain.hget("agent:thread_state:t", "t")) == CLAIMED
