"""Other task queues that run the same graphs against the same model server, tuned as well as we can."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from redis import Redis
from rq import Queue

from benchmarks.rig import ROOT, Rig, client
from benchmarks.systems.contenders import Programs, all_finish, expect, registered, work
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

_JOB = "benchmarks.systems.graphs.rq_job"
_ARQ = ROOT / "benchmarks/systems/arq/requirements.txt"
_ARQ_VENV = ROOT / ".data/bench-arq"
_GRAPH_LIBRARIES = ("langgraph", "langchain-core", "langchain-openai", "openai", "httpx", "pydantic")
_INSTALL_S = 180


class PeerMissingError(RuntimeError):
    """A peer cannot be installed here and is left out."""


@dataclass(frozen=True, slots=True)
class StockRq:
    """RQ's own pool of workers."""

    rig: Rig
    name: str
    server: EmbeddedRedis
    redis: Redis
    jobs: Queue
    processes: Sequence[psutil.Popen]

    def prepare(self, workload: str, tasks: int) -> Callable[[], None]:
        """Prepare the jobs; enqueueing them is measured."""
        jobs = [
            Queue.prepare_data(f"{_JOB}.run", args=(workload, work(number)), result_ttl=3600) for number in range(tasks)
        ]

        def run() -> None:
            with all_finish(self.rig, self.name, self.processes[0], self.redis, self.jobs.name, tasks):
                self.jobs.enqueue_many(jobs)

        return run


@contextmanager
def stock_rq(rig: Rig, server: EmbeddedRedis, queue: str, *options: str, workers: int = 8) -> Iterator[StockRq]:
    """Start `rq worker-pool` with further `options`."""
    arguments = ["-m", "rq.cli", "worker-pool", "--num-workers", str(workers), "--url", server.url, *options, queue]
    with client(server) as redis, Redis.from_url(server.url) as raw, rig.process(queue, *arguments) as process:
        rig.wait_until(queue, process, lambda: registered(redis, queue) == workers)
        yield StockRq(rig, queue, server, redis, Queue(queue, connection=raw), [process])


PRELOADED = ("--config", _JOB)
"""The pool imports the graphs once, before it forks; RQ takes any module for its configuration."""
KEPT_LOOP = (*PRELOADED, "--worker-class", "rq.worker.SimpleWorker")
"""No fork per job, so that a worker keeps its event loop and its connections."""


@contextmanager
def arq(rig: Rig, server: EmbeddedRedis, workers: int) -> Iterator[Programs]:
    """Start arq's workers, and a producer beside them. Raises PeerMissingError."""
    python = _install_arq()
    environment = {"REDIS_URL": server.url}
    with ExitStack() as stack:

        def start(name: str, module: str) -> psutil.Popen:
            process = rig.process(name, "-m", module, environment=environment, talks=True, python=python)
            return stack.enter_context(process)

        running = [start(f"arq-{n}", "benchmarks.systems.arq.worker") for n in range(workers)]
        producer = start("arq-producer", "benchmarks.systems.arq.producer")
        for process in (*running, producer):
            expect("arq", process, "ready")
        yield Programs("arq", running, [producer], server=server)


def _install_arq() -> Path:
    """Create arq's environment, once, with the versions of the graph's libraries here; return its Python."""
    python = _ARQ_VENV / "bin/python"
    uv = [sys.executable, "-m", "uv"]
    same = [f"{library}=={version(library)}" for library in _GRAPH_LIBRARIES]
    commands = [
        [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(_ARQ_VENV)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), "--requirements", str(_ARQ), *same],
    ]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            raise PeerMissingError(f"arq is left out: installing it took more than {_INSTALL_S} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PeerMissingError(f"arq is left out: it could not be installed ({last.strip()})")
    return python
