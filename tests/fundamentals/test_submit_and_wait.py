"""The tutorial, part 1: a task, its result, the same task again, and one that is wrong."""

import json

import pytest
from redis import Redis

from langgraph_rq import Client, InvalidTaskError, State


@pytest.fixture
def client(installation):
    with Client(installation.redis_url) as client:
        yield client


def test_submit_a_question_and_wait_for_its_answer(client):
    task = client.submit({"query": "What is a lease?"}, user_id="ann")
    result = client.wait(task.task_id, timeout_s=30)

    assert result.status is State.SUCCESS
    assert "lease" in result.result["answer"]
    assert result.metadata.model == "gpt-4o-mini"
    assert result.metadata.output_tokens > 0
    assert result.metadata.cost_usd > 0


def test_any_language_reads_the_result_from_redis(client, installation):
    task = client.submit({"query": "What is a queue?"})
    client.wait(task.task_id, timeout_s=30)

    with Redis.from_url(installation.redis_url) as redis:
        document = json.loads(redis.get(f"agent:result:{task.task_id}"))

    assert document["status"] == "success"
    assert document["result"]["answer"]


def test_a_thread_remembers_what_was_said_before(client):
    for words in ("My name is Ann.", "What is my name?"):
        task = client.submit({"said": [words]}, graph="chat", thread_id="ann-1")
        result = client.wait(task.task_id, timeout_s=30)

    assert result.result == {"said": ["My name is Ann.", "What is my name?"]}


def test_the_same_id_twice_runs_once(client, installation):
    first = client.submit({"query": "Is order 7 on its way?"}, task_id="order-7")
    again = client.submit({"query": "Is order 7 on its way?"}, task_id="order-7")

    assert (first.created, again.created) == (True, False)
    assert client.wait("order-7", timeout_s=30).metadata.attempts == 1


def test_bad_input_is_refused_at_the_door_and_names_the_field(client):
    with pytest.raises(InvalidTaskError, match=r"user: unknown field \(did you mean user_id\?\)"):
        client.submit({"query": "What is a lease?"}, user="ann")
