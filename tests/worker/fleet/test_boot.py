"""`langgraph-worker` as a process of its own: how it starts, how it ends, and what it says when it cannot start."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq import Client, State
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.worker import boot
from tests.installation import SMALL_PROJECT, START_TIMEOUT_S, clean_environment, start_worker
from tests.waiting import until_sync

SMALL = ("--config", str(SMALL_PROJECT))
NO_REDIS = "redis://ann:hunter2@127.0.0.1:1/0"
TASKS = 500
MODEL_LATENCY_S = 0.5


@pytest.fixture(scope="module")
def own_redis():
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def environment(own_redis):
    with Redis.from_url(own_redis) as redis:
        redis.flushall()
    return {"REDIS_URL": own_redis, "OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}


@pytest.fixture
def own_client(environment):
    with Client(environment["REDIS_URL"]) as client:
        yield client


@pytest.fixture
def client(installation):
    with Client(installation.redis_url) as client:
        yield client


def workers(url: str) -> set[str]:
    with Redis.from_url(url, decode_responses=True) as redis:
        return set(redis.zrange("agent:workers", 0, -1)) & {
            key.removeprefix("rq:worker:") for key in redis.smembers("rq:workers")
        }


def test_worker_that_is_asked_to_end_lets_what_runs_end(environment, own_client, tmp_path):
    with start_worker(tmp_path, environment, *SMALL) as worker:
        worker.wait_until_ready()
        assert len(workers(environment["REDIS_URL"])) == 1
        task_id = own_client.submit({"seconds": 1.5}, graph="nap").task_id
        until_sync(lambda: own_client.status(task_id).state is State.RUNNING)
        late = own_client.submit({"seconds": 0}, graph="nap", priority="low", task_id="late")
        own_client.wait(late.task_id)
        assert worker.end(signal.SIGTERM) == 0, worker.said()
        assert own_client.result(task_id).status is State.SUCCESS
    assert workers(environment["REDIS_URL"]) == set()
    assert worker.events("worker.stopped")


@pytest.mark.parametrize(("of_the_graphs", "turn_s"), [("", 0.001), ("sys.setswitchinterval(0.25)\n", 0.25)])
def test_threads_take_turns_of_a_millisecond_unless_the_graphs_module_says_otherwise(
    environment, own_client, tmp_path, of_the_graphs, turn_s
):
    project = shutil.copytree(SMALL_PROJECT.parent, tmp_path / "project")
    graphs = project / "graphs.py"
    graphs.write_text(graphs.read_text() + of_the_graphs)
    with start_worker(tmp_path, environment, "--config", str(project / "langgraph.json")) as worker:
        worker.wait_until_ready()
        turn = own_client.wait(own_client.submit({"seconds": 0}, graph="turn").task_id)
    assert turn.result == {"seconds": turn_s}


def test_worker_ends_although_a_node_has_left_a_thread(environment, own_client, tmp_path):
    with start_worker(tmp_path, environment, *SMALL) as worker:
        worker.wait_until_ready()
        own_client.wait(own_client.submit({}, graph="thread").task_id, timeout_s=30)
        assert worker.end(signal.SIGTERM) == 0, worker.said()


def test_burst_worker_ends_when_the_queues_are_empty(environment, own_client, tmp_path):
    ids = [own_client.submit({"seconds": 0}, graph="nap").task_id for _ in range(50)]
    with start_worker(tmp_path, environment, *SMALL, "--burst") as worker:
        assert worker.process.wait(START_TIMEOUT_S) == 0, worker.said()
    assert all(own_client.result(task_id).status is State.SUCCESS for task_id in ids)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["block", "stay"], ids=["a thread", "a swallowed cancellation"])
def test_worker_most_of_whose_nodes_are_stuck_ends_for_another_to_be_started(environment, own_client, tmp_path, graph):
    def leave_a_node_blocked(number):
        task_id = own_client.submit({}, graph=graph).task_id
        until_sync(lambda: worker.said().count("a node blocks") == number, START_TIMEOUT_S)
        own_client.cancel(task_id)
        assert own_client.wait(task_id).status is State.CANCELLED

    settings = {"LGRQ_WORKER_CONCURRENCY": "2", "LGRQ_LEASE_S": "1", "LGRQ_CANCEL_GRACE_S": "0.1"}
    with start_worker(tmp_path, environment | settings, *SMALL) as worker:
        worker.wait_until_ready()
        leave_a_node_blocked(1)
        leave_a_node_blocked(2)
        assert worker.process.wait(START_TIMEOUT_S) == 1, worker.said()
    (stuck,) = worker.events("worker.threads_stuck")
    assert stuck["threads"] == 2
    assert worker.events("worker.stopped")


@pytest.mark.slow
def test_process_that_was_killed_is_replaced_and_all_end_together(environment, tmp_path):
    with start_worker(tmp_path, environment, *SMALL, "--processes", "2") as worker:
        worker.wait_until_ready(processes=2)
        children = psutil.Process(worker.process.pid).children()
        assert len(workers(environment["REDIS_URL"])) == 2
        killed = children[0]
        killed.kill()
        worker.wait_until_ready(processes=3)
        children = psutil.Process(worker.process.pid).children()
        assert worker.end() == 0, worker.said()
    (replaced,) = worker.events("process.replaced")
    assert (replaced["pid"], replaced["exit_code"]) == (killed.pid, -signal.SIGKILL)
    assert all(line.startswith("{") for line in worker.said().splitlines()), worker.said()
    assert not any(child.is_running() for child in children)


@pytest.mark.slow
def test_processes_end_when_their_parent_is_killed(environment, tmp_path):
    with start_worker(tmp_path, environment, *SMALL, "--processes", "2") as worker:
        worker.wait_until_ready(processes=2)
        children = psutil.Process(worker.process.pid).children()
        worker.process.kill()
        worker.process.wait()
        until_sync(lambda: not any(child.is_running() for child in children), 30)
    assert len(worker.events("worker.stopped")) == 2


@pytest.mark.slow
def test_redis_in_memory_is_accepted_where_submits_wait_for_replicas(environment, tmp_path):
    with EmbeddedRedis(appendonly="no") as server:
        settings = {"REDIS_URL": server.url, "LGRQ_SUBMIT_REPLICAS": "1"}
        with start_worker(tmp_path, environment | settings, *SMALL, "--burst") as worker:
            worker.wait_until_ready()
        (warned,) = worker.events("redis.in_memory")
    assert (warned["replicas"], warned["submits_wait_for"]) == (0, 1)


@pytest.fixture(scope="module")
def refusals(own_redis, tmp_path_factory):
    """Start one worker for each mistake, all at once; answers (exit code, what it wrote to stderr) by mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "broken.json").write_text('{"graphs": {"mine": "./broken.py:graph"}}')
    (folder / "broken.py").write_text("import there_is_no_such_module\n")
    with EmbeddedRedis(appendonly="no") as unsafe:
        mistakes = {
            "bad graph": ({}, ("--config", "broken.json")),
            "unsafe redis": ({"REDIS_URL": unsafe.url}, ()),
            "unsafe redis of checkpoints": ({"LGRQ_CHECKPOINT_REDIS_URL": unsafe.url}, ()),
            "no redis": ({"REDIS_URL": NO_REDIS}, ("--processes", "2")),
            "bad setting": ({"LGRQ_DRAIN_S": "-1"}, ()),
            "bad queue": ({}, ("--queues", "high,a:b")),
            "no queue": ({}, ("--queues", "")),
            "no graphs": ({"OPENAI_API_KEY": ""}, ()),
        }
        started = {
            name: subprocess.Popen(
                [sys.executable, "-P", "-m", "langgraph_rq.worker", *arguments],
                cwd=folder,
                env=clean_environment({"REDIS_URL": own_redis, "OPENAI_API_KEY": "unused", **environment}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name, (environment, arguments) in mistakes.items()
        }
        said = {name: process.communicate()[1] for name, process in started.items()}
    return {name: (process.returncode, said[name]) for name, process in started.items()}


@pytest.mark.parametrize(
    ("mistake", "code", "says"),
    [
        ("bad graph", 2, "graph 'mine' (./broken.py:graph): could not be imported: ModuleNotFoundError: No module "),
        (
            "unsafe redis",
            2,
            "would lose what it keeps: appendonly: expected yes, or replicas with LGRQ_SUBMIT_REPLICAS=1, got: no. ",
        ),
        ("unsafe redis of checkpoints", 2, "would lose what it keeps: appendonly: expected yes"),
        ("bad setting", 2, "LGRQ_DRAIN_S: expected greater than or equal to 0, got: -1"),
        ("no queue", 2, "--queues: expected names without a colon, comma separated, got: ''"),
        (
            "no graphs",
            2,
            "langgraph.json; name one with --config or LGRQ_CONFIG, or set OPENAI_API_KEY to serve the assistant",
        ),
        ("bad queue", 2, "--queues: expected names without a colon, comma separated, got: 'high,a:b'"),
    ],
)
def test_worker_that_cannot_start_says_why_in_one_line(refusals, mistake, code, says):
    ended, said = refusals[mistake]
    assert ended == code, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said


class SmallRedis(AsyncRedis):
    """Says that it was built for 32 bits, as no server that can be installed here is."""

    async def info(self, *sections):
        return {**await super().info(*sections), "arch_bits": 32}


async def test_redis_whose_integers_are_too_small_for_the_time_is_refused(redis_url):
    async with SmallRedis.from_url(redis_url) as small:
        with pytest.raises(SettingsError, match="expected a build for 64 bits, got: 32 bits"):
            await boot._check(small, redis_url, accept_unsafe=True, replicas=0)


def test_redis_that_goes_away_while_graphs_are_loaded_is_named_in_one_line(tmp_path):
    (tmp_path / "langgraph.json").write_text('{"graphs": {"mine": "./mine.py:graph"}}')
    with EmbeddedRedis() as own:
        (tmp_path / "mine.py").write_text(
            "from langgraph.graph import StateGraph\nfrom redis import Redis\n"
            "graph = StateGraph(dict).add_node('n', lambda _: {}).set_entry_point('n')\n"
            f"Redis.from_url({own.url!r}).shutdown(nosave=True)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "langgraph_rq.worker"],
            cwd=tmp_path,
            env=clean_environment({"REDIS_URL": own.url}),
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 3, ended.stderr
    assert [line for line in ended.stderr.splitlines() if "Traceback" in line or line.startswith("error: ")] == [
        ended.stderr.splitlines()[-1]
    ]
    assert ended.stderr.splitlines()[-1].startswith(f"error: cannot reach Redis at {own.url}: ")


def test_processes_that_cannot_reach_redis_end_without_being_started_again(refusals):
    ended, said = refusals["no redis"]
    assert ended == 3
    assert len(said.splitlines()) <= 2, "one line of each process"
    assert {line.partition(":1/0: ")[0] for line in said.splitlines()} == {
        "error: cannot reach Redis at redis://***@127.0.0.1"
    }


@pytest.mark.parametrize("stream", [[], ["values"], ["events"]], ids=["", "values", "events"])
def test_node_that_ends_the_process_fails_its_own_task_only(installation, client, stream):
    neighbour = client.submit({"seconds": 0.5}, graph="nap").task_id
    until_sync(lambda: client.status(neighbour).state is State.RUNNING)
    failed = client.wait(client.submit({"code": 3}, graph="exit", stream=stream).task_id, timeout_s=30)
    assert (failed.status, failed.error.type, failed.error.message) == ("error", "graph_error", "SystemExit: 3")
    assert client.wait(neighbour, timeout_s=30).status is State.SUCCESS
    assert client.status(neighbour).attempts == 1
    assert installation.worker.process.poll() is None


@pytest.mark.slow
def test_one_process_keeps_hundreds_of_slow_calls_in_flight(disturbed_model, client, record_property):
    disturbed_model.admin.set_latency(MODEL_LATENCY_S)
    began = time.monotonic()
    tasks = client.submit_many([{"input": {"query": f"What is {n} + {n}?"}} for n in range(TASKS)])
    results = list(client.wait_each([task.task_id for task in tasks], timeout_s=60))
    took_s = time.monotonic() - began
    record_property("took_s", round(took_s, 1))
    sys.stdout.write(f"{TASKS} tasks took {took_s:.1f} s at load {os.getloadavg()[0]:.1f}\n")
    assert {result.status for result in results} == {State.SUCCESS}
    assert len(results) == TASKS
    assert took_s < 60, "one after the other they would take 500 s"


SUPERVISED = """
import ctypes, itertools, os, sys, time
from langgraph_rq.worker.fleet import processes

def start():
    for number in itertools.count():
        try:
            os.close(os.open(f"start-{number}", os.O_CREAT | os.O_EXCL))
            return number
        except FileExistsError:
            pass
"""


def supervise(folder, program):
    """Run `program`, whose processes take numbers; answers its exit code and how many were started."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SUPERVISED + program], check=False, cwd=folder, timeout=60
    )
    return ended.returncode, len(list(folder.glob("start-*")))


@pytest.mark.skipif(sys.platform != "linux", reason="a subreaper is Linux's")
def test_process_that_is_inherited_as_process_1_of_a_container_is_not_replaced(tmp_path):
    program = """
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: inherit orphans, as process 1 does
def run():
    start()
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(1)
        os._exit(0)
    os.wait()
    time.sleep(1)
    return 0
sys.exit(processes.run_processes(2, run))
"""
    assert supervise(tmp_path, program) == (0, 2)


def test_replacement_that_finds_redis_away_is_started_again_and_its_neighbours_go_on(tmp_path):
    program = """
processes._RESTART_WAIT_S = 0.05
def run():
    number = start()
    while number == 1 and not os.path.exists("start-3"):
        time.sleep(0.01)
    return (1, 0, 3, 0)[number]
sys.exit(processes.run_processes(2, run))
"""
    assert supervise(tmp_path, program) == (0, 4)
