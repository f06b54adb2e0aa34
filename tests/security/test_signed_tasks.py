"""Attacks by a producer that holds the key of its own tenant, or none, and may write to Redis as every producer may."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import AsyncClient, ForgedResultError, State
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import TaskSettings
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import Task
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from tests.fleet import PLUS_ONE, Number, worker
from tests.gateways import gateway
from tests.shipped_users import shipped_users
from tests.waiting import until

ACME, BETA, OLD = (f"{letter * 40}" for letter in "abo")
ALL = f"acme:a1:{ACME}\nbeta:b1:{BETA}\nbeta:old:{OLD}\n"
QUEUE = "rq:queue:agent_tasks"


async def ask(state: Number):
    return {"n": state["n"] + interrupt("how many?")}


def asking():
    return StateGraph(Number).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()


GRAPHS = {"plus one": PLUS_ONE, "ask": asking()}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets")) as users:
        users.load_scripts()
        yield users


@pytest.fixture(autouse=True)
def _empty(users):
    with Redis.from_url(users.url("admin")) as redis:
        redis.flushall()
        redis.acl_log_reset()


@pytest.fixture
def attacker(users):
    """The Redis user of every producer."""
    with Redis.from_url(users.url("producer"), decode_responses=True) as redis:
        yield redis


@pytest.fixture
async def beta(users):
    """The client of another tenant than the attacker's."""
    async with AsyncClient(users.url("producer"), tasks=TaskSettings(task_keys=f"beta:b1:{BETA}")) as client:
        yield client.for_tenant("beta")


@pytest.fixture
async def fleet(users):
    metrics = WorkerMetrics(lambda: 0)
    with metrics.listen():
        async with worker(users.url("worker"), GRAPHS, checkpoints=True, keys=TaskKeys.parse(ALL)) as fleet:
            fleet.metrics = metrics
            yield fleet


def refused(fleet, reason: str) -> float | None:
    fleet.metrics.page()
    return fleet.metrics.registry.get_sample_value("agent_signatures_refused_total", {"reason": reason})


def push(redis: Redis, task_id: str, data: bytes | str) -> None:
    """Queue a job as whoever may write to Redis can."""
    job = {"data": data, "origin": "agent_tasks", "created_at": "2026-01-01T00:00:00Z", "status": "queued"}
    redis.hset(f"rq:job:{task_id}", mapping=job)
    redis.rpush(QUEUE, task_id)


async def rejection(client: AsyncClient, task_id: str) -> str:
    await until(lambda: client.redis.exists(f"agent:result:beta--{task_id}"))
    result = await client.wait(task_id, 10)
    assert (result.status, result.error.type, result.result) == (State.ERROR, "rejected", None)
    return result.error.message


async def test_signed_task_runs_and_its_result_is_signed(users, fleet, beta, attacker):
    task = await beta.submit({"n": 1}, graph="plus one")
    result = await beta.wait(task.task_id, 10)
    assert (result.status, result.result) == (State.SUCCESS, {"n": 2})
    stored = json.loads(attacker.get(f"agent:result:beta--{task.task_id}"))
    assert stored["signature"].startswith("b1:")
    assert "signature" not in json.loads(await beta.result_json(task.task_id))
    assert users.refusals() == []


async def test_unsigned_task_is_rejected_and_counted(users, fleet, beta):
    async with AsyncClient(users.url("producer")) as attacker:
        task = await attacker.for_tenant("beta").submit({"n": 1}, graph="plus one")
    words = await rejection(beta, task.task_id)
    assert "expected a task signed with a key of the tenant beta, got: one without a signature" in words
    await until(lambda: refused(fleet, "unsigned") == 1)


@pytest.mark.parametrize(
    ("keys", "reason", "words"),
    [
        (f"beta:a1:{ACME}", "foreign", "the key a1 of another tenant"),
        (f"beta:b1:{ACME}", "forged", "a signature of b1 that is not of this task under this id"),
        (f"beta:b2:{BETA}", "unknown_key", "the unknown key b2"),
    ],
)
async def test_task_that_another_key_signed_is_rejected(users, fleet, beta, keys, reason, words):
    async with AsyncClient(users.url("producer"), tasks=TaskSettings(task_keys=keys)) as attacker:
        task = await attacker.for_tenant("beta").submit({"n": 1}, graph="plus one")
    assert words in await rejection(beta, task.task_id)
    await until(lambda: refused(fleet, reason) == 1)


async def test_client_without_a_key_of_the_tenant_sends_nothing(users, attacker):
    settings = TaskSettings(task_keys=f"acme:a1:{ACME}")
    async with AsyncClient(users.url("producer"), tasks=settings) as client:
        with pytest.raises(SettingsError, match="LGRQ_TASK_KEYS: expected a key of the tenant beta, got: acme"):
            await client.for_tenant("beta").submit({"n": 1})
    assert attacker.llen(QUEUE) == 0


def changed_input(data: str) -> str:
    return data.replace('"n":1', '"n":7')


def longer_deadline(data: str) -> str:
    return data.replace('"deadline_s":300.0', '"deadline_s":900.0')


def second_task(data: str) -> str:
    return data.replace("}],{", '}],{"signature":"x"}],{', 1)


@pytest.mark.parametrize("change", [changed_input, longer_deadline, second_task])
async def test_altered_task_is_rejected(users, beta, attacker, change):
    task = await beta.submit({"n": 1}, graph="plus one")
    key = f"rq:job:beta--{task.task_id}"
    data = attacker.hget(key, "task")
    assert change(data) != data
    attacker.hset(key, "task", change(data))
    async with worker(users.url("worker"), GRAPHS, keys=TaskKeys.parse(ALL)):
        assert "not of this task under this id" in await rejection(beta, task.task_id)


async def test_task_that_is_replayed_under_another_id_is_rejected(users, fleet, beta, attacker):
    data = TaskKeys.parse(f"beta:b1:{BETA}").sign_task(
        Task(task_id="one", tenant="beta", graph="plus one", input={"n": 1})
    )
    push(attacker, "beta--two", data)
    assert "not of this task under this id" in await rejection(beta, "two")


async def test_task_that_is_replayed_after_its_deadline_is_rejected(fleet, beta, attacker):
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    task = Task(task_id="one", tenant="beta", graph="plus one", input={"n": 1}, submitted_at=long_ago)
    push(attacker, "beta--one", TaskKeys.parse(f"beta:b1:{BETA}").sign_task(task))
    assert "expected a task before its deadline" in await rejection(beta, "one")
    await until(lambda: refused(fleet, "expired") == 1)


async def test_stock_rqs_job_is_rejected_with_words_that_say_what_to_do(users, fleet, beta):
    with Redis.from_url(users.url("admin")) as redis:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        task = {"graph": "plus one", "input": {"n": 1}, "tenant": "beta", "task_id": "stock"}
        queue.enqueue("langgraph_rq.run_task", task, job_id="beta--stock")
    assert "submit it by a langgraph_rq client that has a key" in await rejection(beta, "stock")


async def test_signed_job_that_comes_by_rq_keeps_its_signature(users, fleet, beta, attacker):
    task = Task(task_id="by-rq", tenant="beta", graph="ask", input={"n": 1}, thread_id="t")
    data = TaskKeys.parse(f"beta:b1:{BETA}").sign_task(task)
    push(attacker, "beta--by-rq", data)
    await until(lambda: attacker.exists("agent:result:beta--by-rq"))
    assert (await beta.wait("by-rq", 10)).status is State.INTERRUPTED
    assert attacker.hget("rq:job:beta--by-rq", "task") == data.decode()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (None, "one without a signature"),
        (f"beta:a1:{ACME}", "the unknown key a1"),
        (f"beta:b1:{ACME}", "a signature of b1 that is not of this result under this id"),
    ],
)
async def test_forged_result_is_shown_as_forged(users, beta, attacker, keys, words):
    task = await beta.submit({"n": 1}, graph="plus one")
    key = f"beta--{task.task_id}"
    document = b'{"schema":1,"task_id":"x","status":"success","result":"pay the attacker"}'
    attacker.set(f"agent:result:{key}", TaskKeys.parse(keys).sign_result(key, document) if keys else document)
    for read in (beta.result(task.task_id), beta.result_json(task.task_id), beta.wait(task.task_id, 10)):
        with pytest.raises(ForgedResultError, match=words):
            await read


async def test_result_of_another_task_is_forged(fleet, beta, attacker):
    first, second = [await beta.submit({"n": n}, graph="plus one") for n in (1, 2)]
    await beta.wait(first.task_id, 10)
    await beta.wait(second.task_id, 10)
    attacker.set(f"agent:result:beta--{second.task_id}", attacker.get(f"agent:result:beta--{first.task_id}"))
    with pytest.raises(ForgedResultError, match="not of this result under this id"):
        await beta.result(second.task_id)


async def test_gateway_answers_a_forged_result_with_502(users, attacker, monkeypatch):
    monkeypatch.setenv("LGRQ_TASK_KEYS", f"default:d1:{ACME}")
    async with gateway(users.url("producer")) as http:
        task_id = (await http.post("/tasks", json={"input": {"n": 1}})).json()["task_id"]
        attacker.set(f"agent:result:{task_id}", "{}")
        answer = await http.get(f"/tasks/{task_id}/result")
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:langgraph-rq:problem:forged_result")


async def test_cancelled_and_overdue_tasks_have_signed_results(users, beta):
    cancelled = await beta.submit({"n": 1}, graph="plus one")
    assert await beta.cancel(cancelled.task_id) is State.CANCELLED
    assert (await beta.wait(cancelled.task_id, 10)).status is State.CANCELLED
    async with worker(users.url("worker"), {"ask": GRAPHS["ask"]}, keys=TaskKeys.parse(ALL)):
        late = await beta.submit({"n": 1}, graph="plus one", deadline_s=0.1)
        await until(lambda: beta.redis.exists(f"agent:result:beta--{late.task_id}"), 30)
        assert (await beta.result(late.task_id)).status is State.TIMEOUT


async def test_resumed_task_is_signed_and_an_altered_question_is_refused(fleet, beta, attacker):
    task = await beta.submit({"n": 1}, graph="ask", thread_id="t")
    assert (await beta.wait(task.task_id, 10)).status is State.INTERRUPTED
    key = f"rq:job:beta--{task.task_id}"
    data = attacker.hget(key, "task")
    attacker.hset(key, "task", data.replace('"thread_id":"t"', '"thread_id":"u"'))
    with pytest.raises(ForgedResultError, match="not of this task under this id"):
        await beta.resume(task.task_id, 4)
    attacker.hset(key, "task", data)
    resumed = await beta.resume(task.task_id, 4)
    assert (await beta.wait(resumed.task_id, 10)).result == {"n": 5}


async def test_keys_are_replaced_while_tasks_run(users, fleet, beta):
    old = TaskSettings(task_keys=f"beta:old:{OLD}\nbeta:b1:{BETA}")
    async with AsyncClient(users.url("producer"), tasks=old) as client:
        before = await client.for_tenant("beta").submit({"n": 1}, graph="plus one")
        assert (await client.for_tenant("beta").wait(before.task_id, 10)).result == {"n": 2}


async def test_worker_without_keys_runs_signed_tasks_so_that_producers_can_sign_first(users, attacker):
    keys = TaskSettings(task_keys=f"beta:b1:{BETA}")
    async with worker(users.url("worker"), GRAPHS), AsyncClient(users.url("producer"), tasks=keys) as signing:
        task = await signing.for_tenant("beta").submit({"n": 1}, graph="plus one")
        async with AsyncClient(users.url("producer")) as reader:
            assert (await reader.for_tenant("beta").wait(task.task_id, 10)).result == {"n": 2}


async def test_client_without_keys_reads_signed_results(users, fleet, beta):
    task = await beta.submit({"n": 1}, graph="plus one")
    async with AsyncClient(users.url("producer")) as reader:
        assert (await reader.for_tenant("beta").wait(task.task_id, 10)).result == {"n": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected at least one key"),
        ("# nothing", "expected at least one key"),
        ("acme", "line 1: expected tenant:key id:key"),
        (f"\nACME:a1:{ACME}", "line 2: expected tenant:key id:key"),
        ("acme:a1:short", "the key 32 characters or more"),
        (f"acme:a1:{ACME}\nacme:a1:{BETA}", "line 2: expected another key id, got: a1 again"),
    ],
)
def test_keys_that_cannot_be_read_are_one_error_that_shows_none(text, words):
    with pytest.raises(SettingsError, match=f"LGRQ_TASK_KEYS.*{words}") as error:
        TaskKeys.parse(text)
    assert "short" not in str(error.value)
    assert BETA not in str(error.value)


def test_signed_task_holds_null_as_its_input():
    task = Task.parse({"input": None, "thread_id": "t", "tenant": "beta"}, TaskSettings().limits())
    assert b'"input":null' in TaskKeys.parse(ALL).sign_task(task)
