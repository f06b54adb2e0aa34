"""Nodes that fork: their children are no second worker, and what becomes of them is no signal to the worker."""

import signal

import pytest

from langgraph_rq import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.fleet.forked.forks import LEFT_ITS_NODE
from tests.installation import ROOT, start_worker

CONFIG = str(ROOT / "tests/projects/forking/langgraph.json")


@pytest.fixture(scope="module")
def environment():
    with EmbeddedRedis() as redis:
        yield {"REDIS_URL": redis.url, "LGRQ_LEASE_S": "2"}


@pytest.fixture(scope="module")
def worker(environment, tmp_path_factory):
    with start_worker(tmp_path_factory.mktemp("forking"), environment, "--config", CONFIG) as worker:
        worker.wait_until_ready()
        yield worker


@pytest.fixture
def answer(environment, worker):
    """Run a graph and return its answer, the only one of the task: no other process ran it too."""

    def run(graph):
        with Client(environment["REDIS_URL"]) as client:
            result = client.wait(client.submit({}, graph=graph).task_id, timeout_s=30)
        assert result.error is None, (result.error, worker.said())
        assert result.metadata.attempts == 1
        return result.result["answer"]

    return run


@pytest.mark.parametrize("graph", ["asynchronous", "synchronous"])
def test_child_that_leaves_its_node_ends(answer, graph):
    assert [answer(graph) for _ in range(3)] == [LEFT_ITS_NODE] * 3


@pytest.mark.parametrize("graph", ["pool", "async_pool"])
def test_pool_that_ends_its_children_does_not_stop_the_worker(answer, worker, graph):
    assert [answer(graph) for _ in range(3)] == [[1, 4, 9]] * 3
    assert not worker.events("drain.started")


def test_guarded_call_in_a_child_is_made_after_one_of_its_parent(answer):
    assert [answer("caller") for _ in range(3)] == [[1, 2]] * 3


def test_worker_whose_nodes_forked_is_stopped_by_sigterm(environment, tmp_path):
    with start_worker(tmp_path, environment, "--config", CONFIG) as worker, Client(environment["REDIS_URL"]) as client:
        worker.wait_until_ready()
        client.wait(client.submit({}, graph="asynchronous").task_id, timeout_s=30)
        assert worker.end(signal.SIGTERM) == 0, worker.said()
    assert worker.events("worker.stopped")
