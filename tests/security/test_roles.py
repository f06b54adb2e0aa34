"""Attacks with the Redis password of one role: what a producer and the dashboard cannot do to the others."""

import asyncio
import json
import time

import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import NoPermissionError

from langgraph_rq import AsyncClient, Client, State
from langgraph_rq.producer.cli.main import main
from langgraph_rq.producer.client.transport import connection
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import RedisUnavailableError, ScriptsMissingError
from langgraph_rq.shared.queue.verbs import QueueTimes
from tests.fleet import one_node_graph, worker
from tests.gateways import gateway
from tests.shipped_users import shipped_users
from tests.waiting import until


async def echo(state: dict):
    return state


GRAPHS = {"echo": one_node_graph(echo)}
BRIEF_WAITS_S = (0.01,)
"""Of a producer for scripts, where no worker will bring them."""


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets")) as users:
        yield users


@pytest.fixture(autouse=True)
def admin(users):
    """Begin with an empty server, whose cache of scripts is empty too."""
    with Redis.from_url(users.url("admin"), decode_responses=True) as redis:
        redis.flushall()
        redis.script_flush()
        redis.acl_log_reset()
        yield redis


LOOP = "while true do end"


@pytest.mark.parametrize(
    "command",
    [
        ("EVAL", LOOP, "0"),
        ("EVAL_RO", LOOP, "0"),
        ("SCRIPT", "LOAD", LOOP),
        ("FUNCTION", "LOAD", f"#!lua name=f\nredis.register_function('f', function() {LOOP} end)"),
        ("FCALL", "f", "0"),
        ("SCRIPT", "FLUSH"),
    ],
    ids=lambda command: " ".join(command[:2])[:20],
)
@pytest.mark.parametrize("role", ["producer", "dashboard"])
def test_no_producer_runs_a_script_of_its_own(users, role, command):
    with open_sync(users.url(role)) as attacker, pytest.raises(NoPermissionError):
        attacker.execute_command(*command)


def test_producer_without_any_worker_gets_one_clear_error(users, monkeypatch):
    monkeypatch.setattr(connection, "_SCRIPT_WAITS_S", BRIEF_WAITS_S)
    with (
        Client(users.url("producer")) as client,
        pytest.raises(
            ScriptsMissingError, match=r"lacks the script shared/queue/scripts/submit.*start a worker.*load-scripts"
        ) as error,
    ):
        client.submit({"n": 1}, graph="echo")
    assert isinstance(error.value, RedisUnavailableError)
    assert "***" in str(error.value)


async def test_gateway_without_any_worker_answers_503_and_says_why(users):
    async with gateway(users.url("producer"), rate="100/minute") as http:
        refused = await http.post("/tasks", json={"input": {}})
        ready = (await http.get("/ready")).json()
        metrics = (await http.get("/metrics")).text
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:langgraph-rq:problem:redis_unavailable")
    assert "no worker has been here since Redis started" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert ready["parts"]["redis"]["ready"]
    assert not ready["parts"]["workers"]["ready"]
    assert "agent_redis_up 1.0" in metrics
    assert "agent_workers 0.0" in metrics


def test_step_of_a_deployment_loads_the_scripts_once(users, monkeypatch):
    monkeypatch.setenv("REDIS_URL", users.url("worker"))
    first, second = (CliRunner().invoke(main, ["load-scripts", "--json"]) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    first, second = json.loads(first.stdout), json.loads(second.stdout)
    assert first["loaded"] == first["scripts"] > 20
    assert second["loaded"] == 0
    with Client(users.url("producer")) as client:
        assert client.submit({"n": 1}).created
    assert users.refusals() == []


def test_producer_that_tries_the_step_is_told_whose_user_it_needs(users, monkeypatch):
    monkeypatch.setenv("REDIS_URL", users.url("producer"))
    refused = CliRunner().invoke(main, ["load-scripts"])
    assert refused.exit_code == 2
    assert "REDIS_URL: expected a user that may do that" in refused.output


async def test_lost_scripts_are_back_within_seconds_while_workers_live(users, admin):
    async with (
        worker(users.url("worker"), GRAPHS, times=QueueTimes(lease_ms=2_000)) as alive,
        AsyncClient(users.url("producer")) as client,
    ):
        await until(lambda: admin.zscore("agent:workers", alive.name))
        await asyncio.to_thread(admin.script_flush)
        began = time.monotonic()
        task = await client.submit({"n": 1}, graph="echo")
        assert time.monotonic() - began < 3
        assert (await client.wait(task.task_id, 10)).result == {"n": 1}


async def test_restart_while_only_producers_are_up_heals_when_a_worker_comes(tmp_path, monkeypatch):
    with shipped_users(tmp_path / "secrets") as users:
        async with AsyncClient(users.url("producer")) as client:
            users.load_scripts()
            before = await client.submit({"n": 1}, graph="assistant")
            users.server.kill()
            users.server.start()
            with monkeypatch.context() as patch:
                patch.setattr(connection, "_SCRIPT_WAITS_S", BRIEF_WAITS_S)
                with pytest.raises(ScriptsMissingError):
                    await client.submit({"n": 2}, graph="echo")
            assert (await client.status(before.task_id)).reason == "no worker has been there since Redis started"
            async with worker(users.url("worker"), GRAPHS):
                after = await client.submit({"n": 3}, graph="echo")
                assert (await client.wait(after.task_id, 10)).result == {"n": 3}
            assert (await client.status(before.task_id)).state is State.PENDING


async def test_restart_while_workers_live_costs_producers_seconds(tmp_path):
    with shipped_users(tmp_path / "secrets") as users:
        async with (
            worker(users.url("worker"), GRAPHS, times=QueueTimes(lease_ms=8_000)) as alive,
            AsyncClient(users.url("producer")) as client,
        ):
            with open_sync(users.url("admin")) as admin:
                await until(lambda: admin.zscore("agent:workers", alive.name))
            users.server.kill()
            users.server.start()
            task = await client.submit({"n": 1}, graph="echo")
            assert (await client.wait(task.task_id, 10)).result == {"n": 1}


@pytest.mark.parametrize(
    "command",
    [
        ("SCAN", "0"),
        ("KEYS", "*"),
        ("RANDOMKEY",),
        ("DBSIZE",),
        ("PUBSUB", "CHANNELS"),
        ("SORT_RO", "rq:queues", "BY", "agent:task:*->state"),
        ("TYPE", "agent:open"),
        ("EXISTS", "agent:result:one"),
    ],
    ids=" ".join,
)
def test_dashboard_sees_no_name_of_a_key_beyond_rqs(users, command):
    with open_sync(users.url("dashboard")) as dashboard, pytest.raises(NoPermissionError):
        dashboard.execute_command(*command)


@pytest.mark.parametrize("command", [("SCAN", "0"), ("KEYS", "*"), ("RANDOMKEY",), ("DBSIZE",)], ids=" ".join)
def test_producer_lists_no_keys(users, command):
    with open_sync(users.url("producer")) as producer, pytest.raises(NoPermissionError):
        producer.execute_command(*command)
