"""The systems that run the workload, behind one interface: `prepare`, which is not measured, returns the measured run.

A contender is started once for all rounds, which alternate with rounds of the others. Here are this project's worker
and the bare graph; `benchmarks.systems.peers` has the others.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import psutil
from redis import Redis

from benchmarks.rig import LANGGRAPH_JSON, BenchmarkError, Rig, client
from langgraph_rq.producer.client.client import Client
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.keys import result_key
from langgraph_rq.shared.settings import QueueSettings

CONCURRENCY = 100
"""Tasks in flight per process."""

_ENDED = "finished", "failed"
_ASK_S = 0.03
"""How often Redis is asked: a hundred times a second would be a twentieth of its work."""
_TOKENS = 10**12
"""A daily budget that is booked like any other but never exhausted."""


class Contender(Protocol):
    """A system that is ready to work."""

    @property
    def processes(self) -> Sequence[psutil.Process]:
        """The processes whose CPU and memory count, descendants included."""

    @property
    def server(self) -> EmbeddedRedis | None:
        """Its Redis; None: it needs none."""

    def prepare(self, workload: str, tasks: int) -> Callable[[], None]:
        """Return a function that runs the graph `tasks` times and returns when all have succeeded."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that read orders from standard input and answer each with a line; `processes` do the work."""

    name: str
    processes: Sequence[psutil.Popen]
    talkers: Sequence[psutil.Popen]
    concurrency: int = CONCURRENCY
    server: EmbeddedRedis | None = None

    def prepare(self, workload: str, tasks: int) -> Callable[[], None]:
        """Prepare the orders; the tasks are divided among the programs."""
        inputs, talkers = [work(number) for number in range(tasks)], len(self.talkers)
        order = {"workload": workload, "concurrency": self.concurrency}
        orders = [json.dumps({**order, "inputs": inputs[n::talkers]}) for n in range(talkers)]

        def run() -> None:
            for talker, order in zip(self.talkers, orders, strict=True):
                talker.stdin.write(order + "\n")
                talker.stdin.flush()
            for talker in self.talkers:
                expect(self.name, talker, "done")

        return run


@contextmanager
def floor(rig: Rig, processes: int = 1, checkpoints: EmbeddedRedis | None = None) -> Iterator[Programs]:
    """Start `processes` bare graphs, with checkpoints in a Redis or without any."""
    environment = {"FLOOR_CHECKPOINTS": checkpoints.url} if checkpoints else {}
    arguments = ["-m", "benchmarks.systems.floor"]
    with ExitStack() as stack:
        programs = [
            stack.enter_context(rig.process(f"floor-{n}", *arguments, environment=environment, talks=True))
            for n in range(processes)
        ]
        for program in programs:
            expect("the bare graph", program, "ready")
        yield Programs("the bare graph", programs, programs, server=checkpoints)


def expect(name: str, process: psutil.Popen, word: str) -> None:
    """Read a program's next line; raise BenchmarkError if it is not `word`."""
    if (said := process.stdout.readline().strip()) != word:
        raise BenchmarkError(f"{name}: expected {word}, got: {said or 'its end'}")


@dataclass(frozen=True, slots=True)
class Worker:
    """This project's worker."""

    rig: Rig
    name: str
    server: EmbeddedRedis
    redis: Redis
    queue: str
    processes: Sequence[psutil.Popen]

    def prepare(self, workload: str, tasks: int) -> Callable[[], None]:
        """Check the tasks; submitting them is measured."""
        producer = self.client()
        checked = [producer.parse({"graph": workload, "input": work(number)}) for number in range(tasks)]

        def run() -> None:
            with producer, all_finish(self.rig, self.name, self.processes[0], self.redis, self.queue, tasks):
                list(producer.submit_each(checked))

        return run

    def client(self) -> Client:
        """Open a producer's client for this worker's queue."""
        return Client(self.server.url, queue=QueueSettings(queue=self.queue))


@contextmanager
def worker(
    rig: Rig, server: EmbeddedRedis, queue: str, *, processes: int = 1, checkpoints: bool = True, **environment: str
) -> Iterator[Worker]:
    """Start a worker as a user does, on a queue of its own; `environment` holds further settings."""
    environment = {
        "REDIS_URL": server.url,
        "LGRQ_QUEUE": queue,
        "LGRQ_CHECKPOINTS": str(int(checkpoints)),
        "LGRQ_BUDGET_DAILY_TOKENS": str(_TOKENS),
        **environment,
    }
    arguments = ["-m", "langgraph_rq.worker", "--config", str(LANGGRAPH_JSON), "--processes", str(processes)]
    name = f"worker-{queue}"
    with client(server) as redis, rig.process(name, *arguments, environment=environment) as process:
        rig.wait_until(name, process, lambda: registered(redis, queue) == processes)
        yield Worker(rig, name, server, redis, queue, [process])


def work(number: int) -> dict[str, str]:
    """Make the input of one task."""
    return {"question": f"What is lease number {number}?"}


def registered(redis: Redis, queue: str) -> int:
    """Count the workers of a queue, ours or RQ's."""
    return int(redis.scard(f"rq:workers:{queue}"))


@contextmanager
def all_finish(rig: Rig, name: str, process: psutil.Popen, redis: Redis, queue: str, tasks: int) -> Iterator[None]:
    """Wait until the registries that RQ and our worker share hold `tasks` more jobs, none of them failed."""
    before = _ended(redis, queue)
    yield
    rig.wait_until(name, process, lambda: sum(_ended(redis, queue)) >= sum(before) + tasks, _ASK_S)
    failed = _ended(redis, queue)[1] - before[1]
    if failed:
        raise BenchmarkError(
            f"{name}: {failed} of {tasks} tasks failed, the last one with: {_last_failure(redis, queue)}"
        )


def _last_failure(redis: Redis, queue: str) -> str:
    [job_id] = redis.zrevrange(f"rq:failed:{queue}", 0, 0)
    return redis.get(result_key(job_id)) or f"job {job_id} of stock RQ"


def _ended(redis: Redis, queue: str) -> tuple[int, int]:
    with redis.pipeline(transaction=False) as pipeline:
        for kind in _ENDED:
            pipeline.zcard(f"rq:{kind}:{queue}")
        finished, failed = pipeline.execute()
    return int(finished), int(failed)
