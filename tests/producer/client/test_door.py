"""What clients refuse before it is queued: never more than LangGraph itself."""

import pytest

from langgraph_rq import AsyncClient, InvalidTaskError
from langgraph_rq.producer.client import door
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.graphs.input_keys import graph_input
from tests.fleet import one_node_graph, worker
from tests.graph_inputs import GRAPHS, REFUSED, REFUSED_AT_THE_DOOR, TAKEN, Model, Typed, nothing
from tests.waiting import until


@pytest.fixture
async def client(redis_url):
    async with AsyncClient(redis_url) as client:
        yield client


@pytest.fixture
async def fleet(redis_url, redis_client):
    async with worker(redis_url, GRAPHS, checkpoints=True) as one:
        await until(lambda: redis_client.hlen("agent:graph_inputs"))
        yield one


@pytest.mark.usefixtures("fleet")
async def test_input_that_langgraph_takes_is_queued_and_run(client):
    for graph, given in TAKEN:
        await GRAPHS[graph].ainvoke(given)
        receipt = await client.submit(given, graph=graph)
        assert (await client.wait(receipt.task_id, 30)).status is State.SUCCESS, (graph, given)


@pytest.mark.usefixtures("fleet")
async def test_input_that_langgraph_refuses_is_refused_at_the_door_or_by_the_worker(client, redis_client):
    for graph, given, words in REFUSED:
        result = await client.wait((await client.submit(given, graph=graph)).task_id, 30)
        assert result.error.type is ErrorType.INVALID_INPUT
        assert result.error.message.startswith(words)
    known = redis_client.dbsize()
    for graph, given, words in REFUSED_AT_THE_DOOR:
        with pytest.raises(Exception, match=r"\w"):
            await GRAPHS[graph].ainvoke(given)
        with pytest.raises(InvalidTaskError) as refused:
            await client.submit(given, graph=graph)
        assert str(refused.value).startswith(words)
    assert redis_client.dbsize() == known


@pytest.mark.usefixtures("fleet")
async def test_key_that_the_graph_does_not_take_is_a_warning_as_langgraph_ignores_it(client):
    receipt = await client.submit({"qery": "x", "n": 1, "z": None}, graph="typed")
    assert receipt.warnings == (
        "input.qery: unknown field (did you mean query?); the graph ignores it",
        "input.z: unknown field, known: n, query; the graph ignores it",
    )
    many = await client.submit({f"key{i}": i for i in range(9)}, graph="typed")
    assert (len(many.warnings), many.warnings[-1]) == (6, "input: 4 more unknown fields")
    assert (await client.submit({"n": 1}, graph="typed")).warnings == ()


@pytest.mark.usefixtures("fleet")
async def test_one_refused_input_among_many_keeps_all_from_the_queue(client, redis_client):
    documents = [{"input": {"n": 1}, "graph": "model"}, {"input": {"n": {}}, "graph": "model"}]
    with pytest.raises(InvalidTaskError, match=r"^input\.n: expected a string or a number") as refused:
        await client.submit_many(documents)
    assert refused.value.position == 1
    assert not redis_client.exists("agent:open")


async def test_graph_that_no_worker_announced_is_not_judged(client, redis_client):
    assert (await client.submit([1], graph="typed")).warnings == ()
    redis_client.set("agent:graph_inputs", "of another type")
    assert (await client.submit([1], graph="typed", task_id="t2")).created


async def test_refusal_rests_on_the_newest_announcement_and_a_warning_on_one_of_the_last_seconds(
    redis_url, client, redis_client, monkeypatch
):
    async def announce(state) -> None:
        graph = one_node_graph(nothing, state)
        announcement = graph_input(graph).announcement()
        async with worker(redis_url, {"g": graph}):
            await until(lambda: redis_client.hget("agent:graph_inputs", "g") == announcement)
        assert redis_client.hexists("agent:graph_inputs", "g"), "it holds for a day after its worker"

    await announce(Model)
    with pytest.raises(InvalidTaskError):
        await client.submit({"query": 7}, graph="g")
    await announce(Typed)
    assert (await client.submit({"query": 7}, graph="g")).created
    await announce(dict)
    assert (await client.submit({"z": 7}, graph="g")).warnings
    monkeypatch.setattr(door, "_KEPT_S", 0.0)
    assert not (await client.submit({"z": 7}, graph="g")).warnings


@pytest.mark.usefixtures("fleet")
async def test_answers_to_an_interrupt_are_no_input(client):
    with pytest.raises(InvalidTaskError, match=r"^input: expected at least one of topic, got: an empty object$"):
        await client.submit({}, graph="bare")
    assert (await client.submit({}, graph="bare", resume={"answers": {"0" * 32: 1}})).created


async def test_announcement_that_was_lost_is_written_again_by_a_renewal(fleet, redis_client):
    lost = redis_client.hgetall("agent:graph_inputs")
    redis_client.delete("agent:graph_inputs")
    await until(lambda: redis_client.hgetall("agent:graph_inputs") == lost)
    assert fleet.is_held
