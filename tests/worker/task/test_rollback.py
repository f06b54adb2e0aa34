"""Threads whose checkpointer cannot remove what one task wrote: the state before the task is put on top again."""

import operator
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.worker.graphs.graphs import LoadedGraph
from langgraph_rq.worker.graphs.input_keys import graph_input
from langgraph_rq.worker.task.invocation.start import thread_config
from langgraph_rq.worker.task.rollback import go_back
from tests.fleet import one_node_graph


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def task(task_id):
    return Task.parse({"input": {}, "task_id": task_id, "thread_id": "t"}, TaskLimits())


async def node(_state):
    return {"steps": ["node"]}


async def test_state_before_a_task_is_put_on_top_again_and_the_first_one_leaves_nothing():
    saver = InMemorySaver()
    graph = one_node_graph(node, Steps).copy({"checkpointer": saver})
    loaded = LoadedGraph("g", graph, graph_input(graph))
    first, second = task("first"), task("second")
    for one in (first, second):
        await graph.ainvoke({"steps": [one.task_id]}, thread_config(one))
    for _ in range(2):
        await go_back(second, loaded, saver)
        assert (await graph.aget_state(thread_config(first))).values == {"steps": ["first", "node"]}
    saver.delete_thread("t")
    await graph.ainvoke({"steps": ["first"]}, thread_config(first))
    await go_back(first, loaded, saver)
    assert (await graph.aget_state(thread_config(first))).values == {}


async def test_task_that_wrote_nothing_leaves_its_thread_as_it_is():
    saver = InMemorySaver()
    graph = one_node_graph(node, Steps).copy({"checkpointer": saver})
    await graph.ainvoke({"steps": ["first"]}, thread_config(task("first")))
    before = await graph.aget_state(thread_config(task("first")))
    await go_back(task("second"), LoadedGraph("g", graph, graph_input(graph)), saver)
    assert await graph.aget_state(thread_config(task("first"))) == before


async def test_thread_whose_state_before_the_task_is_not_listed_is_not_deleted():
    class ShortSaver(InMemorySaver):
        async def alist(self, config, **options):
            async for found in super().alist(config, **{**options, "limit": 2}):
                yield found

    saver = ShortSaver()
    graph = one_node_graph(node, Steps).copy({"checkpointer": saver})
    for one in ("first", "second"):
        await graph.ainvoke({"steps": [one]}, thread_config(task(one)))
    with pytest.raises(LookupError):
        await go_back(task("second"), LoadedGraph("g", graph, graph_input(graph)), saver)
    assert (await graph.aget_state(thread_config(task("first")))).values["steps"][0] == "first"
