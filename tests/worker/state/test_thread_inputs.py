"""The checkpoint of a task's input, which is saved beside its first node, and what else a task begins with."""

import asyncio
import gc
import os
from types import SimpleNamespace

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.func import entrypoint
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.records.ledger import Ledger
from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.saver.thread_writes import NewCheckpoint
from tests.waiting import until
from tests.worker.state.scenarios import LONG, chain, step, thread

STATE, INDEX = "agent:thread_state:t", "agent:thread_index:t"
TOKEN = 1_764_000_000_000_000


def saver_of(plain, **more) -> ThreadSaver:
    return ThreadSaver(plain, token=lambda _thread: TOKEN, **more)


async def put(saver, name="t", source="input", value=None, **config):
    checkpoint = {**empty_checkpoint(), "channel_values": {"a": value}, "channel_versions": {"a": 1}}
    return await saver.aput(thread(name, checkpoint_ns="", **config), checkpoint, {"source": source}, {"a": 1})


def guard(**more) -> TaskGuard:
    guards = SimpleNamespace(loops=SimpleNamespace(deliver_in_background=lambda _call, _done: None))
    return TaskGuard(guards, thread="t", token=TOKEN, **more)


async def failure_of(work) -> Exception | None:
    (failure,) = await asyncio.gather(work, return_exceptions=True)
    return failure


def fail_saves(saver, monkeypatch):
    async def save(_writer, _what):
        raise RedisConnectionError("away")

    monkeypatch.setattr(saver._threads._writes, "save", save)


async def test_call_that_is_made_once_is_not_forgotten_with_the_checkpoint_of_the_input(plain):
    saver, is_known = saver_of(plain), []

    @entrypoint(checkpointer=saver)
    async def refund(_value):
        ledger = current_task.get().ledger
        key = ledger.key("refund", {"amount": 1})
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "aput" in repr(task.get_coro())))
        is_known.append(key in ledger._calls)
        return LONG

    for value in ("first", "second"):
        before = current_task.set(guard(ledger=Ledger("t", None)))
        await refund.ainvoke(value, thread(), durability="sync")
        current_task.reset(before)
    assert is_known == [True, True]


async def test_call_that_is_made_once_is_not_forgotten_with_the_checkpoint_of_the_step_before(plain, monkeypatch):
    """With `async` that is saved while the node runs, behind which there is none yet."""
    saver, reader, ledger, keys = saver_of(plain), ThreadSaver(plain), Ledger("t", None), []
    is_made = asyncio.Event()
    saver_save = saver._threads._writes.save

    async def save(writer, what):
        await is_made.wait()
        return await saver_save(writer, what)

    async def is_saved():
        found = await reader.aget_tuple(thread())
        return found and found.metadata["step"] == 1

    async def refund(_state):
        keys.append(ledger.key("refund", {"amount": 1}))
        is_made.set()
        await until(is_saved)
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "aput" in repr(task.get_coro())))
        assert set(ledger._calls) == set(keys)
        keys.append(ledger.key("refund", {"amount": 1}))
        return {"steps": ["refund"]}

    monkeypatch.setattr(saver._threads._writes, "save", save)
    before = current_task.set(guard(ledger=ledger))
    await chain(step("one"), refund).compile(checkpointer=saver).ainvoke({"steps": []}, thread(), durability="async")
    current_task.reset(before)
    assert len(set(keys)) == 2
    assert ledger._calls == {}


async def test_threads_of_a_run_are_known_as_long_as_what_it_wrote(plain):
    saver = saver_of(plain)
    await saver.begin("t")
    await put(saver, source="loop", run_id="r")
    for key in (STATE, INDEX, "agent:run_threads:r"):
        await plain.pexpire(key, 3_600_000)
    await saver.begin("t")
    await put(saver, source="loop", run_id="r")
    assert await plain.pttl("agent:run_threads:r") >= await plain.pttl(STATE) - 60_000


async def test_input_is_not_written_after_the_end_of_its_task(plain, monkeypatch):
    saver, task = saver_of(plain), guard()
    is_asked, is_back = asyncio.Event(), asyncio.Event()
    saver_save = saver._threads._writes.save

    async def save(writer, what):
        if not is_back.is_set():
            is_asked.set()
            await is_back.wait()
            raise RedisConnectionError("away")
        return await saver_save(writer, what)

    monkeypatch.setattr(saver._threads._writes, "save", save)
    before = current_task.set(task)
    saver.begin_new("t")
    await put(saver)
    await is_asked.wait()
    task.is_over = True
    is_back.set()
    with pytest.raises(CheckpointFencedError):
        await saver.input_is_saved("t")
    current_task.reset(before)
    assert not await plain.exists(STATE)


@pytest.mark.parametrize("is_joined", [True, False])
async def test_no_write_is_saved_before_the_input_that_an_outage_delays(plain, monkeypatch, is_joined):
    saver, is_asked, is_back, saved = saver_of(plain), asyncio.Event(), asyncio.Event(), []
    connection = saver._threads._trips._connection
    exchange = connection.exchange

    async def fail_first(commands):
        if not is_asked.is_set():
            is_asked.set()
            await is_back.wait()
            raise RedisConnectionError("away")
        replies = await exchange(commands)
        saved.append({field[:1] for field in await plain.hkeys(STATE)})
        return replies

    monkeypatch.setattr(connection, "exchange", fail_first)
    writing = saver.aput_writes(await put(saver), [("a", 1)], "task")
    if is_joined:
        await asyncio.sleep(0)  # the input waits for its round trip
    else:
        await is_asked.wait()
        writing = asyncio.create_task(writing)
        await asyncio.sleep(0)
    is_back.set()
    await writing
    assert saved[-1] == {b"t", b"c", b"w"}
    assert all(b"c" in fields for fields in saved if b"w" in fields)


async def test_inputs_of_all_tasks_are_waited_for_in_an_outage(plain, monkeypatch):
    saver, is_back = saver_of(plain), asyncio.Event()
    saver_save = saver._threads._writes.save

    async def save(writer, what):
        await is_back.wait()
        return await saver_save(writer, what)

    monkeypatch.setattr(saver._threads._writes, "save", save)
    for number in range(520):
        await put(saver, f"t{number}")
    waiting = asyncio.create_task(saver.input_is_saved("t0"))
    await asyncio.sleep(0)
    assert not waiting.done()
    is_back.set()
    await waiting
    await saver.finish(30)  # the others, with the connection that they are sent on


async def test_input_that_could_not_be_saved_is_not_held_in_memory(plain, monkeypatch):
    saver = saver_of(plain, patience_s=0.0)
    fail_saves(saver, monkeypatch)
    for number in range(20):
        await put(saver, f"t{number}")
        assert isinstance(await failure_of(saver.input_is_saved(f"t{number}")), CheckpointOutageError)
    gc.collect()
    assert sum(isinstance(one, NewCheckpoint) for one in gc.get_objects()) <= 1


async def test_large_state_is_read_when_it_is_asked_for_and_not_with_the_beginning(plain):
    async def fields_read(name):
        before = (await plain.info("commandstats"))["cmdstat_hget"]["calls"]
        assert await saver.begin(name)
        return (await plain.info("commandstats"))["cmdstat_hget"]["calls"] - before

    saver = saver_of(plain)
    value = os.urandom(1_000_000)
    config = await put(saver, source="loop", value=value)
    await put(saver, "small", source="loop", value=value[:1_000])
    before = (await plain.info("stats"))["total_net_output_bytes"]
    assert await fields_read("t") < await fields_read("small")
    assert (await plain.info("stats"))["total_net_output_bytes"] - before < 100_000
    found = await saver.aget_tuple(thread())
    assert (found.config, found.checkpoint["channel_values"]["a"]) == (config, value)
