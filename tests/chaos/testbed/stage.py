"""The testbed of chaos runs: Redis, a model server, a fork server of workers, and the folder of the history."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM
from typing import Any, Self

import psutil
from redis import Redis

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, RedisBinary
from langgraph_rq.shared.queue.keys import DELAYED, OPEN, RQ_QUEUES, events_key, result_key, task_hash
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.chaos.checking import history
from tests.chaos.checking.history import FinalTask, History, PaidCall, read_events
from tests.installation import clean_environment
from tests.postgres import private_postgres
from tests.servers import stack as stack_binary

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).with_name("langgraph.json")
POLL_S = 0.02
_READY_S = 90.0
_END_S = 30.0
_CLIENT_PATIENCE_S = 60.0


class StageError(RuntimeError):
    """A part of the stage failed; the message names it and quotes the end of its log."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker and its log."""

    pid: int
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether the process is there; a stopped one is."""
        return psutil.pid_exists(self.pid)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Read its log events of this name."""
        lines = (line for line in self.log.read_text().splitlines() if f'"{name}"' in line)
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def send(self, number: int) -> None:
        """Send a signal; do nothing if the process has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def strike(self, number: int, fault: str) -> None:
        """Record a fault, then send its signal."""
        history.record("struck", pid=self.pid, detail=fault)
        self.send(number)


class Stage:
    """Redis, model server and fork server for any number of scenarios; each begins with `reset`.

    Args:
        folder: Where histories and logs are.
        settings: Of all workers.
        binary: The server; None: the private one.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, binary: RedisBinary | None = None
    ) -> None:
        self._folder = folder
        self._settings = settings or {}
        self._runs = 0
        self._fork_server: subprocess.Popen[str] | None = None
        self.redis = EmbeddedRedis(binary=binary)
        self.model = OfflineLLM(keep_prompts=True)
        self.workers: list[WorkerProcess] = []
        self.find_redis: Callable[[], str] = self._own_redis
        """Answers the URL of the Redis whose state is judged; a scenario may have one of its own."""

    def _own_redis(self) -> str:
        return self.redis.url

    def __enter__(self) -> Self:
        self.redis.start()
        self.model.start()
        environment = {"OPENAI_BASE_URL": self.model.url, "OPENAI_API_KEY": "offline", "PYTHONPATH": str(ROOT)}
        self._fork_server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.testbed.fork_server"],
            cwd=self._folder,
            env=clean_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._fork_server.stdout
        self._fork_server.stdout.readline()  # it has imported everything
        return self

    def __exit__(self, *_error: object) -> None:
        self._end_workers()
        os.environ.pop(history.FOLDER, None)
        if self._fork_server:
            self._fork_server.communicate()
        self.model.stop()
        self.redis.stop()

    def reset(self, latency_s: float) -> None:
        """Begin a scenario: no workers, an empty Redis, a model server without faults, a history of its own."""
        self._end_workers()
        self.find_redis = self._own_redis
        with self.client() as client:
            client.config_set("maxmemory", 0)
            client.flushall()
        self.model.admin.clear()
        self.model.admin.set_latency(latency_s)
        self._runs += 1
        self.run_folder.mkdir()
        os.environ[history.FOLDER] = str(self.run_folder)

    @property
    def postgres_url(self) -> str | None:
        """Where the workers keep state; None: in Redis."""
        return self._settings.get("LGRQ_STATE_URL")

    @property
    def run_folder(self) -> Path:
        """Where the history and the logs of this scenario are."""
        return self._folder / f"run-{self._runs}"

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """Open a client that goes to Redis directly, past every proxy."""
        url = self.find_redis()
        options: dict[str, Any] = {"encoding_errors": "replace", "socket_timeout": _CLIENT_PATIENCE_S}
        with Redis.from_url(url, decode_responses=True, **options) as client:  # C26 leaves any bytes
            yield client

    def start_worker(
        self,
        environment: Mapping[str, str],
        *,
        concurrency: int,
        mutant: str = "",
        redis_url: str | None = None,
        arguments: Sequence[str] = (),
    ) -> WorkerProcess:
        """Fork a worker; it is not ready yet when this returns."""
        assert self._fork_server
        assert self._fork_server.stdin
        assert self._fork_server.stdout
        log = self.run_folder / f"worker-{len(self.workers)}.log"
        log.touch()
        order = {
            "log": str(log),
            "environment": {
                history.FOLDER: str(self.run_folder),
                "REDIS_URL": redis_url or self.redis.url,
                "LGRQ_BUDGET_DAILY_TOKENS": "none",
                "LGRQ_EVENTS_TTL_S": "3600",
                "LGRQ_REDIS_CONNECTIONS": "16",
                **self._settings,
                **environment,
            },
            "arguments": ["--config", str(CONFIG), "--concurrency", str(concurrency), *arguments],
            "mutant": mutant,
        }
        self._fork_server.stdin.write(json.dumps(order) + "\n")
        self._fork_server.stdin.flush()
        worker = WorkerProcess(int(self._fork_server.stdout.readline()), log)
        self.workers.append(worker)
        return worker

    def wait_until_ready(self, workers: Iterable[WorkerProcess]) -> None:
        """Wait until each has joined the fleet."""
        for worker in workers:
            wait(
                lambda worker=worker: worker.events("worker.started") or not worker.is_alive, _READY_S, "a worker joins"
            )
            if not worker.is_alive:
                raise StageError(f"a worker ended: {worker.log.read_text()[-2000:]}")

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.send(SIGCONT)
            worker.send(SIGTERM)
            worker.send(SIGTERM)  # hand everything back at once
        give_up_at = time.monotonic() + _END_S
        while any(worker.is_alive for worker in self.workers) and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        for worker in self.workers:
            worker.send(SIGKILL)
        self.workers = []

    def read_history(self, tasks: Iterable[str]) -> History:
        """Collect what happened, with the final state of these tasks."""
        with self.client() as client:
            final = _read_final(client, list(dict.fromkeys(tasks)))
            left = _read_left(client)
        return History(tuple(read_events(self.run_folder)), self.calls(), final, left)

    def calls(self) -> tuple[PaidCall, ...]:
        """Read the model server's own log."""
        return tuple(PaidCall.read(record) for record in self.model.admin.calls())


def _read_final(client: Redis, tasks: list[str]) -> dict[str, FinalTask]:
    pipeline = client.pipeline(transaction=False)
    for task in tasks:
        pipeline.hmget(task_hash(task), "state", "epoch", "crashes")
        pipeline.get(result_key(task))
        pipeline.xrange(events_key(task))
    replies = pipeline.execute()
    final = {}
    for i, task in enumerate(tasks):
        (state, epoch, crashes), document, events = replies[3 * i : 3 * i + 3]
        if state is None:
            continue
        ends = sum(fields.get("type") == "end" for _, fields in events)
        result = json.loads(document) if document else {}
        output = result.get("result")
        steps = tuple(output.get("steps", ())) if isinstance(output, dict) else ()
        error = (result.get("error") or {}).get("type")
        final[task] = FinalTask(state, int(epoch), int(crashes or 0), ends if document else 0, steps, error)
    return final


def _read_left(client: Redis) -> dict[str, int]:
    """Count the keys that must be empty when no task runs or waits."""
    found = {
        OPEN: client.zcard(OPEN),
        DELAYED: client.zcard(DELAYED),
        "agent:in_flight": client.hlen("agent:in_flight"),
    }
    found |= {queue: client.llen(queue) for queue in client.smembers(RQ_QUEUES)}
    turns = ("waiting", "runnable", "wait", "tenant_turns", "tenant_line", "tenant_open", "capped", "thread")
    for pattern in (f"agent:{kind}:*" for kind in ("own", *turns)):
        found[pattern] = sum(1 for _ in client.scan_iter(pattern, count=1000))
    found["rq:wip:*"] = sum(int(client.zcard(key)) for key in client.scan_iter("rq:wip:*", count=1000))
    return {key: int(number) for key, number in found.items() if number}


def wait(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    """Wait until `condition`; raise StageError naming it after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise StageError(f"waited {timeout_s:.0f} s until {what}")
        time.sleep(POLL_S)


@contextmanager
def open_stage(state: str = "redis") -> Iterator[Stage]:
    """Set up a stage in a temporary folder, whose workers keep state as LGRQ_STATE says."""
    settings, binary = {"LGRQ_STATE": state}, None
    with ExitStack() as stack:
        if state == "postgres":
            settings["LGRQ_STATE_URL"] = stack.enter_context(private_postgres()).url
        elif state == "redis-stack":
            binary = stack_binary()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lgrq-chaos-"))
        yield stack.enter_context(Stage(Path(folder), settings, binary))
