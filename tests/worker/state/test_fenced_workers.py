"""Tokens on their way from a claim to the checkpoints of a worker."""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_rq import State
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.worker.guards.task_guard import current_task, token_of
from tests import fleet

STATE = "agent:thread_state:th"


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def one_node(node):
    return StateGraph(Steps).add_node("node", node).add_edge(START, "node").add_edge("node", END).compile()


async def test_thread_has_the_token_of_the_task_that_ran_last(redis_url, client, redis_client):
    tokens = []

    async def node(_state):
        tokens.append((token_of("th"), token_of("another thread")))
        return {"steps": ["node"]}

    async with fleet.worker(redis_url, {"g": one_node(node)}, checkpoints=True):
        for _ in range(2):
            await fleet.ended(client, client.submit({"steps": []}, graph="g", thread_id="th").task_id)
    assert tokens[0][0] < tokens[1][0] == int(redis_client.hget(STATE, "t"))
    assert [other for _, other in tokens] == [None, None]


async def test_refused_run_that_owns_its_task_comes_back_with_a_higher_token(redis_url, client, redis_client):
    """As after a failover of the Redis that claims, whose tokens are behind those of the Redis with the checkpoints."""
    runs = []

    async def node(_state):
        runs.append(current_task.get().token)
        if len(runs) == 1:
            redis_client.hincrby(STATE, "t", 1)
        return {"steps": ["node"]}

    async with fleet.worker(redis_url, {"g": one_node(node)}, checkpoints=True, times=QueueTimes(lease_ms=2_000)):
        result = await fleet.ended(client, client.submit({"steps": ["input"]}, graph="g", thread_id="th").task_id)
    assert (result.status, result.result) == (State.SUCCESS, {"steps": ["input", "node"]})
    assert len(runs) == 2
