"""A worker that lost its task writes nothing to a thread in Postgres any more; threads end, and are trimmed."""

import asyncio
from functools import partial

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.postgres import statements, upkeep
from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.postgres.connections import open_postgres
from langgraph_rq.worker.state.postgres.schema import set_up, sweep
from langgraph_rq.worker.state.saver.upkeep import ThreadChangedError
from tests.waiting import until
from tests.worker.state.scenarios import Deltas, chain, step, talk, thread

CLAIMED = 1_764_000_000_000_000
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "lgrq_threads")


def with_token(postgres, token):
    return PostgresSaver(postgres, token=lambda _thread: token)


async def begun(postgres, token):
    saver = with_token(postgres, token)
    await saver.begin("t")
    return saver


async def put(saver, config=None, **metadata):
    return await saver.aput(config or thread(checkpoint_ns=""), empty_checkpoint(), {"step": 0, **metadata}, {})


async def rows(postgres, tables=TABLES):
    return [sorted(map(repr, await postgres.rows(f"SELECT * FROM {table}", {}))) for table in tables]


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
async def test_write_of_an_earlier_token_is_refused_and_changes_nothing(postgres, verb):
    zombie, owner = await begun(postgres, CLAIMED), with_token(postgres, CLAIMED + 1)
    first = await put(zombie, run_id="run")
    await put(zombie, first, run_id="run")
    await owner.begin("t")
    before = await rows(postgres)
    with pytest.raises(CheckpointFencedError):
        await VERBS[verb](zombie, first)
    assert await rows(postgres) == before


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "copy into"])
async def test_owner_goes_on_and_may_repeat_what_was_done(postgres, verb):
    owner = await begun(postgres, CLAIMED)
    first = await put(owner, run_id="run")
    for _ in range(2):
        await VERBS[verb](owner, first)


@pytest.mark.parametrize("verb", ["put", "put_writes"])
async def test_task_of_which_the_thread_does_not_know_that_it_began_writes_nothing(postgres, verb):
    config = await put(await begun(postgres, CLAIMED))
    before = await rows(postgres)
    with pytest.raises(CheckpointFencedError):
        await VERBS[verb](with_token(postgres, CLAIMED + 1), config)
    assert await rows(postgres) == before


@pytest.mark.parametrize("verb", ["put", "put_writes"])
async def test_task_goes_on_where_nothing_is_known_of_any_and_shuts_the_others_out(postgres, verb):
    config = await put(PostgresSaver(postgres))
    await VERBS[verb](with_token(postgres, CLAIMED), config)
    with pytest.raises(CheckpointFencedError):
        await VERBS[verb](with_token(postgres, CLAIMED + 1), config)


async def test_operation_without_a_task_is_not_compared(postgres):
    await put(await begun(postgres, CLAIMED))
    await put(PostgresSaver(postgres))


async def test_late_write_does_not_bring_a_deleted_thread_back(postgres):
    owner = await begun(postgres, CLAIMED)
    await put(owner)
    await PostgresSaver(postgres).adelete_thread("t")
    with pytest.raises(CheckpointFencedError):
        await put(owner)
    assert await owner.aget_tuple(thread()) is None
    assert not await with_token(postgres, CLAIMED + 1).begin("t")


async def test_run_of_a_zombie_loses_no_turn_of_its_successor(postgres):
    zombie = chain(step("one"), step("two")).compile(checkpointer=await begun(postgres, CLAIMED))
    await zombie.ainvoke({"steps": ["first"]}, thread(), durability="sync")
    owner = chain(step("one"), step("two")).compile(checkpointer=await begun(postgres, CLAIMED + 1))
    await owner.ainvoke({"steps": ["second"]}, thread(), durability="sync")
    with pytest.raises(CheckpointFencedError):
        await zombie.ainvoke({"steps": ["late"]}, thread(), durability="sync")
    values = (await owner.aget_state(thread())).values
    assert values["steps"] == ["first", "one", "two", "second", "one", "two"]


async def test_writers_of_one_thread_never_leave_a_later_token_behind(postgres):
    async def write(token):
        try:
            await put(await begun(postgres, token))
        except CheckpointFencedError:
            return None
        return token

    accepted = await asyncio.gather(*(write(CLAIMED + one) for one in range(20)))
    assert accepted[-1] == CLAIMED + 19
    (kept,) = await postgres.rows("SELECT token FROM lgrq_threads", {})
    assert kept["token"] == CLAIMED + 19


async def test_hundred_runs_share_a_few_connections(postgres):
    graph = chain(step("one"), step("two")).compile(checkpointer=PostgresSaver(postgres))
    runs = [graph.ainvoke({"steps": []}, thread(f"t{n}"), durability="sync") for n in range(100)]
    assert [result["steps"] for result in await asyncio.gather(*runs)] == [["one", "two"]] * 100


async def test_sweep_deletes_threads_whose_time_is_over_and_no_others(postgres):
    saver = PostgresSaver(postgres)
    graph = chain(step("one")).compile(checkpointer=saver)
    for name in ("old", "kept"):
        await graph.ainvoke({"steps": []}, thread(name))
    assert await saver.expire_thread("old", 0.001) == 3
    await until(lambda: sweep(postgres))
    left = [await postgres.rows(f"SELECT DISTINCT thread_id FROM {table}", {}) for table in TABLES]
    assert left == [[{"thread_id": "kept"}]] * len(TABLES)


async def test_write_renews_the_time_of_a_thread(postgres):
    saver = PostgresSaver(postgres)
    await put(saver)
    await saver.expire_thread("t", 0.001)
    await put(saver)
    assert await sweep(postgres) == 0
    assert await saver.begin("t")


async def test_only_the_newest_checkpoints_are_kept_with_what_they_need(postgres):
    graph = chain(talk, of=Deltas).compile(checkpointer=PostgresSaver(postgres, keep=8))
    plain = chain(talk, of=Deltas).compile(checkpointer=PostgresSaver(postgres, keep=0))
    for number in range(12):
        for name, one in (("t", graph), ("all", plain)):
            await one.ainvoke({"messages": [f"question {number}"], "count": 0}, thread(name))
    states, everything = [[state.values async for state in one.aget_state_history(thread(name))]
                          for name, one in (("t", graph), ("all", plain))]  # fmt: skip
    assert len(everything) == 36
    assert 8 <= len(states) <= 16
    assert states[:8] == everything[:8]
    counts = {
        table: len(await postgres.rows(f"SELECT 1 FROM {table} WHERE thread_id = 't'", {})) for table in TABLES[:3]
    }
    assert counts["checkpoints"] == len(states)
    assert all(count < 60 for count in counts.values())


async def test_old_checkpoints_are_dropped_later_where_a_thread_does_not_come_to_rest(postgres, monkeypatch):
    saver, other = PostgresSaver(postgres, keep=4), PostgresSaver(postgres, keep=0)
    write = saver.write

    async def write_behind_others(statement, thread_id, **parameters):
        if statement is statements.DROP:
            await put(other, thread(checkpoint_ns="side"))
        return await write(statement, thread_id, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(saver, "write", write_behind_others)
        for _ in range(6):
            await put(saver)
    kept = [one async for one in saver.alist(thread(checkpoint_ns=""))]
    await put(saver)
    assert (len(kept), len([one async for one in saver.alist(thread(checkpoint_ns=""))])) == (6, 4)


async def test_thread_that_does_not_come_to_rest_is_not_trimmed_at_each_write(postgres, monkeypatch):
    saver, other, tries = PostgresSaver(postgres, keep=64), PostgresSaver(postgres, keep=0), 0
    write = saver.write

    async def write_behind_others(statement, thread_id, **parameters):
        nonlocal tries
        if statement is statements.DROP:
            tries += 1
            await put(other, thread(checkpoint_ns="side"))
        return await write(statement, thread_id, **parameters)

    monkeypatch.setattr(saver, "write", write_behind_others)
    for _ in range(64 + 6):
        await put(saver)
    assert tries == upkeep._ATTEMPTS


async def test_thread_that_is_written_to_while_it_is_pruned_is_left_alone(postgres, monkeypatch):
    saver = PostgresSaver(postgres)
    last = await put(saver, await put(saver))
    write = saver.write

    async def disturbed(statement, *args, **parameters):
        if "changes" in parameters:
            await put(PostgresSaver(postgres), last)
        return await write(statement, *args, **parameters)

    monkeypatch.setattr(saver, "write", disturbed)
    with pytest.raises(ThreadChangedError):
        await saver.aprune(["t"])
    assert len([one async for one in saver.alist(thread())]) == 5


async def test_many_workers_set_up_at_once(postgres_server):
    url = await asyncio.to_thread(postgres_server.new_database)

    async def boot():
        async with open_postgres(url, connections=2) as postgres:
            await set_up(postgres)

    await asyncio.gather(*(boot() for _ in range(8)))
    async with open_postgres(url) as postgres:
        assert await put(PostgresSaver(postgres))


@pytest.mark.parametrize("value", ["NUL \0 in it", "\\u0000", float("inf"), 10**30, {1: (2,)}], ids=repr)
async def test_value_comes_back_as_it_was_also_where_json_could_not_hold_it(postgres, value):
    graph = chain(step("one", note=value)).compile(checkpointer=PostgresSaver(postgres))
    metadata = {"of": "run", "odd": value, "surrogate": "\ud800"}
    await graph.ainvoke({"steps": []}, {**thread(), "metadata": metadata})
    assert (await graph.aget_state(thread())).values["note"] == value
    found = [state async for state in graph.aget_state_history(thread(), filter={"of": "run"})]
    assert len(found) == 3


async def test_outage_between_two_nodes_is_waited_for_and_no_node_runs_again(postgres_server):
    url = await asyncio.to_thread(postgres_server.new_database)
    entered, go_on, calls = asyncio.Event(), asyncio.Event(), []

    async def before(_state):
        calls.append("before")
        return {"steps": ["before"]}

    async def during(_state):
        calls.append("during")
        entered.set()
        await go_on.wait()
        return {"steps": ["during"]}

    async with open_postgres(url) as postgres:
        await set_up(postgres)
        graph = chain(before, during).compile(checkpointer=PostgresSaver(postgres))
        running = asyncio.create_task(graph.ainvoke({"steps": []}, thread(), durability="sync"))
        await entered.wait()
        await asyncio.to_thread(postgres_server.kill)
        go_on.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(running)
        await asyncio.to_thread(postgres_server.start)
        assert (await running)["steps"] == ["before", "during"]
    assert calls == ["before", "during"]


async def test_sync_caller_works_in_a_thread_and_is_an_error_on_the_loop(postgres):
    saver = PostgresSaver(postgres)
    config = await put(saver)
    saved = await asyncio.to_thread(saver.get_tuple, config)
    assert saved.config == config
    await asyncio.to_thread(saver.copy_thread, "t", "copy")
    assert [one.config async for one in saver.alist(thread("copy"))]
    await asyncio.to_thread(saver.delete_thread, "t")
    assert await asyncio.to_thread(lambda: list(saver.list(thread()))) == []
    with pytest.raises(RuntimeError, match="expected ainvoke or astream"):
        saver.put(config, empty_checkpoint(), {}, {})


async def test_copy_is_whole_and_of_its_own(postgres):
    saver = PostgresSaver(postgres)
    graph = chain(step("one"), step("two", note="x" * 500)).compile(checkpointer=saver)
    await graph.ainvoke({"steps": []}, thread())
    await saver.acopy_thread("t", "copy")
    values = partial(graph.aget_state, thread("copy"))
    assert (await values()).values == (await graph.aget_state(thread())).values
    await saver.adelete_thread("t")
    assert (await values()).values["steps"] == ["one", "two"]
    with pytest.raises(ValueError, match="got one with checkpoints: 'copy'"):
        await saver.acopy_thread("t", "copy")
