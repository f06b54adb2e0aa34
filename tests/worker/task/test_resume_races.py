"""Two clients answer the same questions while workers die: each answer that counts is delivered, once."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from langgraph_rq import AlreadyAnsweredError, Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.installation import ROOT, start_worker
from tests.waiting import until_sync

CONFIG = str(ROOT / "tests/projects/asking/langgraph.json")
QUESTIONS = 12
KILLS = 3
USED = "used"
"""An answer was cancelled only after its node had used it: the question is not open any more."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def redis_url():
    with EmbeddedRedis() as redis:
        yield redis.url


def kill_workers_that_run_something(redis_url, folder, is_over):
    """Run a worker, kill it while it runs tasks, and start the next one, a few times; leave the last one running."""
    environment = {"REDIS_URL": redis_url, "LGRQ_LEASE_S": "1", "OPENAI_API_KEY": "unused"}
    with Redis.from_url(redis_url) as redis:
        for number in range(KILLS + 1):
            own = folder / str(number)
            own.mkdir()
            with start_worker(own, environment, "--config", CONFIG) as worker:
                worker.wait_until_ready()
                if number < KILLS:
                    until_sync(lambda: is_over() or any(redis.scan_iter("agent:own:*")), 60)
                else:
                    until_sync(is_over, 120)
        return sum(int(redis.hget(key, "crashes") or 0) for key in redis.scan_iter("agent:task:*"))


def answer_until_it_counts(redis_url, asked, answer, cancels):
    """Answer again while the answer is lost; return the task that counts, and how many of its own answers were lost."""
    lost = 0
    with Client(redis_url) as client:
        while True:
            try:
                task_id = client.resume(asked, answer).task_id
            except AlreadyAnsweredError as other:
                task_id = other.answered_by
            else:
                if cancels.random() < 0.5:
                    client.cancel(task_id)
            result = client.wait(task_id, 120)
            if result.status is State.SUCCESS:
                return task_id, result.result["said"], lost
            if result.error and "the thread has gone on" in result.error.message:
                return USED, None, lost
            assert result.status is State.CANCELLED, result
            lost += 1


def test_answers_of_two_clients_with_kills_and_cancels_come_to_one_delivery_for_each_question(redis_url, tmp_path):
    chance = random.Random(1)
    with Client(redis_url) as client, ThreadPoolExecutor(2 * QUESTIONS + 1) as pool:
        asked = [client.submit({"said": []}, graph="asking", thread_id=f"th{i}").task_id for i in range(QUESTIONS)]
        racing = []
        killing = pool.submit(
            kill_workers_that_run_something, redis_url, tmp_path, lambda: racing and all(one.done() for one in racing)
        )
        assert {client.wait(one, 60).status for one in asked} == {State.INTERRUPTED}
        racing += [
            pool.submit(answer_until_it_counts, redis_url, one, name, random.Random(chance.random()))
            for one in asked
            for name in ("ann", "bob")
        ]
        ends = [one.result(150) for one in racing]
        assert killing.result(150) > 0, "no kill hit a task that ran"
    for (task_id, said, _), other in zip(ends[::2], ends[1::2], strict=True):
        assert other[:2] == (task_id, said), "both clients come to the same end"
        assert task_id == USED or said in (["ann"], ["bob"]), "one answer is delivered, once"
    assert sum(task_id == USED for task_id, _, _ in ends) < QUESTIONS, "most answers count"
    assert sum(lost for _, _, lost in ends) > 0, "no answer was lost"
