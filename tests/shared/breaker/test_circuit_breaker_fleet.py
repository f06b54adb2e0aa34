"""The breaker between real processes: an outage of the provider, and a prober that is killed."""

import asyncio
import multiprocessing
import os
import time
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.breaker.circuit_breaker import (
    BreakerLimits,
    BreakerState,
    Outcome,
    Verdict,
    allow_call,
    read_call,
    report_call,
)
from langgraph_rq.shared.connections.scripts import run_sync
from tests.breakers import Breakers

# A server forks the processes: they start at once, and inherit nothing of this one, such as its Redis.
fleet = multiprocessing.get_context("forkserver")
fleet.set_forkserver_preload(["langgraph_rq.shared.breaker.circuit_breaker", "pytest"])

OUTAGE = BreakerLimits(window_s=0, open_s=0.2, max_open_s=0.2)
LEASE_S = 1.0
PROBING = BreakerLimits(open_s=0.001, probe_lease_s=LEASE_S)


async def call_until_told_to_stop(url):
    """Call a provider that is up until the key `down` exists; each failed call goes on record."""
    async with AsyncRedis.from_url(url) as redis:
        breaker, made = Breakers(redis, OUTAGE), 0
        while not await redis.exists("stop"):
            if await redis.exists("pause"):
                await redis.sadd("paused", os.getpid())
                await asyncio.sleep(0.005)
                continue
            token, made = f"{os.getpid()}-{made}", made + 1
            admission = await breaker.allow("x", token)
            if not admission.admitted:
                await redis.incr("refused")
                await asyncio.sleep(min(admission.wait_ms, 20) / 1000)
                continue
            down = await redis.exists("down")
            await asyncio.sleep(0.02)
            await redis.rpush(f"failed:{admission.verdict}", token) if down else await redis.incr("answered")
            await breaker.report("x", token, admission.generation, Outcome.FAIL if down else Outcome.OK)


def caller(url):
    asyncio.run(call_until_told_to_stop(url))


async def take_the_probe_and_hang(url):
    async with AsyncRedis.from_url(url) as redis:
        admission = await Breakers(redis, PROBING).allow("x", "killed")
        await redis.set("probing", admission.verdict)
        await asyncio.Event().wait()


def prober(url):
    asyncio.run(take_the_probe_and_hang(url))


@contextmanager
def processes(n, target, *arguments):
    started = [fleet.Process(target=target, args=arguments) for _ in range(n)]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()
            process.close()


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


def test_outage_costs_sixteen_processes_the_threshold_and_the_calls_in_flight_and_then_only_probes(redis, redis_url):
    def number(key):
        return int(redis.get(key) or 0)

    with processes(16, caller, redis_url) as callers:
        wait_until(lambda: number("answered") > 100)
        # The outage begins between calls: an answer from before it that is reported late ends a row of failures.
        redis.set("pause", 1)
        wait_until(lambda: redis.scard("paused") == 16)
        redis.set("down", 1)
        redis.delete("pause")
        wait_until(lambda: redis.llen("failed:probe") >= 4)
        refused = number("refused")
        wait_until(lambda: redis.llen("failed:probe") >= 6)
        redis.set("stop", 1)
        for process in callers:
            process.join()
        assert [process.exitcode for process in callers] == [0] * 16
    assert OUTAGE.failure_threshold <= redis.llen("failed:allow") < OUTAGE.failure_threshold + 16
    assert number("refused") > refused > 0
    status = run_sync(redis, read_call("x", OUTAGE))
    # Every probe opened it again: two generations each, and one for the first opening.
    assert status.generation == 1 + 2 * redis.llen("failed:probe")


def test_killed_prober_is_replaced_within_its_lease_and_half_a_second(redis, redis_url):
    def ask():
        return run_sync(redis, allow_call("x", "next", PROBING))

    run_sync(redis, report_call("x", "opens", 0, Outcome.QUOTA, PROBING))
    with processes(1, prober, redis_url) as [killed]:
        wait_until(lambda: redis.exists("probing"))
        killed.kill()
        killed.join()
    killed_at = time.monotonic()
    assert redis.get("probing") == b"probe"
    while not (admission := ask()).admitted:
        assert admission.state is BreakerState.HALF_OPEN
        time.sleep(admission.wait_ms / 1000)
    assert admission.verdict is Verdict.PROBE
    assert LEASE_S / 2 < time.monotonic() - killed_at < LEASE_S + 0.5
