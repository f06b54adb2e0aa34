"""What is kept of a thread: its newest checkpoints, and what they depend on; how threads are pruned, cut and copied."""

from secrets import token_hex

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.types import Command

from langgraph_rq.shared.connections import scripts
from langgraph_rq.worker.state.saver.ids import run_mark
from langgraph_rq.worker.state.saver.retention import all_but_newest, plan
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.worker.state.scenarios import LONG, Deltas, Seen, ask, chain, step, talk, thread


async def ask2(state):
    """Ask again."""
    return await ask(state)


STATE, INDEX = "agent:thread_state:t", "agent:thread_index:t"


async def fields(client, letter, thread="t"):
    return [field for field in await client.hkeys(f"agent:thread_state:{thread}") if field.startswith(letter)]


async def put(saver, namespace):
    return await saver.aput(thread(checkpoint_ns=namespace), empty_checkpoint(), {"source": "loop"}, {})


async def saved(saver, **place):
    return [one async for one in saver.alist(thread(**place))]


def note_of(number):
    return f"{number} {LONG}"


async def turns(saver, count, run_config=None):
    """Run turns, each with a long value of its own; returns the state after each."""
    graph = chain(step("one"), step("two")).compile(checkpointer=saver)
    for number in range(count):
        await graph.ainvoke({"steps": [], "note": note_of(number)}, run_config or thread(), durability="sync")
    return graph


async def test_newest_checkpoints_of_a_thread_are_kept_with_their_values_and_writes(plain):
    saver = ThreadSaver(plain, keep=8)
    graph = await turns(saver, 10)
    found = await saved(saver, checkpoint_ns="")
    assert len(found) == 8
    assert {one.checkpoint["channel_values"].get("note") for one in found[:4]} == {note_of(9), note_of(8)}
    names = {one.split(b":", 2)[2] for one in await plain.zrange(INDEX, 0, -1)}
    assert {field.split(b":", 2)[2] for letter in (b"c", b"w") for field in await fields(plain, letter)} == names
    assert len(await fields(plain, b"v")) <= 3 * 2
    assert len((await graph.aget_state(thread())).values["steps"]) == 20


async def test_old_checkpoints_are_dropped_later_where_a_thread_does_not_come_to_rest(plain, monkeypatch):
    saver, other = ThreadSaver(plain, keep=4), ThreadSaver(plain)
    write = saver._threads.write

    async def write_behind_others(verb, thread_id, args):
        if verb == "drop":
            await put(other, "side")
        return await write(verb, thread_id, args)

    with monkeypatch.context() as patched:
        patched.setattr(saver._threads, "write", write_behind_others)
        for _ in range(6):
            await put(saver, "main")
    assert len(await saved(saver, checkpoint_ns="main")) == 6
    await put(saver, "main")
    assert len(await saved(saver, checkpoint_ns="main")) == 4


async def test_all_checkpoints_are_kept_where_the_setting_says_so(plain):
    saver = ThreadSaver(plain, keep=0)
    await turns(saver, 40)
    assert len(await saved(saver)) == 160


async def test_value_that_does_not_change_stays_with_the_last_checkpoint_that_names_it(plain):
    saver = ThreadSaver(plain, keep=4)
    graph = chain(step("one"), step("two")).compile(checkpointer=saver)
    await graph.ainvoke({"steps": [], "note": LONG}, thread(), durability="sync")
    for _ in range(10):
        await graph.ainvoke({"steps": []}, thread(), durability="sync")
    assert (await graph.aget_state(thread())).values["note"] == LONG
    assert len([field for field in await fields(plain, b"v") if b"note" in field]) == 1


async def test_unchanged_value_that_has_expired_is_written_again(plain):
    saver = ThreadSaver(plain)
    config = thread(checkpoint_ns="")
    checkpoint = {**empty_checkpoint(), "channel_values": {"note": LONG}, "channel_versions": {"note": 1}}
    await saver.aput(config, checkpoint, {}, {"note": 1})
    await plain.delete(STATE, INDEX)
    again = {**empty_checkpoint(), "channel_values": {"note": LONG}, "channel_versions": {"note": 1}}
    await saver.aput(config, again, {}, {})
    assert (await saver.aget_tuple(config)).checkpoint["channel_values"] == {"note": LONG}


async def test_delta_channel_keeps_the_ancestors_that_it_is_rebuilt_from_and_no_more(plain):
    saver = ThreadSaver(plain, keep=3)
    graph = chain(talk, of=Deltas).compile(checkpointer=saver)
    said = []
    for number in range(12):
        end = await graph.ainvoke({"messages": [f"question {number}"], "count": 0}, thread(), durability="sync")
        said += [f"question {number}", f"answer {2 * number + 1}"]
        assert end["messages"] == said
        assert (await graph.aget_state(thread())).values["messages"] == said
    assert 3 <= len(await saved(saver)) <= 16
    states = [state async for state in graph.aget_state_history(thread())]
    assert all(state.values["messages"] == said[: len(state.values["messages"])] for state in states[:3])


async def test_namespace_of_a_subgraphs_call_goes_with_the_checkpoint_that_made_it(plain):
    saver = ThreadSaver(plain, keep=4)
    inner = chain(step("inner one"), ask).compile(name="inner")
    graph = chain(inner, step("end")).compile(checkpointer=saver)
    for number in range(8):
        await graph.ainvoke({"steps": []}, thread(), durability="sync")
        asked = await graph.aget_state(thread(), subgraphs=True)
        assert asked.tasks[0].state.values["steps"][-1] == "inner one"
        await graph.ainvoke(Command(resume=f"answer {number}"), thread(), durability="sync")
    spaces = {one.config["configurable"]["checkpoint_ns"] for one in await saved(saver)}
    assert 1 <= len(spaces - {""}) <= 2


async def test_stateful_subgraph_lives_on_when_the_checkpoints_of_its_calls_are_dropped(plain):
    saver = ThreadSaver(plain, keep=3)
    inner = chain(step("inner")).compile(checkpointer=True, name="inner")

    async def outer(_state):
        return {"steps": [str(len((await inner.ainvoke({"steps": []}))["steps"]))]}

    graph = chain(outer).compile(checkpointer=saver)
    for number in range(1, 9):
        end = await graph.ainvoke({"steps": []}, thread(), durability="sync")
        assert end["steps"][-1] == str(number)


async def test_pruned_thread_goes_on(plain):
    saver = ThreadSaver(plain)
    graph = await turns(saver, 3)
    await saver.aprune(["t", "missing"])
    assert len(await saved(saver)) == 1
    assert len(await fields(plain, b"v")) == 1
    end = await graph.ainvoke({"steps": ["more"]}, thread())
    assert len(end["steps"]) == 9
    with pytest.raises(ValueError, match="expected keep_latest or delete, got: 'most'"):
        await saver.aprune(["t"], strategy="most")


async def test_rollback_of_a_run_leaves_the_thread_as_it_was_before(plain):
    saver = ThreadSaver(plain)
    await turns(saver, 1, thread(run_id="first"))
    graph = await turns(saver, 1, thread(run_id="second"))
    before = [one.checkpoint["id"] for one in await saved(saver)]
    await turns(saver, 3, thread())
    await turns(saver, 1, thread(run_id="third"))
    others = len(await saved(saver)) - 4
    await saver.adelete_for_runs(["third", "unknown"])
    assert len(await saved(saver)) == others
    assert [one.checkpoint["id"] for one in await saved(saver)][-8:] == before
    assert (await graph.aget_state(thread())).values["note"] == note_of(2)


async def test_rollback_takes_an_answer_back_and_the_thread_asks_again(plain):
    saver = ThreadSaver(plain)
    graph = chain(ask, ask2).compile(checkpointer=saver)
    await graph.ainvoke({"steps": ["start"]}, thread(run_id="asks"), durability="sync")
    before = await Seen().history(graph, thread())
    await graph.ainvoke(Command(resume="answer"), thread(run_id="answers"), durability="sync")
    assert (await graph.aget_state(thread())).next == ("ask2",)
    await saver.adelete_for_runs(["answers"])
    assert await Seen().history(graph, thread()) == before


@pytest.mark.parametrize("key", [None, "a-secret-of-more-than-32-characters"])
async def test_copy_has_all_that_the_thread_has_and_goes_its_own_way(plain, key):
    saver = ThreadSaver(plain, serializer=StateSerializer(StateKeys.parse(key)))
    inner = chain(step("inner one", note=LONG), ask).compile(name="inner")
    graph = chain(inner, step("end")).compile(checkpointer=saver)
    await graph.ainvoke({"steps": ["start"]}, thread())
    await saver.acopy_thread("t", "copy")
    histories = [await Seen().history(graph, thread(name)) for name in ("t", "copy")]
    assert histories[0] == histories[1]
    await graph.ainvoke(Command(resume="of the copy"), thread("copy"))
    assert (await graph.aget_state(thread())).next == ("inner",)
    assert await plain.pexpiretime("agent:thread_state:copy") == await plain.pexpiretime("agent:thread_index:copy")
    with pytest.raises(ValueError, match="expected a new thread"):
        await saver.acopy_thread("t", "copy")


def test_plan_drops_what_a_kept_checkpoint_is_not_rebuilt_from():
    def header(parent, *unseeded):
        return (parent, [], list(unseeded), "", "")

    headers = {
        ("", "1"): header("", "a"),
        ("", "2"): header("1", "b"),
        ("", "3"): header("2", "a", "b"),
        ("", "4"): header("3", "a"),
        ("", "5"): header("4", "a"),
    }
    assert plan(headers, all_but_newest(headers, 1)).places == [("", "1")]
    assert plan(headers, all_but_newest(headers, 5)).places == []
    assert plan(headers, set(headers)).places == sorted(headers)


async def test_task_is_rolled_back_alone_and_again_without_effect(plain):
    saver = ThreadSaver(plain)
    graph = await turns(saver, 1, thread(run_id="shared", task_id="first"))
    before = await Seen().history(graph, thread())
    fields_before = await plain.hgetall(STATE)
    await turns(saver, 2, thread(run_id="shared", task_id="second"))
    for _ in range(2):
        await saver.roll_back("t", "second")
        assert await Seen().history(graph, thread()) == before
        assert await plain.hgetall(STATE) == fields_before


async def test_checkpoint_on_which_a_task_began_is_kept_however_many_steps_it_takes(plain):
    saver = ThreadSaver(plain, keep=8)
    graph = await turns(saver, 3, thread(task_id="first"))
    before = await graph.aget_state(thread())
    await turns(saver, 10, thread(task_id="second"))
    assert len(await saved(saver)) <= 10
    await saver.roll_back("t", "second")
    after = await graph.aget_state(thread())
    assert (after.config, after.values) == (before.config, before.values)


async def write_beside(saver, config, run, count, size=0):
    run_config = thread(checkpoint_ns="", checkpoint_id=config["configurable"]["checkpoint_id"], task_id=run)
    for number in range(count):
        await saver.aput_writes(run_config, [("a", f"{number} {token_hex(size // 2)}")], f"{run} {number}")


async def test_writes_of_a_run_are_forgotten_in_steps_that_look_at_few_fields_and_bytes(plain):
    saver, config = ThreadSaver(plain, keep=0), thread(checkpoint_ns="")
    places = []
    for _ in range(150):
        config = await saver.aput(config, empty_checkpoint(), {}, {})
        places.append(config)
        await write_beside(saver, config, "kept", 1)
        await write_beside(saver, config, "forgotten", 1)
    await write_beside(saver, config, "kept", 20, size=100_000)
    await write_beside(saver, config, "forgotten", 20, size=100_000)
    names = await plain.zrange(INDEX, 0, -1)
    at = field = steps = 0
    while at < len(names):
        args = ["", run_mark("forgotten"), field, *names[at:]]
        call = scripts.Call(scripts.load_script("worker/state/saver/scripts/forget_writes"), [STATE], args, list)
        await plain.config_resetstat()
        _, done, field = await scripts.run(plain, call)
        counts = await plain.info("commandstats")
        assert counts["cmdstat_hget"]["calls"] <= 2 * 100 + 2
        assert counts.get("cmdstat_hset", {"calls": 0})["calls"] <= 100
        at, steps = at + done, steps + 1
    assert steps == 4  # 100 fields; 49, and a megabyte of large ones; a megabyte; the rest
    left = [(await saver.aget_tuple(one)).pending_writes for one in places]
    assert {task.split()[0] for writes in left for task, *_ in writes} == {"kept"}
    assert [len(writes) for writes in left] == [1] * 149 + [20]


async def test_rollback_of_a_large_thread_forgets_what_lies_beyond_the_first_step(plain):
    saver, config = ThreadSaver(plain, keep=0), thread(checkpoint_ns="")
    for _ in range(130):
        config = await saver.aput(config, empty_checkpoint(), {}, {})
        await write_beside(saver, config, "first", 1)
    await write_beside(saver, config, "first", 25, size=100_000)
    before = await plain.hgetall(STATE)
    await write_beside(saver, config, "second", 25, size=100_000)
    assert await plain.hlen(STATE) > len(before)
    await saver.roll_back("t", "second")
    after = await plain.hgetall(STATE)
    assert {field: value for field, value in after.items() if field[:1] != b"n"} == {
        field: value for field, value in before.items() if field[:1] != b"n"
    }
