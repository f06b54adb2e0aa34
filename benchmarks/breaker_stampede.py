"""Sixteen processes against a provider that dies: our breaker, pybreaker and purgatory, all sharing one Redis.

Three situations, each measured in calls that reached the provider: an outage, a burst of simultaneous failures, and the
end of the open time. Then the cost: microseconds for each admission and report against a PING in the same run.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any, Protocol
from uuid import uuid4

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from rich.console import Console
from rich.table import Table

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, allow_call, report_call
from langgraph_rq.shared.connections.scripts import run, run_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

PROCESSES = 16
THRESHOLD = 5
CALL_S = 0.02
SLOW_CALL_S = 0.3
"""Long enough that calls which start together are in flight together, on a busy machine too."""
LONG_OPEN_S = 30
SHORT_OPEN_S = 2
WATCH_S = 2.0
"""How long an outage is watched: ours and pybreaker open within a tenth of it."""
PATIENCE_S = 60

fleet = multiprocessing.get_context("forkserver")
fleet.set_forkserver_preload(["rich.table", "langgraph_rq.shared.breaker.circuit_breaker"])
Provider = Callable[[], None]


class ProviderDownError(Exception):
    """The call reached the provider and failed."""


class Breaker(Protocol):
    """One library, as a process uses it: raises one of its `refusals` without calling the provider."""

    refusals: tuple[type[Exception], ...]

    def __init__(self, url: str, open_s: int) -> None: ...

    def call(self, provider: Provider) -> None:
        """Call the provider if the breaker admits it."""


class Ours:
    """This project's breaker, with the classic consecutive threshold that the others have."""

    refusals: tuple[type[Exception], ...] = (ConnectionRefusedError,)

    def __init__(self, url: str, open_s: int) -> None:
        self._redis = Redis.from_url(url)
        self._limits = BreakerLimits(failure_threshold=THRESHOLD, window_s=0, open_s=open_s, jitter=0)

    def call(self, provider: Provider) -> None:
        """Allow, call, report."""
        token = uuid4().hex
        admission = run_sync(self._redis, allow_call("provider", token, self._limits))
        if not admission.admitted:
            raise ConnectionRefusedError
        outcome = Outcome.FAIL
        try:
            provider()
            outcome = Outcome.OK
        finally:
            run_sync(self._redis, report_call("provider", token, admission.generation, outcome, self._limits))


class PyBreaker:
    """pybreaker with its Redis storage."""

    def __init__(self, url: str, open_s: int) -> None:
        pybreaker = import_module("pybreaker")
        storage = pybreaker.CircuitRedisStorage("closed", Redis.from_url(url), namespace="provider")
        self._breaker = pybreaker.CircuitBreaker(THRESHOLD, open_s, state_storage=storage)
        self.refusals: tuple[type[Exception], ...] = (pybreaker.CircuitBreakerError,)

    def call(self, provider: Provider) -> None:
        """Call through the library."""
        self._breaker.call(provider)


class Purgatory:
    """purgatory with its Redis unit of work, which is asynchronous only, on one event loop."""

    def __init__(self, url: str, open_s: int) -> None:
        purgatory = import_module("purgatory")
        work = purgatory.AsyncRedisUnitOfWork(url)
        self._factory = purgatory.AsyncCircuitBreakerFactory(THRESHOLD, open_s, uow=work)
        self._loop = asyncio.Runner()
        self._loop.run(self._factory.initialize())
        self.refusals: tuple[type[Exception], ...] = (import_module("purgatory.domain.model").OpenedState,)

    def call(self, provider: Provider) -> None:
        """Call through the library; it reads its state from Redis for each breaker it hands out."""
        self._loop.run(self._call(provider))

    async def _call(self, provider: Provider) -> None:
        async with await self._factory.get_breaker("provider"):
            provider()


LIBRARIES: dict[str, type[Breaker]] = {"langgraph-rq": Ours, "pybreaker": PyBreaker, "purgatory": Purgatory}


@dataclass(frozen=True)
class Stampede:
    """The calls that one library let through to the provider."""

    library: str
    version: str
    failed_calls: int
    """Of an outage, watched for `WATCH_S`."""
    opened_by_burst: bool
    """Whether as many failures at one moment as there are processes, three times the threshold, opened it."""
    half_open_calls: int
    """Calls in flight at once when the open time ends, of as many askers as there are processes."""
    healthy_call_us: float


@dataclass(frozen=True)
class Cost:
    """Microseconds, medians of batches that take turns."""

    transport: str
    ping_us: float
    allow_us: float
    report_us: float


def call_until_stopped(library: str, url: str) -> None:
    """Make one call after another; the provider records each call that fails."""
    breaker, redis = LIBRARIES[library](url, LONG_OPEN_S), Redis.from_url(url)

    def provider() -> None:
        time.sleep(CALL_S)
        if redis.exists("down"):
            redis.incr("failed")
            raise ProviderDownError
        if redis.incr("answered") == 10 * PROCESSES:
            redis.rpush("warm", 1)

    while not redis.exists("stop"):
        with suppress(ProviderDownError, *breaker.refusals):
            breaker.call(provider)
            continue
        time.sleep(CALL_S / 4)


def call_once_together(library: str, url: str, barrier: Barrier, open_s: int, call_s: float) -> None:
    """Wait for the others, then make one call; it fails if the provider is down when it ends."""
    breaker, redis = LIBRARIES[library](url, open_s), Redis.from_url(url)
    barrier.wait(PATIENCE_S)
    with suppress(ProviderDownError, *breaker.refusals):
        breaker.call(lambda: slow_call(redis, call_s))


def slow_call(redis: Redis, call_s: float) -> None:
    """Make a call that takes `call_s`."""
    redis.incr("reached")
    time.sleep(call_s)
    if redis.exists("down"):
        raise ProviderDownError


@contextmanager
def processes(target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run `target` in `PROCESSES` processes until they end by themselves."""
    started = [fleet.Process(target=target, args=arguments) for _ in range(PROCESSES)]
    for process in started:
        process.start()
    try:
        yield
        for process in started:
            process.join(PATIENCE_S)
            if process.exitcode != 0:
                raise RuntimeError(f"a caller ended with {process.exitcode}")
    finally:
        for process in started:
            process.kill()


def outage(library: str, url: str) -> int:
    """Let the provider die under load; count the failed calls."""
    with Redis.from_url(url, socket_timeout=PATIENCE_S) as redis:
        redis.flushall()
        LIBRARIES[library](url, LONG_OPEN_S)
        with processes(call_until_stopped, library, url):
            redis.blpop(["warm"], 0)
            redis.set("down", 1)
            time.sleep(WATCH_S)
            redis.set("stop", 1)
        return int(redis.get("failed"))


def opened_by_burst(library: str, url: str) -> bool:
    """Let all processes fail at one moment, and see whether the next call reaches the provider."""
    with Redis.from_url(url) as redis:
        redis.flushall()
        redis.set("down", 1)
        breaker = LIBRARIES[library](url, LONG_OPEN_S)
        with processes(call_once_together, library, url, fleet.Barrier(PROCESSES), LONG_OPEN_S, SLOW_CALL_S):
            pass
        reached = int(redis.get("reached"))
        with suppress(ProviderDownError, *breaker.refusals):
            breaker.call(lambda: slow_call(redis, 0))
        return int(redis.get("reached")) == reached


def half_open_calls(library: str, url: str) -> int:
    """Open it, wait for the end of the open time, and count how many of the processes get through at once."""
    with Redis.from_url(url) as redis:
        redis.flushall()
        redis.set("down", 1)
        breaker = LIBRARIES[library](url, SHORT_OPEN_S)
        for _ in range(THRESHOLD):
            with suppress(ProviderDownError, *breaker.refusals):
                breaker.call(lambda: slow_call(redis, 0))
        barrier = fleet.Barrier(PROCESSES + 1)
        with processes(call_once_together, library, url, barrier, SHORT_OPEN_S, SLOW_CALL_S):
            time.sleep(SHORT_OPEN_S + 1)
            redis.delete("down", "reached")
            barrier.wait(PATIENCE_S)
        return int(redis.get("reached"))


def healthy_call_us(library: str, url: str, calls: int = 500, batches: int = 5) -> float:
    """Measure a call through a closed breaker to a provider that costs nothing."""
    with Redis.from_url(url) as redis:
        redis.flushall()
    breaker, batch_us = LIBRARIES[library](url, LONG_OPEN_S), []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in range(calls):
            breaker.call(lambda: None)
        batch_us.append((time.perf_counter() - started) / calls * 1e6)
    return median(batch_us)


async def cost(transport: str, url: str, calls: int = 1000, batches: int = 7) -> Cost:
    """Measure the breaker as the worker uses it, asynchronously, with its default limits."""
    async with AsyncRedis.from_url(url) as redis:
        limits = BreakerLimits()
        verbs: list[Callable[[], Any]] = [
            redis.ping,
            lambda: run(redis, allow_call("provider", "token", limits)),
            lambda: run(redis, report_call("provider", "token", 0, Outcome.OK, limits)),
        ]
        batch_us: list[list[float]] = [[], [], []]
        for _ in range(batches):
            for verb, measured in zip(verbs, batch_us, strict=True):
                started = time.perf_counter()
                for _ in range(calls):
                    await verb()
                measured.append((time.perf_counter() - started) / calls * 1e6)
    return Cost(transport, *map(median, batch_us))


def installed(library: str) -> bool:
    """Return whether a library is installed."""
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


def stampede(library: str, url: str) -> Stampede:
    """Put one library through the three situations."""
    return Stampede(
        library,
        version(library),
        outage(library, url),
        opened_by_burst(library, url),
        half_open_calls(library, url),
        healthy_call_us(library, url),
    )


def tables(stampedes: list[Stampede], costs: list[Cost]) -> Iterator[Table]:
    """Lay the results out for a terminal."""
    table = Table(title=f"{PROCESSES} processes, one call at a time each, threshold {THRESHOLD}")
    for column in ("library", "failed calls in an outage", "opened by a burst", "calls let through half-open"):
        table.add_column(column)
    table.add_column("us per healthy call (sync)", justify="right")
    for row in stampedes:
        burst = "yes" if row.opened_by_burst else f"no, after {PROCESSES} failures"
        through = f"{row.half_open_calls} of {PROCESSES}"
        table.add_row(
            f"{row.library} {row.version}", str(row.failed_calls), burst, through, f"{row.healthy_call_us:.0f}"
        )
    yield table
    table = Table(title="Cost of our breaker (async), microseconds")
    for column in ("transport", "PING", "allow", "report", "pair", "allow / PING"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for price in costs:
        pair_us, ratio = price.allow_us + price.report_us, price.allow_us / price.ping_us
        numbers = [f"{us:.0f}" for us in (price.ping_us, price.allow_us, price.report_us, pair_us)]
        table.add_row(price.transport, *numbers, f"{ratio:.1f}")
    yield table


def main() -> int:
    """Run everything and print the tables, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breaker_stampede", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout instead of tables")
    options = parser.parse_args()
    missing = [library for library in LIBRARIES if not installed(library)]
    if missing:
        print(f"left out; to compare: .venv/bin/uv pip install {' '.join(missing)}", file=sys.stderr)
    with EmbeddedRedis() as unix, EmbeddedRedis(tcp=True) as tcp:
        costs = [asyncio.run(cost("unix socket", unix.url)), asyncio.run(cost("loopback TCP", tcp.url))]
        stampedes = [stampede(library, unix.url) for library in LIBRARIES if library not in missing]
    if options.json:
        print(json.dumps({"stampede": [asdict(row) for row in stampedes], "cost": [asdict(row) for row in costs]}))
        return 0
    for table in tables(stampedes, costs):
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
