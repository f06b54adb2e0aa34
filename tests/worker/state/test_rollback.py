"""A task that is rolled back leaves its thread as it was, wherever state is kept.

Redis and Postgres remove what the task wrote. Where the checkpointer cannot tell what that was, the state before the
task is put on top again.
"""

import asyncio

import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, interrupt

from langgraph_rq import AsyncClient, State
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.worker.graphs.graphs import LoadedGraph
from langgraph_rq.worker.graphs.input_keys import graph_input
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.postgres import statements
from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.project_checkpointer import adopted
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.task.rollback import take_back
from tests.fleet import worker
from tests.worker.state import backends
from tests.worker.state.backends import Postgres
from tests.worker.state.scenarios import LONG, Deltas, Seen, Steps, ask, chain, step, talk, thread

CLAIMED = 1_764_000_000_000_000


@pytest.fixture(params=backends.EXACT)
def backend(request):
    return backends.of(request)


@pytest.fixture
async def exact(backend):
    """A backend that removes what a task wrote, and nothing else."""
    return backend()


@pytest.fixture
async def own():
    """A checkpointer of the project's own."""
    async with AsyncSqliteSaver.from_conn_string(":memory:") as sqlite:
        yield adopted(sqlite, lambda: False)


@pytest.fixture
async def library(stack):
    """The checkpointer of redis-stack."""
    saver = Checkpointer(stack)
    await saver.asetup()
    return saver


@pytest.fixture(params=["library", "own"])
def copying(request):
    """A checkpointer that cannot tell what a task wrote."""
    return request.getfixturevalue(request.param)


def of(task_id):
    return thread(task_id=task_id, run_id=task_id)


async def roll_back(saver, graph, task_id, **fields):
    task = Task.parse({"input": {}, "task_id": task_id, "thread_id": "t", **fields}, TaskLimits())
    await take_back(task, LoadedGraph("g", graph, graph_input(graph)), saver)


def nested(of_state=Steps):
    inner = chain(step("inner one", note=LONG), step("inner two")).compile(name="inner")
    return chain(step("one"), inner, step("end"), of=of_state)


async def twice(state):
    """Ask two questions."""
    return {"steps": [interrupt("first?"), interrupt("second?")]}


async def thrice(state):
    """Ask three questions, in a subgraph."""
    return {"steps": [interrupt("first?"), interrupt("second?"), interrupt("third?")]}


GRAPHS = {
    "values, and a subgraph of calls": lambda: (nested(), {"steps": ["input"], "note": LONG[::-1]}),
    "a delta channel": lambda: (chain(talk, of=Deltas), {"messages": ["question"], "count": 0}),
    "a subgraph that remembers": lambda: (
        chain(chain(step("inner")).compile(checkpointer=True, name="inner"), step("end")),
        {"steps": ["input"]},
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_rolled_back_task_leaves_what_is_seen_and_what_is_kept_as_they_were(exact, kind, durability):
    builder, given = GRAPHS[kind]()
    graph = builder.compile(checkpointer=exact.saver)
    for number in range(3):
        await graph.ainvoke(given, of(f"task-{number}"), durability="sync")
    seen, kept = await Seen().history(graph, thread()), await exact.kept()
    await graph.ainvoke(given, of("rolled-back"), durability=durability)
    assert await exact.kept() != kept
    for _ in range(2):
        await roll_back(exact.saver, graph, "rolled-back")
        assert await Seen().history(graph, thread()) == seen
        assert await exact.kept() == kept
    await graph.ainvoke(given, of("next"), durability="sync")
    assert len(await Seen().history(graph, thread())) > len(seen)


async def test_first_task_of_a_thread_leaves_nothing(exact):
    graph = nested().compile(checkpointer=exact.saver)
    await graph.ainvoke({"steps": ["input"]}, of("first"), durability="sync")
    await roll_back(exact.saver, graph, "first")
    assert await exact.saver.aget_tuple(thread()) is None
    assert not any(await exact.kept())


async def test_fork_is_rolled_back_and_the_branch_before_it_stays(exact):
    graph = chain(talk, of=Deltas).compile(checkpointer=exact.saver)
    for number in range(5):
        await graph.ainvoke({"messages": [f"question {number}"], "count": 0}, of(f"task-{number}"), durability="sync")
    seen, kept = await Seen().history(graph, thread()), await exact.kept()
    states = [state async for state in graph.aget_state_history(thread())]
    fork = states[7].config
    fork["configurable"] |= of("fork")["configurable"]
    await graph.ainvoke({"messages": ["another"], "count": 0}, fork, durability="sync")
    await roll_back(exact.saver, graph, "fork")
    assert await Seen().history(graph, thread()) == seen
    assert await exact.kept() == kept


@pytest.mark.parametrize("node", [ask, twice, thrice])
async def test_answer_is_taken_back_and_the_question_before_it_is_asked_again(exact, node):
    inner = chain(step("before"), node).compile(name="inner")
    graph = chain(step("one"), inner, step("end")).compile(checkpointer=exact.saver)
    await graph.ainvoke({"steps": ["start"]}, of("asks"), durability="sync")
    asked = ["first?", "second?", "third?"] if node is not ask else [{"asked after": 3}]
    for number in range({"ask": 1, "twice": 2, "thrice": 3}[node.__name__]):
        seen, kept = await Seen().history(graph, thread()), await exact.kept()
        assert [one.value for one in (await graph.aget_state(thread())).interrupts] == [asked[number]]
        for answer in (f"no-{number}", f"never-{number}"):
            await graph.ainvoke(Command(resume=answer), of(f"task-{answer}"), durability="sync")
            await roll_back(exact.saver, graph, f"task-{answer}")
            assert await Seen().history(graph, thread()) == seen
            assert await exact.kept() == kept
        await graph.ainvoke(Command(resume=f"yes {number}"), of(f"answers-{number}"), durability="sync")
    state = await graph.aget_state(thread())
    assert state.next == ()
    assert [one for one in state.values["steps"] if one.startswith(("yes", "no", "never"))] == [
        f"yes {number}" for number in range({"ask": 1, "twice": 2, "thrice": 3}[node.__name__])
    ]


async def test_checkpointer_that_cannot_tell_puts_the_state_before_the_task_on_top_again(copying):
    graph = nested().compile(checkpointer=copying)
    await graph.ainvoke({"steps": ["input"], "note": LONG}, of("first"), durability="sync")
    before = await graph.aget_state(thread())
    await graph.ainvoke({"steps": ["late"], "note": "short"}, of("rolled-back"), durability="sync")
    for _ in range(2):
        await roll_back(copying, graph, "rolled-back")
        after = await graph.aget_state(thread())
        assert (after.values, after.next) == (before.values, ())
    end = await graph.ainvoke({"steps": ["next"]}, of("next"), durability="sync")
    assert "late" not in end["steps"]


async def test_rollback_of_a_worker_that_lost_the_task_removes_nothing(postgres):
    zombie, owner = (PostgresSaver(postgres, token=lambda _, at=at: CLAIMED + at) for at in range(2))
    await zombie.begin("t")
    await chain(step("one")).compile(checkpointer=zombie).ainvoke({"steps": []}, of("task"), durability="sync")
    await owner.begin("t")
    kept = await Postgres(postgres).kept()
    with pytest.raises(CheckpointFencedError):
        await zombie.roll_back("t", "task")
    assert await Postgres(postgres).kept() == kept
    await owner.roll_back("t", "task")
    assert not any(await Postgres(postgres).kept())


@pytest.mark.parametrize("turns_before", [0, 2])
async def test_cancelled_task_of_a_worker_with_state_in_postgres_leaves_its_thread_as_it_was(
    redis_url, postgres, turns_before
):
    staying = asyncio.Event()

    async def stay(state):
        if state.get("note") == "stay":
            staying.set()
            await asyncio.Event().wait()
        return {"steps": ["stay"]}

    saver = PostgresSaver(postgres, token=token_of)
    inner = chain(step("inner"), stay).compile(name="inner")
    graph = chain(step("one"), inner).compile()
    async with worker(redis_url, {"g": graph}, checkpointer=saver), AsyncClient(redis_url) as client:
        ends = []
        for name in ["t"] * turns_before + ["control"] * (turns_before + 1):
            task = await client.submit({"steps": []}, graph="g", thread_id=name)
            ends.append(await client.wait(task.task_id, 20))
        kept = await Postgres(postgres).kept()
        task = await client.submit({"steps": [], "note": "stay"}, graph="g", thread_id="t")
        await staying.wait()
        assert await Postgres(postgres).kept() != kept
        await client.cancel(task.task_id, rollback=True)
        assert (await client.wait(task.task_id, 20)).status is State.CANCELLED
        assert await Postgres(postgres).kept() == kept
        task = await client.submit({"steps": []}, graph="g", thread_id="t")
        assert (await client.wait(task.task_id, 20)).result == ends[-1].result


async def test_write_during_a_rollback_makes_it_begin_anew(postgres, monkeypatch):
    saver = PostgresSaver(postgres)
    graph = chain(step("one")).compile(checkpointer=saver)
    await graph.ainvoke({"steps": []}, of("first"), durability="sync")
    kept = await Postgres(postgres).kept()
    await graph.ainvoke({"steps": []}, of("rolled-back"), durability="sync")
    write, late = saver.write, iter(range(2))

    async def disturbed(statement, *args, **parameters):
        if statement == statements.DROP:
            for _ in late:
                await PostgresSaver(postgres).aput_writes((await saver.aget_tuple(thread())).config, [("a", 1)], "node")
                break
        return await write(statement, *args, **parameters)

    monkeypatch.setattr(saver, "write", disturbed)
    await saver.roll_back("t", "rolled-back")
    assert list(late) == []
    assert await Postgres(postgres).kept() == kept
