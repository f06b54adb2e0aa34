"""What a turn of a conversation reads: what its thread holds is built once, whatever looks at it first."""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypedDict

import pytest

from langgraph_rq import State
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.saver.lent import Lent
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests import fleet


@dataclass
class Note:
    text: str
    built: ClassVar[int] = 0

    def __post_init__(self):
        Note.built += 1


class Notes(TypedDict, total=False):
    notes: Annotated[list[Note], operator.add]
    n: int
    seen: int


async def count(state: Notes):
    return {"seen": len(state.get("notes", [])), "notes": [Note("x" * state["n"])]}


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
async def test_turn_builds_the_state_of_its_thread_once(redis_url, client, size):
    graph = fleet.one_node_graph(count, Notes)
    async with fleet.worker(redis_url, {"g": graph}, checkpoints=True):
        for turn in range(4):
            Note.built = 0
            task = client.submit({"n": size}, graph="g", thread_id="t")
            result = await asyncio.to_thread(client.wait, task.task_id, 20)
            assert (result.status, result.result["seen"]) == (State.SUCCESS, turn)
            assert Note.built == turn + 1  # and the one that its node makes


async def test_nothing_stays_lent_to_a_task_that_does_not_run(redis_url, aredis, client):
    saver = ThreadSaver(aredis, token=token_of, is_beside_tasks=True)
    async with fleet.worker(redis_url, {"g": fleet.one_node_graph(count, Notes)}, checkpointer=saver):
        for options, status in [({}, State.SUCCESS), ({"checkpoint_id": "unknown"}, State.ERROR)]:
            task = client.submit({"n": 1}, graph="g", thread_id="t", **options)
            assert (await asyncio.to_thread(client.wait, task.task_id, 20)).status is status
    assert not len(saver.lent)


@pytest.fixture
def lent():
    """For two threads: `t` with a running task, and `idle`."""
    return Lent({"t": 7, "idle": ""}.get)


def test_what_is_lent_is_handed_on_once(lent):
    lent.lend("t", "a checkpoint")
    assert [lent.take(thread) for thread in ("idle", "t", "t")] == [None, "a checkpoint", None]


def test_what_is_forgotten_is_not_handed_on(lent):
    lent.lend("t", "a checkpoint")
    lent.forget("t")
    assert lent.take("t") is None


def test_what_was_lent_to_an_earlier_attempt_is_not_handed_on():
    tokens = iter([7, 8])
    lent = Lent(lambda _thread: next(tokens))
    lent.lend("t", "a checkpoint")
    assert lent.take("t") is None
