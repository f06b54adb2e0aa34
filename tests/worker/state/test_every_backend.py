"""What threads may rely on wherever state is kept. Beside this: what they show (scenarios.py), test_rollback.py."""

import asyncio
import math
import time
from contextlib import suppress
from secrets import token_hex

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base import id as ids
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from langgraph_rq.worker.state.project_checkpointer import adopted
from tests.worker.state import backends
from tests.worker.state.scenarios import LONG, Deltas, Seen, Steps, ask, chain, step, talk, thread

HOUR_NS = 3600 * 10**9


@pytest.fixture(params=backends.ALL)
def backend(request):
    return backends.of(request)


@pytest.fixture(params=backends.EXACT)
def exact(request):
    return backends.of(request)


@pytest.fixture
async def pruning(exact):
    """A backend that copies, and tells namespaces apart."""
    return exact()


@pytest.fixture
async def opened(backend):
    backend = backend()
    if setup := getattr(backend.saver, "asetup", None):
        await setup()
    return backend


class Both(Steps, Deltas):
    """A list that grows, a delta channel, and values that stay."""


async def put(saver, config=None, n=0):
    """Write a checkpoint with two long values that belong together."""
    values = {"a": f"{n} {LONG}", "b": f"{n} {LONG[::-1]}"}
    versions = dict.fromkeys(values, saver.get_next_version(None, None))
    checkpoint = {**empty_checkpoint(), "channel_values": values, "channel_versions": versions}
    return await saver.aput(config or thread(checkpoint_ns=""), checkpoint, {"step": n}, versions)


def number_of(found):
    """Return which of the checkpoints that `put` wrote was found, as a whole."""
    a, b = (found.checkpoint["channel_values"][name].partition(" ") for name in "ab")
    assert (a[0], a[2], b[2]) == (b[0], LONG, LONG[::-1])
    return int(a[0])


async def test_unchanged_and_delta_channels_live_on_as_long_as_the_thread_is_written_to(opened):
    graph = chain(talk, step("one"), of=Both).compile(checkpointer=opened.saver)
    await graph.ainvoke({"messages": ["question"], "count": 0, "steps": [], "note": LONG}, thread())
    for number in range(3):
        await opened.shorten()
        if isinstance(opened, backends.RedisStack):
            await opened.saver.begin("t")  # as a task does; the others need no more than a write
        await graph.ainvoke({"messages": [f"question {number}"], "count": 0}, thread())
        history = await Seen().history(graph, thread())
        await opened.let_pass()
        assert await Seen().history(graph, thread()) == history
    values = (await graph.aget_state(thread())).values
    assert (values["note"], len(values["messages"]), len(values["steps"])) == (LONG, 8, 4)


NAMES = ["t", "t:", "t::", "0::t", "t:a", "t%3A", "t*", "t?[x]", "T", "ü", "|", "t" * 240]


async def test_ids_of_threads_that_look_alike_do_not_collide(opened):
    for number, name in enumerate(NAMES):
        await put(opened.saver, thread(name, checkpoint_ns=""), number)
    for number, name in enumerate(NAMES):
        config = thread(name, checkpoint_ns="")
        assert number_of(await opened.saver.aget_tuple(config)) == number
        assert [number_of(one) async for one in opened.saver.alist(config)] == [number]
    await opened.saver.expire_thread("t", 0)
    left = [await opened.saver.aget_tuple(thread(name, checkpoint_ns="")) for name in NAMES]
    assert [one is None for one in left] == [name == "t" for name in NAMES]


async def test_namespaces_that_look_alike_do_not_collide(pruning):
    places = [("t", ""), ("t", ":"), ("t", "0::"), ("t", "a"), ("t", "a:b"), ("t:a", "b"), ("t", "1:a:"), ("t", "a|b")]
    for number, (name, namespace) in enumerate(places):
        await put(pruning.saver, thread(name, checkpoint_ns=namespace), number)
    for number, (name, namespace) in enumerate(places):
        config = thread(name, checkpoint_ns=namespace)
        assert [number_of(one) async for one in pruning.saver.alist(config)] == [number]


async def test_reader_sees_a_thread_as_it_is_between_two_writes_and_never_half_of_one(opened):
    reader, seen = opened.open(), []
    first = await put(opened.saver)

    async def write():
        config = first
        for number in range(1, 25):
            await opened.saver.aput_writes(config, [("a", number), ("b", number)], "task")
            config = await put(opened.saver, config, number)

    writing = asyncio.create_task(write())
    while not writing.done():
        found = await reader.aget_tuple(thread(checkpoint_ns=""))
        assert found.pending_writes in ([], [("task", "a", number_of(found) + 1), ("task", "b", number_of(found) + 1)])
        listed = [number_of(one) async for one in reader.alist(thread(checkpoint_ns=""))]
        assert listed == [*range(listed[0], -1, -1)]
        seen += [number_of(found), listed[0]]
    await writing
    assert seen == sorted(seen)
    assert number_of(await reader.aget_tuple(thread(checkpoint_ns=""))) == 24


async def test_two_writers_of_one_task_leave_what_one_of_them_wrote(opened):
    savers = opened.saver, opened.open()
    config = await put(opened.saver)
    writes = (savers[n % 2].aput_writes(config, [("a", n), ("b", n)], "task", "path") for n in range(20))
    await asyncio.gather(*writes)
    (_, a, one), (_, b, other) = (await opened.saver.aget_tuple(config)).pending_writes
    assert (a, b, one) == ("a", "b", other)


async def test_put_that_dies_half_way_leaves_the_whole_checkpoint_or_none(opened):
    reader = opened.open()
    number = pauses = last = 0
    config = await put(opened.saver)
    is_done = False
    while not is_done:
        number += 1
        putting = asyncio.create_task(put(opened.saver, config, number))
        for _ in range(pauses):
            await asyncio.sleep(0)
        is_done = putting.done()
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        await put(opened.saver, config, number + 1)  # comes after all that the other one has sent
        listed = [number_of(one) async for one in reader.alist(thread(checkpoint_ns=""))]
        assert set(listed) - {number} <= {*range(number + 2)}
        assert len(listed) == len(set(listed))
        number, pauses, last = number + 1, pauses + 1, listed[0]
    assert last == number


def of_all_kinds(saver):
    """A graph with a delta channel, a subgraph that remembers, and one of which each call has its own namespace."""
    remembers = chain(step("inner")).compile(checkpointer=True, name="remembers")
    asks = chain(step("before", note=LONG), ask).compile(name="asks")
    return chain(talk, remembers, asks, of=Both).compile(checkpointer=saver)


async def test_pruned_thread_shows_the_same_state_and_goes_on(opened):
    pruning, graphs = opened, (of_all_kinds(opened.saver), of_all_kinds(InMemorySaver()))
    for number in range(4):
        given = {"messages": [f"question {number}"], "count": 0, "steps": []}
        asked = [await graph.ainvoke(given, thread(), durability="sync") for graph in graphs]
        assert [end.pop("__interrupt__")[0].value for end in asked] == [{"asked after": len(asked[0]["steps"]) + 1}] * 2
        before = len([one async for one in pruning.saver.alist(thread())])
        shown = Seen().state(await graphs[0].aget_state(thread(), subgraphs=True))
        await pruning.saver.aprune(["t"])
        assert Seen().state(await graphs[0].aget_state(thread(), subgraphs=True)) == shown
        left = [one async for one in pruning.saver.alist(thread())]
        spaces = [one.config["configurable"]["checkpoint_ns"].partition(":")[0] for one in left]
        assert len(left) < before
        assert spaces.count("remembers") == 1
        ends = [await graph.ainvoke(Command(resume=f"{number}"), thread(), durability="sync") for graph in graphs]
        assert (asked[0], ends[0]) == (asked[1], ends[1])


@pytest.mark.parametrize("note", ["short", token_hex(40_000)], ids=["small", "large"])
async def test_turn_of_a_worker_whose_clock_is_behind_comes_after_the_turn_before(opened, monkeypatch, note):
    await take_turns_on_workers_whose_clocks_are_behind(opened.open, monkeypatch, note)


async def test_turn_of_a_worker_whose_clock_is_behind_is_not_lost_with_a_checkpointer_of_the_project(monkeypatch):
    async with AsyncSqliteSaver.from_conn_string(":memory:") as own:
        await take_turns_on_workers_whose_clocks_are_behind(lambda: adopted(own, lambda: False), monkeypatch, "short")


async def take_turns_on_workers_whose_clocks_are_behind(open_saver, monkeypatch, note):
    now_ns, ahead_ns = time.time_ns, [HOUR_NS]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + ahead_ns[0])

    def another_worker():
        monkeypatch.setattr(ids, "_last_v6_timestamp", None)
        ahead_ns[0] -= HOUR_NS
        return chain(chain(step("inner")).compile(checkpointer=True, name="inner"), step("end")).compile(
            checkpointer=open_saver()
        )

    async def turn(graph, config=None, **more):
        await graph.checkpointer.begin("t")
        return await graph.ainvoke({"steps": ["turn"], **more}, config or thread(), durability="sync")

    ahead_ns[0] += HOUR_NS
    first = await turn(another_worker(), note=note)
    graph = another_worker()
    end = await turn(graph)
    assert (await graph.aget_state(thread())).values == end
    assert end["steps"][: len(first["steps"])] == first["steps"]
    history = [state.values.get("steps", []) async for state in graph.aget_state_history(thread())]
    assert history[0] == end["steps"]
    oldest = [state async for state in graph.aget_state_history(thread())][-2]
    forked = await turn(another_worker(), oldest.config)
    assert (await graph.aget_state(thread())).values == forked


class DiedError(Exception):
    """Stands for a process that is killed: no outage, which would be waited for."""


async def test_copy_that_dies_between_two_steps_leaves_no_checkpoint_and_what_it_leaves_expires(pruning, monkeypatch):
    graph = of_all_kinds(pruning.saver)
    await graph.ainvoke({"messages": ["question"], "count": 0, "steps": []}, thread())
    steps, run, left = pruning.steps, getattr(*pruning.steps), math.inf

    async def run_few(*args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise DiedError
        return await run(*args, **options)

    monkeypatch.setattr(*steps, run_few)
    shown = await Seen().history(graph, thread())
    copies, number = [], 0
    while number not in copies:
        left, number = number, number + 1
        with suppress(DiedError):
            await pruning.saver.acopy_thread("t", f"copy {number}")
            copies.append(number)
        left = math.inf
        assert await Seen().history(graph, thread(f"copy {number}")) in ([], shown)
        assert await pruning.left_for_ever() == []
    assert await Seen().history(graph, thread(f"copy {number}")) == shown
