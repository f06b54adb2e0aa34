"""The shipped users: each role's main path leaves nothing in ACL LOG, and what a role must not do is refused."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.store.base import ensure_embeddings
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import Client
from langgraph_rq.producer.dashboard.app import make_app
from langgraph_rq.shared.connections.clients import open_async, open_sync
from langgraph_rq.shared.connections.script_cache import load_missing
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.attempts import adopt_call, claim_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import leave_call, renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.tasks import Task, TaskLimits
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer as StackCheckpointer
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.state.store.vector_index import VectorIndex
from langgraph_rq.worker.state.store.vector_sets import VectorSets, check_vector_sets
from tests.deployment import make_secrets, role_url
from tests.gateways import gateway
from tests.servers import redis_8, redis_stack

ROLES = ("admin", "producer", "worker", "dashboard")
FORBIDDEN = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
    ("KEYS", "*"),
    ("MONITOR",),
    ("SCRIPT", "FLUSH"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "default", "on"),
    ("SHUTDOWN",),
    ("REPLICAOF", "NO", "ONE"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("FUNCTION", "FLUSH"),
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "LOAD", "return 1"),
    ("SCRIPT", "EXISTS", "0" * 40),
    ("FUNCTION", "LOAD", "#!lua name=f\nredis.register_function('f', function() end)"),
    ("FCALL", "f", "0"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("HSET", "agent:budget:20000:global", "used_tokens", "0"),
    ("DEL", "agent:budget:reservations"),
    ("HSET", "agent:budget:policy", "global", "- -"),
    ("HSET", "agent:breaker:openai/gpt-4o", "state", "closed"),
    ("DEL", "agent:breakers"),
    ("DEL", "agent:anchors"),
    ("ZADD", "agent:workers", "9999999999999", "intruder"),
    ("ZADD", "agent:graphs", "9999999999999", "intruder"),
    ("HSET", "rq:worker:one", "state", "idle"),
    ("PUBLISH", "rq:pubsub:one", "{}"),
    ("GET", "checkpoint:thread:one"),
    ("HGETALL", "agent:journal:one"),
    ("HDEL", "agent:ledger:one", "key"),
    ("SET", "anything:else", "1"),
]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def urls(secrets) -> Iterator[dict[str, str]]:
    with EmbeddedRedis(aclfile=str(secrets / "users.acl")) as server:
        urls = {role: role_url(server, role, secrets) for role in ROLES}
        with open_sync(urls["worker"]) as worker:
            load_missing(worker)
        yield urls


@pytest.fixture
def admin(urls) -> Iterator[Redis]:
    with Redis.from_url(urls["admin"], decode_responses=True) as client:
        client.acl_log_reset()
        client.flushdb()  # tasks that another test has left would be claimed
        yield client


def refusals(admin: Redis) -> list[tuple[str, str]]:
    return [(entry["username"], entry["object"]) for entry in admin.acl_log()]


def test_tasks_run_and_are_looked_up_with_nothing_refused(urls, admin, tmp_path):
    with OfflineLLM() as model, Client(urls["producer"]) as client:
        receipts = client.submit_many([{"input": {"query": f"What is {n}?"}, "thread_id": "one"} for n in range(3)])
        late = client.submit({"query": "never mind"}, user_id="ann")
        client.cancel(late.task_id)
        environment = {
            **os.environ,
            "REDIS_URL": urls["worker"],
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "offline",
            "LGRQ_AUDIT_WORKER_KEY": "a-key-of-32-characters-and-more-",
            "LGRQ_ANSWER_JOURNAL": "true",
        }
        command = [sys.executable, "-m", "langgraph_rq.worker", "--burst"]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
        assert refusals(admin) == [], done.stderr
        assert done.returncode == 0, done.stderr
        results = list(client.wait_each([receipt.task_id for receipt in receipts], 10))
    assert refusals(admin) == []
    assert [result.status for result in results] == ["success"] * 3


async def test_graphs_use_the_store_with_nothing_refused_and_producers_may_not(urls, admin):
    async with open_async(urls["worker"]) as redis:
        loops = EventLoops(redis, urls["worker"])
        store = Store(Access(loops, Outages()))
        for ttl in (None, 1, None):
            await store.aput(("users", "ann"), "k", {"n": 1}, ttl=ttl)
            await store.aput(("users", "bob"), "k", {"n": 1}, ttl=1)
            assert len(await store.asearch(("users",), filter={"n": 1})) == 2
            assert len(await store.alist_namespaces()) == 2
        await store.raise_epoch("t", 2)
        await store.adelete(("users", "ann"), "k")
        await loops.aclose()
    assert refusals(admin) == []
    reads = [("HGET", "agent:store:default:users.bob", "k"), ("ZRANGE", "agent:store_namespaces:default", "0", "-1")]
    assert allowed(urls["producer"], reads) == allowed(urls["dashboard"], reads) == []


def test_producer_cancels_a_job_of_stock_rq_that_a_worker_put_aside_with_nothing_refused(urls, admin):
    task = Task.parse({"input": {}, "task_id": "stock", "graph": "elsewhere"}, TaskLimits())
    with open_sync(urls["worker"]) as redis, Client(urls["producer"]) as client:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        queue.enqueue("langgraph_rq.run_task", {"input": {}, "graph": "elsewhere"}, job_id="stock")
        for worker, graphs in (("w1", {"assistant": "{}"}), ("w2", {"elsewhere": "{}"})):
            run_sync(redis, renew_call(worker, 60_000, ["agent_tasks"], graphs, join=True))
        claim = claim_call("w1", 1, ["agent_tasks"], graph_list(["assistant"]), QueueTimes())
        (claimed,) = run_sync(redis, claim).tasks
        assert run_sync(redis, adopt_call(claimed, "w1", task, QueueTimes(), is_served=False)) == -1
        assert client.cancel("stock") == "cancelled"
        assert redis.hget("rq:job:stock", "status") == b"canceled"
        for worker in ("w1", "w2"):
            run_sync(redis, leave_call(worker))
    assert refusals(admin) == []


async def test_gateway_answers_every_question_with_nothing_refused(urls, admin):
    async with gateway(urls["producer"], rate="1000/minute") as http:
        task = (await http.post("/tasks", json={"input": {"query": "hello"}, "user_id": "ann"})).json()
        for path in ["", "/result?wait=0.2"]:
            assert (await http.get(f"/tasks/{task['task_id']}{path}")).status_code < 300
        for path in ["/health", "/ready", "/metrics", "/usage", "/tasks", f"/status/{task['task_id']}"]:
            assert (await http.get(path)).status_code in {200, 503}, path
        assert (await http.delete(f"/tasks/{task['task_id']}")).status_code < 300
    assert refusals(admin) == []


def test_dashboard_shows_every_page_with_nothing_refused(urls, admin):
    with Client(urls["producer"]) as client:
        task = client.submit({"query": "hello"})
    with open_sync(urls["dashboard"]) as redis:
        browser = make_app(redis, "redis", "word", Redactor()).test_client()
        browser.environ_base["HTTP_AUTHORIZATION"] = "Basic " + b64encode(b"admin:word").decode()
        for path in [
            "/",
            "/0/view/workers",
            "/0/data/queues.json",
            "/0/data/workers.json",
            "/0/view/jobs/agent_tasks/queued/8/asc/1",
            "/0/data/jobs/agent_tasks/queued/8/asc/1.json",
            f"/0/view/job/{task.task_id}",
            f"/0/data/job/{task.task_id}.json",
        ]:
            answer = browser.get(path)
            assert answer.status_code == 200, path
    assert answer.json["status"] == "pending"  # the task's state, not RQ's `queued`
    assert refusals(admin) == []


def allowed(url: str, commands) -> list[str]:
    """The commands that were not refused."""
    with open_sync(url, connections=1) as client:
        found = []
        for command in commands:
            try:
                client.execute_command(*command)
            except NoPermissionError:
                continue
            except ResponseError as error:
                found.append(f"{' '.join(command)}: {error}")
            else:
                found.append(" ".join(command))
    return found


@pytest.mark.parametrize("role", ["producer", "dashboard"])
def test_what_only_workers_and_operators_may_do_is_refused(urls, role):
    assert allowed(urls[role], FORBIDDEN) == []


def test_workers_may_not_administer_redis(urls):
    assert allowed(urls["worker"], FORBIDDEN[:14]) == []


def test_dashboard_may_not_write_nor_run_scripts_nor_read_results(urls):
    commands = [
        ("HSET", "rq:job:one", "status", "failed"),
        ("DEL", "rq:job:one"),
        ("EVALSHA", "0" * 40, "0"),
        ("GET", "agent:result:one"),
        ("PUBLISH", "agent:anything", ""),
    ]
    assert allowed(urls["dashboard"], commands) == []


@pytest.mark.parametrize("login", ["", "default:@", "default:guess@"])
def test_nobody_is_anonymous(urls, login):
    path = urls["admin"].partition("@")[2].partition("?")[0]
    with (
        open_sync(f"unix://{login}{path}") as client,
        pytest.raises(Exception, match=r"HELLO must be called|Authentication required|invalid username-password"),
    ):
        client.ping()


def test_nothing_acknowledged_is_gone_after_a_restart_with_these_users(secrets):
    with EmbeddedRedis(aclfile=str(secrets / "users.acl"), appendfsync="always") as server:
        with open_sync(role_url(server, "worker", secrets)) as worker:
            load_missing(worker)
        with Client(role_url(server, "producer", secrets)) as client:
            tasks = client.submit_many([{"input": {"query": f"What is {n}?"}} for n in range(3)])
        server.kill()
        server.start()
        with Client(role_url(server, "producer", secrets)) as client:
            states = [client.status(task.task_id).state for task in tasks]
    assert states == ["pending"] * 3


async def test_workers_with_redis_stack_get_its_commands_and_keys(tmp_path):
    secrets = make_secrets(tmp_path / "secrets", STATE="redis-stack")
    with redis_stack(aclfile=str(secrets / "users.acl")) as server:
        async with open_async(role_url(server, "worker", secrets)) as client:
            saver = StackCheckpointer(client)
            await saver.asetup()
            config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            await saver.aput(config, empty_checkpoint(), {"step": 0}, {})
            assert await saver.aget_tuple(config)
        with Redis.from_url(role_url(server, "admin", secrets)) as client:
            assert client.acl_log() == []


async def test_workers_with_vector_sets_get_their_commands_and_others_do_not_start_with_them(tmp_path, secrets):
    with EmbeddedRedis(binary=redis_8(), aclfile=str(secrets / "users.acl")) as server:
        async with open_async(role_url(server, "worker", secrets)) as client:
            with pytest.raises(SettingsError, match=r"INDEX=vector-sets deploy/make-secrets\.sh"):
                await check_vector_sets(client, is_encrypted=False)
    own = make_secrets(tmp_path / "secrets", INDEX="vector-sets")
    index = VectorIndex(1, ensure_embeddings(lambda texts: [[1.0] for _ in texts]))
    with EmbeddedRedis(binary=redis_8(), aclfile=str(own / "users.acl")) as server:
        url = role_url(server, "worker", own)
        async with open_async(url) as client:
            await check_vector_sets(client, is_encrypted=False)
            loops = EventLoops(client, url)
            for access in (Access, VectorSets, Access):
                store = Store(access(loops, Outages()), index=index)
                await store.aput(("users", access.__name__), "k", {"n": 1})
                found = await store.asearch(("users",), query="any")
                assert {item.score for item in found} == {1.0}
            await store.adelete(("users", "VectorSets"), "k")
            await loops.aclose()
        with Redis.from_url(role_url(server, "admin", own)) as client:
            assert client.acl_log() == []
