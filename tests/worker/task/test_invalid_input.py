"""What LangGraph refuses as input, a worker refuses; what LangGraph takes, a worker runs."""

from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.task.node_watch import NodeWatch
from tests.fleet import ended, one_node_graph, worker
from tests.graph_inputs import GRAPHS, REFUSED, REFUSED_AT_THE_DOOR, TAKEN, Careful, Model, Typed, nothing


async def check_n(_state) -> dict:
    return {"n": "x"}


class Outer(TypedDict):
    n: Any


INNER = one_node_graph(nothing, Model)


def routed(state: Any) -> str:
    return {1: "node"}[state["n"]]


@pytest.fixture(params=[False, True], ids=["plain", "with checkpoints"])
def checkpoints(request):
    return request.param


def enqueue(redis_url: str, task_id: str, **fields: Any) -> None:
    """Enqueue a job of stock RQ, which only a worker judges."""
    with Redis.from_url(redis_url) as connection:
        queue = Queue("agent_tasks", connection=connection, serializer=JSONSerializer)
        queue.enqueue("worker.run_task", {"task_id": task_id, **fields}, job_id=task_id)


async def bare(graph: str, given: Any) -> Any:
    """Run a graph on LangGraph alone."""
    return await GRAPHS[graph].ainvoke(given)


async def test_input_that_langgraph_takes_is_run(redis_url, client, checkpoints):
    async with worker(redis_url, GRAPHS, checkpoints=checkpoints):
        for number, (graph, given) in enumerate(TAKEN):
            enqueue(redis_url, f"t{number}", graph=graph, input=given)
        for number, (graph, given) in enumerate(TAKEN):
            expected = await bare(graph, given)
            result = await ended(client, f"t{number}")
            assert (result.status, result.error) == (State.SUCCESS, None), (graph, given)
            if graph != "messages":
                assert result.result == expected, (graph, given)


async def test_input_that_langgraph_refuses_ends_as_invalid_input_after_one_attempt(redis_url, client, checkpoints):
    async with worker(redis_url, GRAPHS, checkpoints=checkpoints):
        cases = [*enumerate(REFUSED + REFUSED_AT_THE_DOOR)]
        for number, (graph, given, _) in cases:
            enqueue(redis_url, f"t{number}", graph=graph, input=given, max_attempts=3)
        for number, (graph, given, words) in cases:
            with pytest.raises(Exception, match=r"\w"):
                await bare(graph, given)
            result = await ended(client, f"t{number}")
            assert (result.status, result.error.type) == (State.ERROR, ErrorType.INVALID_INPUT), (graph, given)
            assert result.error.message.startswith(words), result.error.message
            assert "\n" not in result.error.message
            assert result.metadata.attempts == 1


@pytest.mark.parametrize("watches_nodes", [True, False])
async def test_error_of_a_node_or_of_a_route_is_the_graphs_own(redis_url, client, monkeypatch, watches_nodes):
    if not watches_nodes:
        monkeypatch.setattr(NodeWatch, "of", lambda _attempt: None)

    def check(_state):
        return Careful(n=-1)

    route = StateGraph(Typed).add_node("node", nothing).add_conditional_edges(START, routed, ["node"]).compile()
    late = StateGraph(Model).add_node("first", check_n).add_node("second", nothing)
    late = late.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()
    outer = one_node_graph(INNER, Outer)
    graphs = {"check": one_node_graph(check, Typed), "route": route, "late": late, "outer": outer}
    async with worker(redis_url, graphs):
        for number, graph in enumerate(graphs):
            enqueue(redis_url, f"t{number}", graph=graph, input={"n": 2 if graph != "outer" else "x"})
            result = await ended(client, f"t{number}")
            assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR), graph


async def test_attempt_that_continues_from_its_own_checkpoint_has_no_input(redis_url, client, redis_client):
    graph = StateGraph(Model).add_node("first", check_n).add_node("second", nothing)
    graph = graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()
    async with worker(redis_url, {"late": graph}, checkpoints=True):
        for _ in range(2):
            enqueue(redis_url, "t", graph="late", input={"n": 1}, thread_id="one")
            assert (await ended(client, "t")).error.type is ErrorType.GRAPH_ERROR
            redis_client.delete("agent:task:t", "agent:result:t", "agent:events:t", "rq:job:t")
            redis_client.delete(*redis_client.keys("agent:ids:*"))


async def test_refused_input_leaves_its_thread_as_it_was(redis_url, client):
    async with worker(redis_url, GRAPHS, checkpoints=True):
        for number, (given, expected) in enumerate(
            [
                ({"n": "x"}, None),
                ({"n": 1}, {"n": 1}),
                ({"n": "x"}, None),
                ({"query": "y"}, {"n": 1, "query": "y"}),  # a part of the fields: the thread has the others
                ({"query": 3}, None),
                ({"n": 2}, {"n": 2, "query": "y"}),
            ]
        ):
            enqueue(redis_url, f"t{number}", graph="model", input=given, thread_id="one")
            result = await ended(client, f"t{number}")
            assert result.result == expected, (given, result.error)
            assert (result.error is None) == (expected is not None)


async def test_answer_to_an_interrupt_is_no_input(redis_url, client):
    async def ask(state: Model) -> dict:
        return {"n": interrupt("how many?")}

    graph = StateGraph(Model).add_node("ask", ask).add_node("node", nothing)
    graph = graph.add_edge(START, "ask").add_edge("ask", "node").add_edge("node", END).compile()
    async with worker(redis_url, {"ask": graph}, checkpoints=True):
        for answer, expected in [(3, None), ("x", ErrorType.GRAPH_ERROR)]:
            asked = client.submit({"n": 1}, graph="ask").task_id
            assert (await ended(client, asked)).status is State.INTERRUPTED
            result = await ended(client, client.resume(asked, answer).task_id)
            assert (result.error and result.error.type) == expected
