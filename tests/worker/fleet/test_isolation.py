"""A task that ends its process is found, and its neighbours are not taken for it."""

import asyncio
import re
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq import Client, State
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.attempts import claim_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import NOW, QueueTimes, submit_call
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings, load
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.worker.fleet import loop_watch
from langgraph_rq.worker.fleet.forked import fork_server
from langgraph_rq.worker.fleet.forked import isolation as isolation_module
from langgraph_rq.worker.fleet.forked.fork_server import ForkServer
from langgraph_rq.worker.fleet.forked.isolated import run_isolated
from langgraph_rq.worker.fleet.forked.isolation import Isolation
from langgraph_rq.worker.task.result import Ended
from tests.breakers import Breakers
from tests.fleet import one_node_graph, worker
from tests.installation import ROOT, start_worker
from tests.shared.queue.test_questions import ANSWER
from tests.shared.queue.test_questions import Thread as Asked
from tests.waiting import until

CONFIG = str(ROOT / "tests/projects/killers/langgraph.json")


def start_isolation(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    for name, value in {"REDIS_URL": redis_url, "OPENAI_API_KEY": "unused"}.items():
        monkeypatch.setenv(name, value)
    settings = load(WorkerSettings).model_copy(update={"config": Path(CONFIG), "checkpoints": False})
    return Isolation(ForkServer.start(run_isolated), settings, load(RedisSettings), 1_000_000)


@pytest.fixture
def isolated(redis_url, monkeypatch):
    isolation = start_isolation(redis_url, monkeypatch)
    yield isolation
    isolation.fork_server.close()


async def test_isolated_task_outlives_the_signals_that_end_its_worker(redis_url, isolated):
    async with AsyncRedis.from_url(redis_url) as redis, asyncio.timeout(100):
        await scripts.run(redis, renew_call("w1", 60_000, ["agent_tasks"], {"killer": "{}"}, join=True))
        task = Task.parse({"input": {"seconds": 1}, "graph": "killer", "deadline_s": 90}, TaskLimits())
        await scripts.run(redis, submit_call(task, "agent_tasks", QueueTimes()))
        (claimed,) = (
            await scripts.run(redis, claim_call("w1", 1, ["agent_tasks"], graph_list(["killer"]), QueueTimes()))
        ).tasks
        running = asyncio.create_task(isolated.run(claimed, "w1", task))
        while not running.done():
            server = psutil.Process(isolated.fork_server.pid)
            for process in (server, *server.children(recursive=True)):
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
            await asyncio.wait([running], timeout=0.2)
        ended = running.result()
    assert isinstance(ended, Ended), ended
    assert ended.state is State.SUCCESS


async def test_isolated_task_masks_own_patterns_in_its_log_lines(redis_url, capfd, monkeypatch):
    monkeypatch.setenv("LGRQ_REDACTION_PATTERNS", '{"case": "CASE-[0-9]{6}"}')
    isolation = start_isolation(redis_url, monkeypatch)
    async with AsyncRedis.from_url(redis_url) as redis, asyncio.timeout(60):
        await scripts.run(redis, renew_call("w1", 60_000, ["agent_tasks"], {"killer": "{}"}, join=True))
        task = Task.parse({"input": {}, "graph": "killer", "user_id": "CASE-123456"}, TaskLimits())
        await scripts.run(redis, submit_call(task, "agent_tasks", QueueTimes()))
        (claimed,) = (
            await scripts.run(redis, claim_call("w1", 1, ["agent_tasks"], graph_list(["killer"]), QueueTimes()))
        ).tasks
        ended = await isolation.run(claimed, "w1", task)
    isolation.fork_server.close()
    assert isinstance(ended, Ended), ended
    told = capfd.readouterr().err
    assert '"user_id":"[case]"' in told
    assert "CASE-123456" not in told


def processes_of(isolation: Isolation) -> list[psutil.Process]:
    return psutil.Process(isolation.fork_server.pid).children(recursive=True)


async def test_isolated_task_that_redis_left_comes_back_with_redis_and_leaves_no_process_behind(tmp_path, monkeypatch):
    server = EmbeddedRedis(tmp_path / "redis", appendfsync="always")
    with server as redis, Client(redis.url) as client, Redis.from_url(redis.url) as raw:
        task_id = client.submit({"folder": str(tmp_path)}, graph="held", deadline_s=60).task_id
        raw.hset(f"agent:task:{task_id}", "crashes", 2)
        isolation = start_isolation(redis.url, monkeypatch)
        try:
            async with worker(redis.url, {"held": one_node_graph(lambda _state: None)}, isolation=isolation):
                await until((tmp_path / "started").exists, 30)
                redis.kill()
                (tmp_path / "goes_on").touch()
                await until(lambda: not processes_of(isolation), 30)
                redis.start()
                result = await asyncio.to_thread(client.wait, task_id, 30)
                assert (result.status, result.result["done"], result.metadata.attempts) == (State.SUCCESS, True, 2)
                await until(lambda: not processes_of(isolation))
        finally:
            isolation.fork_server.close()


async def test_isolated_task_that_blocks_its_event_loop_ends_as_an_error_that_names_the_line(redis_url, monkeypatch):
    monkeypatch.setattr(loop_watch, "STUCK_S", 1.0)
    isolation = start_isolation(redis_url, monkeypatch)
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_id = client.submit({"seconds": 60}, graph="blocker", deadline_s=90).task_id
        raw.hset(f"agent:task:{task_id}", mapping={"crashes": 1, "blocked_in": "graphs.py:1", "input_tokens": 7})
        try:
            async with worker(redis_url, {"blocker": one_node_graph(lambda _state: None)}, isolation=isolation):
                result = await asyncio.to_thread(client.wait, task_id, 45)
                await until(lambda: not processes_of(isolation))
        finally:
            isolation.fork_server.close()
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)
    assert re.fullmatch(r"blocked the event loop in tests/projects/killers/graphs\.py:\d+", result.error.message)
    assert (result.metadata.graph, result.metadata.input_tokens) == ("blocker", 7)


def submit_suspects(client: Client, raw: Redis, *inputs: dict, graph: str = "killer", **fields: object) -> list[str]:
    """Submit tasks under each of which two workers seem to have crashed; returns their ids."""
    tasks = [{"input": one, "graph": graph, "deadline_s": 60} for one in inputs]
    task_ids = [receipt.task_id for receipt in client.submit_many(tasks)]
    for task_id in task_ids:
        raw.hset(f"agent:task:{task_id}", mapping={"crashes": 2, **fields})
    return task_ids


async def results_of(client: Client, task_ids: list[str]) -> list[TaskResult]:
    return await asyncio.to_thread(lambda: [client.wait(task_id, 50) for task_id in task_ids])


async def test_worker_whose_fork_server_was_killed_stops_and_gives_its_suspects_back(redis_url, monkeypatch):
    monkeypatch.setattr(fork_server, "_SIGN_S", 0.1)
    isolation = start_isolation(redis_url, monkeypatch)
    psutil.Process(isolation.fork_server.pid).kill()
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        (task_id,) = submit_suspects(client, raw, {})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolation) as one:
            await until(lambda: one.is_stopping, 30)
        assert (one.is_broken, client.status(task_id).state) == (True, State.PENDING)
    isolation.fork_server.close()


async def test_suspects_come_back_in_groups_of_half_the_size_until_a_killer_is_alone(redis_url, isolated):
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        *innocents, killer = submit_suspects(client, raw, *[{"seconds": 0.5}] * 8, {"kills": True})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            *others, poisoned = await results_of(client, [*innocents, killer])
        size = int(raw.hget(f"agent:task:{killer}", "group_size"))
    assert (poisoned.error.type, size) == (ErrorType.POISONED, 1)
    assert poisoned.metadata.attempts in {4, 5}  # in a process of 9, of 5 or 4, 3 or 2, perhaps 2, and alone
    assert [one.status for one in others] == [State.SUCCESS] * 8
    assert len({one.result["pid"] for one in others}) < 8


async def test_poisoned_task_has_the_id_and_the_graph_of_its_client_in_result_and_log(redis_url, isolated, lines):
    with Client(redis_url) as whole, Redis.from_url(redis_url) as raw:
        client = whole.for_tenant("acme")
        task_id = client.submit({"kills": True}, graph="killer", task_id="t1").task_id
        raw.hset("agent:task:acme--t1", mapping={"crashes": 2, "group_size": 1})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            (poisoned,) = await results_of(client, [task_id])
    assert (poisoned.error.type, poisoned.task_id, poisoned.metadata.graph) == (ErrorType.POISONED, "t1", "killer")
    assert [one["graph"] for one in lines.named("task.failed")] == ["killer"]


async def test_node_that_exits_in_a_child_process_fails_its_task_and_no_other(redis_url, isolated):
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        *innocents, exiting = submit_suspects(client, raw, *[{"seconds": 0.5}] * 2, {"exit_code": 4})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            *others, failed = await results_of(client, [*innocents, exiting])
    assert (failed.error.type, failed.error.message) == (ErrorType.GRAPH_ERROR, "SystemExit: 4")
    assert [(one.status, one.metadata.attempts) for one in others] == [(State.SUCCESS, 1)] * 2


async def test_isolated_task_shows_what_it_waits_for(redis_url, aredis, server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    await Breakers(aredis, BreakerLimits()).report("openai/gpt-4o", "t", 0, Outcome.QUOTA)
    isolation = start_isolation(redis_url, monkeypatch)
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        (task_id,) = submit_suspects(client, raw, {}, graph="caller")
        try:
            async with worker(redis_url, {"caller": one_node_graph(lambda _state: None)}, isolation=isolation):
                waits = "waits for openai/gpt-4o in its worker's memory"
                await until(lambda: client.status(task_id).reason == waits, 30)
                await asyncio.to_thread(client.cancel, task_id)
                (result,) = await results_of(client, [task_id])
        finally:
            isolation.fork_server.close()
    assert result.status is State.CANCELLED


async def test_isolated_task_that_ends_before_it_ran_leaves_its_threads_question(redis_url, isolated, monkeypatch):
    monkeypatch.setattr(isolation_module, "_MOST_CHILDREN", 0)
    async with AsyncRedis.from_url(redis_url) as redis:
        thread = Asked(redis)
        thread.now_ms = NOW
        await thread.ask("asks", "behind")
        await thread.submit("answer", **ANSWER, deadline_s=1)
        await redis.hset("agent:task:answer", "crashes", 2)
        with Client(redis_url) as client:
            async with worker(redis_url, {"assistant": one_node_graph(lambda _state: None)}, isolation=isolated):
                (result,) = await results_of(client, ["answer"])
            assert (result.status, client.status("behind").state) == (State.TIMEOUT, State.PENDING)
        assert await redis.hget("agent:question:th", "task") == b"asks"
        assert await redis.hexists("agent:question:th", "since")


async def test_suspect_shares_its_process_with_as_many_as_its_hash_says(redis_url, isolated):
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_ids = submit_suspects(client, raw, *[{}] * 6, group_size=3)
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            results = await results_of(client, task_ids)
    assert sorted(Counter(one.result["pid"] for one in results).values()) == [3, 3]


async def test_suspect_that_blocked_a_loop_before_shares_its_process_with_none(redis_url, isolated):
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_ids = submit_suspects(client, raw, *[{}] * 2, blocked_in="graphs.py:1")
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            first, second = await results_of(client, task_ids)
    assert first.result["pid"] != second.result["pid"]


async def test_cancelled_suspect_ends_and_the_others_of_its_process_go_on(redis_url, isolated, tmp_path):
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        folders = [tmp_path / name for name in ("cancelled", "other")]
        for folder in folders:
            folder.mkdir()
        inputs = [{"folder": str(folder)} for folder in folders]
        cancelled, other = submit_suspects(client, raw, *inputs, graph="held")
        async with worker(redis_url, {"held": one_node_graph(lambda _state: None)}, isolation=isolated):
            await until(lambda: all((folder / "started").exists() for folder in folders), 30)
            await asyncio.to_thread(client.cancel, cancelled)
            result = await asyncio.to_thread(client.wait, cancelled, 30)
            await until((folders[0] / "cancelled").exists)
            (folders[1] / "goes_on").touch()
            (survivor,) = await results_of(client, [other])
    assert (result.status, survivor.status, survivor.metadata.attempts) == (State.CANCELLED, State.SUCCESS, 1)


async def test_suspect_that_blocks_the_loop_of_its_group_ends_and_the_others_come_back(redis_url, monkeypatch):
    monkeypatch.setattr(loop_watch, "STUCK_S", 1.0)
    isolation = start_isolation(redis_url, monkeypatch)
    graphs = {name: one_node_graph(lambda _state: None) for name in ("blocker", "killer")}
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        (blocker,) = submit_suspects(client, raw, {"seconds": 60}, graph="blocker")
        others = submit_suspects(client, raw, *[{"seconds": 0.5}] * 3)
        try:
            async with worker(redis_url, graphs, isolation=isolation):
                blocked, *results = await results_of(client, [blocker, *others])
        finally:
            isolation.fork_server.close()
    assert "blocked the event loop in" in blocked.error.message
    assert [(one.status, one.metadata.attempts) for one in results] == [(State.SUCCESS, 2)] * 3


@pytest.mark.parametrize(("crashes", "blocked_in"), [(0, "graphs.py:1"), (1, "")])
async def test_task_is_not_isolated_for_one_crash_or_a_stall_without_one(redis_url, isolated, crashes, blocked_in):
    ran = []
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_id = client.submit({}, graph="killer").task_id
        raw.hset(f"agent:task:{task_id}", mapping={"crashes": crashes, "blocked_in": blocked_in})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: ran.append(1))}, isolation=isolated):
            await asyncio.to_thread(client.wait, task_id, 20)
    assert ran


async def test_deadline_holds_while_a_task_waits_to_be_isolated(redis_url, isolated, monkeypatch):
    monkeypatch.setattr(isolation_module, "_MOST_CHILDREN", 0)
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_id = client.submit({}, graph="killer", deadline_s=1).task_id
        raw.hset(f"agent:task:{task_id}", mapping={"crashes": 2, "input_tokens": 7})
        async with worker(redis_url, {"killer": one_node_graph(lambda _state: None)}, isolation=isolated):
            result = await asyncio.to_thread(client.wait, task_id, 30)
    assert (result.status, result.metadata.input_tokens) == (State.TIMEOUT, 7)


@pytest.mark.slow
async def test_isolated_task_that_blocks_past_its_deadline_ends_as_timeout(redis_url, isolated, monkeypatch):
    monkeypatch.setattr(isolation_module, "_GRACE_S", 0.1)
    with Client(redis_url) as client, Redis.from_url(redis_url) as raw:
        task_id = client.submit({"seconds": 60}, graph="blocker", deadline_s=3).task_id
        raw.hset(f"agent:task:{task_id}", "crashes", 2)
        async with worker(redis_url, {"blocker": one_node_graph(lambda _state: None)}, isolation=isolated):
            result = await asyncio.to_thread(client.wait, task_id, 30)
        await until(lambda: not processes_of(isolated))
    assert result.status is State.TIMEOUT


@pytest.mark.slow
def test_task_that_ends_its_process_is_poisoned_and_its_neighbours_succeed(tmp_path):
    with EmbeddedRedis() as redis:
        environment = {"REDIS_URL": redis.url, "LGRQ_LEASE_S": "1"}
        with (
            start_worker(tmp_path, environment, "--config", CONFIG, "--processes", "2") as worker,
            Client(redis.url) as client,
        ):
            worker.wait_until_ready(2)
            innocents = client.submit_many(
                [{"input": {"seconds": 1.0}, "graph": "killer", "deadline_s": 120} for _ in range(20)]
            )
            killer = client.submit({"kills": True}, graph="killer", deadline_s=120)
            result = client.wait(killer.task_id, 100)
            others = list(client.wait_each([one.task_id for one in innocents], 100))
        assert (result.status, result.error.type) == (State.ERROR, ErrorType.POISONED)
        assert "in node 'strike': killed by SIGKILL" in result.error.message
        assert result.error.node == "strike"
        assert [one.status for one in others] == [State.SUCCESS] * 20
        with Redis.from_url(redis.url) as raw:
            assert int(raw.hget(f"agent:task:{killer.task_id}", "crashes")) == 2
