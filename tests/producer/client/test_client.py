"""What a Python service gets from `producer.Client`, with a worker that is played by the test."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import (
    Client,
    InvalidTaskError,
    QueueFullError,
    RedisUnavailableError,
    SettingsError,
    State,
    TaskConflictError,
    UnknownGraphError,
    UnknownTaskError,
    WaitTimeoutError,
)
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.settings import QueueSettings, TaskSettings
from langgraph_rq.shared.telemetry import logs
from tests.producer.client.played_worker import Worker
from tests.waiting import until_sync

AWAY = "redis://ann:hunter2@127.0.0.1:1/0"


def test_submit_answers_with_an_id_that_nobody_can_guess(client):
    first, second = client.submit({"query": "a"}), client.submit({"query": "a"})
    assert (first.state, first.created) == (State.PENDING, True)
    assert first.task_id != second.task_id
    assert len(first.task_id) == 36


def test_submit_many_answers_with_a_receipt_per_task_in_order(client):
    receipts = client.submit_many([{"input": {}, "task_id": f"t{n}"} for n in range(450)])
    assert [receipt.task_id for receipt in receipts] == [f"t{n}" for n in range(450)]
    assert all(receipt.created for receipt in receipts)


def test_tasks_are_taken_in_order_of_priority_then_of_submission(client, worker):
    priorities = ["low", "default", "high", "default"]
    client.submit_many([{"input": {}, "task_id": f"t{n}", "priority": p} for n, p in enumerate(priorities)])
    assert [worker.end_one() for _ in priorities] == ["t2", "t1", "t3", "t0"]


def test_submit_many_queues_nothing_when_one_task_is_wrong(client, redis_client):
    with pytest.raises(InvalidTaskError, match="querry: unknown field"):
        client.submit_many([{"input": {}}, {"input": {}, "querry": "?"}])
    assert redis_client.dbsize() == 0


def test_same_task_again_is_the_same_task(client, redis_client):
    first = client.submit({"query": "a"}, task_id="order-7")
    again = client.submit({"query": "a"}, task_id="order-7")
    assert (first.created, again.created, again.state) == (True, False, State.PENDING)
    assert redis_client.zcard("agent:open") == 1


def test_same_task_after_its_end_answers_with_how_it_ended(client, worker):
    client.submit({}, task_id="order-7")
    worker.end_one(State.ERROR)
    assert client.submit({}, task_id="order-7").state is State.ERROR


def test_another_task_under_a_known_id_is_a_conflict(client):
    client.submit({"query": "a"}, task_id="order-7")
    with pytest.raises(TaskConflictError, match="order-7: another task with this id is pending; choose another id"):
        client.submit({"query": "b"}, task_id="order-7")


def test_unknown_graph_is_refused_and_the_known_ones_are_named(client, worker):
    worker.join("assistant", "triage")
    with pytest.raises(UnknownGraphError, match="no live worker serves 'triag', known: assistant, triage"):
        client.submit({}, graph="triag")


def test_task_waits_while_no_worker_lives(client):
    assert client.submit({}, graph="whatever").state is State.PENDING


def test_full_redis_refuses_tasks(redis_url, client, redis_client):
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"])
    try:
        with pytest.raises(QueueFullError, match=r"Redis is \d+ % full"):
            client.submit({})
    finally:
        redis_client.config_set("maxmemory", 0)


def test_limits_are_those_of_the_settings(redis_url):
    with Client(redis_url, tasks=TaskSettings(input_bytes=100)) as client:
        with pytest.raises(InvalidTaskError, match=r"input: expected at most 100 bytes"):
            client.submit({"query": "x" * 100})
        client.submit({"query": "x" * 50})


def test_queue_is_that_of_the_settings(redis_url, redis_client):
    with Client(redis_url, queue=QueueSettings(queue="mine")) as client:
        client.submit({}, priority="high")
    assert redis_client.llen("rq:queue:mine_high") == 1


def test_status_says_where_a_task_is(client, worker):
    before = datetime.now(UTC) - timedelta(seconds=1)
    task_id = client.submit({}, deadline_s=60).task_id
    waiting = client.status(task_id)
    worker.end_one()
    ended = client.status(task_id)
    assert (waiting.state, waiting.queue, waiting.attempts, waiting.worker) == ("pending", "agent_tasks", 0, None)
    assert waiting.started_at is None
    assert waiting.submitted_at > before
    assert waiting.deadline_at == waiting.submitted_at + timedelta(seconds=60)
    assert (ended.state, ended.attempts, ended.worker) == ("success", 1, "w")
    assert ended.started_at


def test_status_knows_a_job_of_stock_rq_before_any_worker_has_seen_it(client, redis_url):
    with Redis.from_url(redis_url) as redis:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        queue.enqueue("worker.run_task", {"input": {}}, job_id="stock")
    assert client.status("stock").state is State.PENDING


def test_result_is_none_until_the_task_has_ended(client, worker):
    task_id = client.submit({}).task_id
    assert client.result(task_id) is None
    worker.end_one()
    found = client.result(task_id)
    assert found
    assert (found.task_id, found.status) == (task_id, State.SUCCESS)


@pytest.mark.parametrize("ask", ["status", "wait"])
def test_unknown_task_is_an_error(client, ask):
    with pytest.raises(UnknownTaskError, match="no task 'nope'"):
        getattr(client, ask)("nope")


def test_wait_answers_at_once_for_a_task_that_has_ended(client, worker):
    task_id = client.submit({}).task_id
    worker.end_one()
    assert client.wait(task_id, timeout_s=0).status is State.SUCCESS


def test_wait_gives_up_in_time_and_the_task_goes_on(client):
    task_id = client.submit({}).task_id
    with pytest.raises(WaitTimeoutError, match=rf"task {task_id} has not ended in time"):
        client.wait(task_id, timeout_s=0.1)
    assert client.status(task_id).state is State.PENDING


def test_waiting_is_one_blocked_command_not_a_poll(client, redis_client):
    task_id = client.submit({}).task_id
    redis_client.config_resetstat()
    with pytest.raises(WaitTimeoutError):
        client.wait(task_id, timeout_s=1.0)
    commands = redis_client.info("commandstats")
    assert commands["cmdstat_blmpop"]["calls"] <= 2
    assert commands["cmdstat_get"]["calls"] <= 2


def test_waiter_is_woken_up_by_the_end_of_the_task(client, worker, redis_client):
    task_id = client.submit({}).task_id
    results = []
    waiter = threading.Thread(target=lambda: results.append(client.wait(task_id, timeout_s=30)))
    waiter.start()
    until_sync(lambda: redis_client.info("clients")["blocked_clients"] == 1)
    began = time.monotonic()
    worker.end_one()
    waiter.join()
    assert results[0].status is State.SUCCESS
    assert time.monotonic() - began < 4, "a waiter that polls would look again after 5 s"


def test_wait_each_yields_results_in_the_order_of_their_ends(client, worker):
    first, second = (client.submit({}, priority=priority).task_id for priority in ("low", "high"))
    results = client.wait_each([first, second, first], timeout_s=10)
    assert worker.end_one() == second
    assert next(results).task_id == second
    assert worker.end_one() == first
    assert [result.task_id for result in results] == [first]


def test_wait_each_waits_for_more_tasks_than_it_watches_at_once(client, worker):
    ids = [receipt.task_id for receipt in client.submit_many([{"input": {}}] * 150)]
    ended = threading.Thread(target=lambda: [worker.end_one() for _ in ids])
    ended.start()
    assert {result.task_id for result in client.wait_each(ids, timeout_s=60)} == set(ids)
    ended.join()


def test_wait_each_yields_the_end_of_a_task_behind_a_thousand_open_ones(client, worker):
    ids = [receipt.task_id for receipt in client.submit_many([{"input": {}, "priority": "low"}] * 1_100)]
    last = client.submit({}, priority="high").task_id
    assert worker.end_one() == last
    results = client.wait_each([*ids, last], timeout_s=20)
    assert next(results).task_id == last
    late = client.submit({}, priority="high").task_id
    results = client.wait_each([*ids, late], timeout_s=20)
    ender = threading.Timer(0.5, worker.end_one)
    ender.start()
    assert next(results).task_id == late
    ender.join()


def test_wait_each_leaves_out_a_task_whose_result_is_forgotten(client, worker, redis_client, caplog):
    forgotten = client.submit({}, task_id="old").task_id
    assert worker.end_one() == forgotten
    redis_client.delete(f"agent:result:{forgotten}")
    ids = [receipt.task_id for receipt in client.submit_many([{"input": {}}] * 3)]
    for _ in ids:
        worker.end_one()
    assert {result.task_id for result in client.wait_each([forgotten, *ids], timeout_s=10)} == set(ids)
    assert "result.forgotten" in caplog.text
    with pytest.raises(UnknownTaskError, match="ended as success"):
        client.wait(forgotten)


def test_wait_each_names_an_unknown_task_after_the_results_of_the_others(client, worker):
    known = client.submit({}).task_id
    worker.end_one()
    results = client.wait_each(["nobody", known], timeout_s=10)
    assert next(results).task_id == known
    with pytest.raises(UnknownTaskError, match="nobody"):
        next(results)


def test_result_is_plain_json_for_any_other_language(client, worker, redis_client):
    task_id = client.submit({}).task_id
    worker.end_one()
    document = json.loads(redis_client.get(f"agent:result:{task_id}"))
    assert (document["schema"], document["status"]) == (1, "success")
    assert redis_client.ttl(f"agent:result:{task_id}") > 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.submit({}),
        lambda client: client.status("t"),
        lambda client: client.result("t"),
        lambda client: client.wait("t"),
    ],
    ids=["submit", "status", "result", "wait"],
)
def test_redis_away_is_one_error_with_a_masked_url(ask):
    with Client(AWAY) as client, pytest.raises(RedisUnavailableError) as away:
        ask(client)
    assert "cannot reach Redis at redis://***@127.0.0.1:1/0" in str(away.value)
    assert "hunter2" not in str(away.value)
    assert isinstance(away.value, ConnectionError)


def test_wait_outlives_a_restart_of_redis(tmp_path_factory):
    with EmbeddedRedis(appendfsync="always") as server, Client(server.url) as client:
        task_id = client.submit({}).task_id
        results = []
        waiter = threading.Thread(target=lambda: results.append(client.wait(task_id, timeout_s=30)))
        waiter.start()
        server.kill()
        server.start()
        Worker(server.url).end_one()
        waiter.join()
    assert results[0].task_id == task_id


def test_url_that_is_none_is_refused_before_anything_is_sent():
    with pytest.raises(SettingsError, match="REDIS_URL: expected redis://host:port/db"):
        Client("localhost:6379")


def test_client_warns_once_that_no_live_worker_can_run_its_tasks(client, caplog, monkeypatch):
    monkeypatch.setattr(logs, "_lines", None)  # an earlier test may have configured them
    receipts = client.submit_many([{"input": {}}, {"input": {}}])
    assert [receipt.reason for receipt in receipts] == ["no worker is alive"] * 2
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split()[0] for message in warned] == ["task.without_worker"]
