"""A plain answer that is left to LangGraph, as its question is asked anew: one question takes it, whatever happens."""

import asyncio
import operator
from typing import Annotated

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.guards.task_guard import token_of
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from tests.fleet import ended, worker
from tests.waiting import until


class Said(TypedDict, total=False):
    said: Annotated[list[str], operator.add]


def nested(nodes, **options):
    """A graph with a subgraph, whose nodes run side by side."""
    inner = StateGraph(Said)
    for name, node in nodes.items():
        inner.add_node(name, node).add_edge(START, name)
    return StateGraph(Said).add_node("inner", inner.compile(**options)).add_edge(START, "inner").compile()


@pytest.fixture
async def saver(aredis):
    return ThreadSaver(aredis, token=token_of, is_beside_tasks=True)


async def run(client, task_input, **options):
    return await ended(client, client.submit(task_input, graph="g", thread_id="t", **options).task_id)


async def update_subgraph(graph, saver):
    graph = graph.copy({"checkpointer": saver})
    state = await graph.aget_state({"configurable": {"thread_id": "t"}}, subgraphs=True)
    await graph.aupdate_state(state.tasks[0].state.config, {"said": ["changed"]})


def queue_again(redis, task_id):
    """Queue a task for a second attempt, as after a kill -9 just before its end was written."""
    redis.delete(f"agent:result:{task_id}", f"agent:events:{task_id}")
    redis.hset(task_hash(task_id), mapping={"state": "pending", "place": "queue"})
    redis.persist(f"rq:job:{task_id}")
    redis.rpush("rq:queue:agent_tasks", task_id)


def questions(result):
    return [question["value"] for question in result.result["__interrupt__"]]


async def test_answer_is_not_taken_for_a_later_question_of_the_same_node(redis_url, client, saver):
    async def ask(_state):
        return {"said": [interrupt("first?"), interrupt("second?"), interrupt("third?")]}

    graph = nested({"ask": ask})
    async with worker(redis_url, {"g": graph}, checkpointer=saver):
        assert questions(await run(client, {"said": []})) == ["first?"]
        await update_subgraph(graph, saver)
        assert questions(await run(client, None, command={"resume": "one"})) == ["second?"]
        assert questions(await run(client, None, command={"resume": "two"})) == ["third?"]
        result = await run(client, None, command={"resume": "three"})
    assert (result.status, result.result["said"]) == (State.SUCCESS, ["changed", "one", "two", "three"])


@pytest.mark.parametrize("options", [{}, {"interrupt_before": ["ask"]}], ids=["asked anew", "not asked yet"])
async def test_worker_killed_between_the_second_question_and_the_end_does_not_answer_it_with_the_first_answer(
    redis_url, client, redis_client, saver, options
):
    async def ask(_state):
        return {"said": [interrupt("first?"), interrupt("second?")]}

    graph = nested({"ask": ask}, **options)
    async with worker(redis_url, {"g": graph}, checkpointer=saver):
        await run(client, {"said": []})
        if not options:
            await update_subgraph(graph, saver)
        answered = client.submit(None, graph="g", thread_id="t", command={"resume": "one"}).task_id
        assert questions(await ended(client, answered)) == ["second?"]
        queue_again(redis_client, answered)
        again = await ended(client, answered)
        assert (questions(again), again.metadata.attempts) == (["second?"], 2)
        result = await run(client, None, command={"resume": "two"})
    assert (result.status, result.result["said"][-2:]) == (State.SUCCESS, ["one", "two"])


async def test_answer_that_a_node_has_used_is_not_given_to_another_after_a_crash(redis_url, client, aredis, saver):
    runs = []

    async def ask(_state):
        return {"said": ["used " + interrupt("first?")]}

    async def ask_later(_state):
        runs.append(1)
        if len(runs) == 2:
            await asyncio.Event().wait()
        return {"said": [interrupt("second?")]} if len(runs) > 2 else {}

    async def is_saved():
        return any(b"used one" in value for value in await aredis.hvals("agent:thread_state:t"))

    graph = nested({"ask": ask, "later": ask_later})
    async with worker(redis_url, {"g": graph}, checkpointer=saver, drain_s=0):
        assert questions(await run(client, {"said": []})) == ["first?"]
        await update_subgraph(graph, saver)
        answered = client.submit(None, graph="g", thread_id="t", command={"resume": "one"}).task_id
        await until(is_saved)
    assert client.status(answered).state is State.PENDING
    async with worker(redis_url, {"g": graph}, checkpointer=saver):
        assert questions(await ended(client, answered)) == ["second?"]
        result = await run(client, None, command={"resume": "two"})
    assert (result.status, result.result["said"]) == (State.SUCCESS, ["changed", "used one", "two"])


async def test_answer_that_a_node_has_used_is_not_given_to_another_by_a_task_that_continues_its_own(
    redis_url, client, saver
):
    has_used, runs = asyncio.Event(), []

    async def ask(_state):
        answer = interrupt("first?")
        has_used.set()
        return {"said": [answer]}

    async def fail_then_ask(_state):
        runs.append(1)
        if len(runs) == 2:
            await has_used.wait()
            raise ValueError("as a provider that is away")
        return {"said": [interrupt("second?")]} if len(runs) > 2 else {}

    graph = nested({"ask": ask, "later": fail_then_ask})
    async with worker(redis_url, {"g": graph}, checkpointer=saver):
        assert questions(await run(client, {"said": []})) == ["first?"]
        await update_subgraph(graph, saver)
        failed = await run(client, None, command={"resume": "one"})
        assert failed.status is State.ERROR
        continued = await ended(client, client.continue_(failed.task_id).task_id)
        assert questions(continued) == ["second?"]
        result = await run(client, None, command={"resume": "two"})
    assert (result.status, result.result["said"]) == (State.SUCCESS, ["changed", "one", "two"])
