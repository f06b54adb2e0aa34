"""A Redis user for the producers of one tenant: its main path works, and what is another tenant's is out of reach."""

import stat

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from langgraph_rq import AsyncClient, Client, State
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.settings import TaskSettings
from langgraph_rq.shared.signing import TaskKeys
from tests.deployment import make_secrets
from tests.fleet import Number, worker
from tests.shipped_users import shipped_users


async def ask(state: Number):
    return {"n": state["n"] + interrupt("how many?")}


GRAPHS = {"ask": StateGraph(Number).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets"), TENANTS="acme beta") as users:
        users.load_scripts()
        yield users


@pytest.fixture
def admin(users):
    with Redis.from_url(users.url("admin"), decode_responses=True) as redis:
        redis.flushall()
        redis.acl_log_reset()
        yield redis


def task_keys(users, name: str) -> str:
    return (users.secrets / name).read_text()


async def test_main_path_of_a_tenants_producer_leaves_nothing_in_acl_log(users, admin):
    own = TaskSettings(task_keys=task_keys(users, "task_key_acme"))
    async with (
        worker(users.url("worker"), GRAPHS, checkpoints=True, keys=TaskKeys.parse(task_keys(users, "task_keys"))),
        AsyncClient(users.url("producer-acme"), tasks=own) as shared,
    ):
        client = shared.for_tenant("acme")
        task = await client.submit({"n": 1}, graph="ask", thread_id="t", user_id="ann", stream=["updates"])
        assert (await client.wait(task.task_id, 10)).status is State.INTERRUPTED
        assert [event.type async for event in client.events(task.task_id)][-1] == "end"
        resumed = await client.resume(task.task_id, 2)
        assert (await client.wait(resumed.task_id, 10)).result == {"n": 3}
        assert (await client.status(resumed.task_id)).state is State.SUCCESS
        many = await client.submit_many(
            [{"input": {"n": n}, "graph": "ask", "user_id": user} for n in range(3) for user in ("bob", "cid")]
        )
        for receipt in many:
            await client.cancel(receipt.task_id)
            await client.wait(receipt.task_id, 10)
    assert users.refusals() == []


def test_cancel_of_one_tenants_task_leaves_alone_the_job_that_another_ones_left_in_the_registry(users, admin):
    admin.zadd("rq:canceled:agent_tasks", {"beta--over": 1})
    admin.hset("rq:job:beta--over", "status", "canceled")
    own = TaskSettings(task_keys=task_keys(users, "task_key_acme"))
    with Client(users.url("producer-acme"), tasks=own) as client:
        acme = client.for_tenant("acme")
        assert acme.cancel(acme.submit({"n": 1}, graph="ask").task_id) is State.CANCELLED
    assert users.refusals() == []


OTHERS = [
    ("GET", "agent:result:beta--one"),
    ("SET", "agent:result:beta--one", "{}"),
    ("GET", "agent:result:of-the-default-tenant"),
    ("HGETALL", "agent:task:beta--one"),
    ("HSET", "agent:task:beta--one", "cancel", "1"),
    ("DEL", "agent:task:beta--one"),
    ("XRANGE", "agent:events:beta--one", "-", "+"),
    ("XADD", "agent:events:beta--one", "*", "type", "end"),
    ("HGET", "rq:job:beta--one", "task"),
    ("HSET", "rq:job:beta--one", "task", "[]"),
    ("LPUSH", "agent:thread:beta--t", "x"),
    ("LRANGE", "agent:waiting:agent_tasks:beta--ann", "0", "-1"),
    ("ZRANGE", "agent:tenant_line:agent_tasks:beta", "0", "-1"),
    ("DEL", "agent:tenant_line:agent_tasks:beta"),
    ("ZADD", "agent:tenant_open:beta", "1", "made-up"),
    ("HSET", "agent:tenant_kept:beta", "1", "1"),
    ("HSET", "agent:rate:beta--ann", "used", "1000"),
    ("DEL", "agent:rate:acme--"),
    ("HGETALL", "agent:runs:beta:0"),
    ("SMEMBERS", "agent:threads_by:beta:graph:ask"),
    ("ZRANGE", "agent:thread_late:beta--t", "0", "-1"),
    ("HGETALL", "agent:thread_row:beta--t"),
    ("DEL", "agent:thread_row:beta--t"),
    ("LRANGE", "agent:thread_runs:beta--t", "0", "-1"),
    ("ZRANGE", "agent:threads:beta", "0", "-1"),
    ("XREAD", "STREAMS", "agent:reply:beta--1", "0"),
    ("XADD", "agent:reply:beta--1", "*", "type", "end"),
    ("ZRANGE", "agent:ids:beta", "0", "-1"),
    ("HGETALL", "agent:ids:beta:1700000000000:7"),
    ("HGETALL", "agent:budget:policy"),
    ("SCAN", "0"),
]


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_what_is_another_tenants_is_out_of_reach(users, admin, command):
    with open_sync(users.url("producer-acme")) as redis, pytest.raises(NoPermissionError):
        redis.execute_command(*command)


def test_task_of_another_tenant_cannot_be_submitted(users, admin):
    with Client(users.url("producer-acme")) as client, pytest.raises(ResponseError, match="permission"):
        client.for_tenant("beta").submit({"n": 1}, graph="ask")
    assert admin.keys("agent:task:*") == admin.keys("rq:job:*") == []


def test_tenants_stay_when_the_secrets_are_made_again_without_their_names(tmp_path):
    secrets = make_secrets(tmp_path / "secrets", TENANTS="acme")
    before = {name: (secrets / name).read_text() for name in ("users.acl", "task_keys")}
    make_secrets(secrets)
    assert {name: (secrets / name).read_text() for name in before} == before
    assert "user producer-acme on" in before["users.acl"]


def test_secrets_of_a_tenant_stand_in_files_of_their_own(users):
    assert TaskKeys.parse(task_keys(users, "task_key_acme")).tenants == ["acme"]
    assert TaskKeys.parse(task_keys(users, "task_keys")).tenants == ["acme", "beta", "default"]
    assert (users.secrets / "producer-acme_redis_url").read_text().startswith("rediss://producer-acme:")
    assert stat.S_IMODE(users.secrets.stat().st_mode) == 0o700
