"""What the guards hold between processes that call one provider, die, and lose their Redis.

The second test's full size: `GUARDS_CHAOS_CALLS=200 python -m pytest tests/worker/test_guards_fleet.py`.
"""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from langgraph_rq.shared.breaker.circuit_breaker import read_call
from langgraph_rq.shared.budget.token_budget import expire_call, usage_call
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.programs.guarded_callers import BREAKER, NAME, budget_of
from tests.waiting import until_sync

pytestmark = pytest.mark.slow

CALLERS = 16
SPENDERS = 8
CALLS = int(os.environ.get("GUARDS_CHAOS_CALLS", "12"))
TOKENS_PER_CALL = 22
"""Of the budget; a call uses some 25 and holds about 90, so that it runs out."""
KILLS = 6 + CALLS // 6
LATENCY_S = 0.05
SLOW_S = 0.2
"""Long enough that many calls are in flight when the provider starts to fail."""
PATIENCE_S = 60 + CALLS


@contextmanager
def program(*arguments):
    command = [sys.executable, "-m", "tests.programs.guarded_callers", *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def failed_calls(llm):
    return sum(call["fault"] is not None for call in llm.calls())


@pytest.mark.timeout(180)
def test_outage_costs_sixteen_processes_the_threshold_and_the_calls_in_flight_and_then_only_probes(redis_url):
    def generation():
        status = run_sync(redis, read_call(NAME, BREAKER))
        return status.generation if status else 0

    with (
        Redis.from_url(redis_url) as redis,
        OfflineLLM(latency_s=SLOW_S) as server,
        program("outage", redis_url, server.url, CALLERS) as callers,
    ):
        llm = server.admin
        until_sync(lambda: llm.stats()["calls"] >= 2 * CALLERS, PATIENCE_S)
        # Failures take longer than answers: one from before the outage, reported late, would end a row of failures.
        llm.set_faults([{"fault": "500", "latency_s": 5 * SLOW_S}])
        until_sync(lambda: generation() >= 5, PATIENCE_S)  # opened, and two probes have failed
        callers.communicate(timeout=PATIENCE_S)
        assert callers.returncode == 0
        probes = generation() // 2
        failed = failed_calls(llm) - probes
    assert probes >= 2
    assert BREAKER.failure_threshold <= failed <= BREAKER.failure_threshold + CALLERS


@pytest.mark.timeout(600)
def test_budget_holds_and_covers_the_bill_when_processes_are_killed_and_redis_restarts():
    limits = budget_of(SPENDERS * CALLS * TOKENS_PER_CALL)
    samples, half_way, is_over = [], threading.Event(), threading.Event()
    with EmbeddedRedis() as own, OfflineLLM(latency_s=LATENCY_S) as server:

        def restart_redis():
            if half_way.wait(PATIENCE_S):
                own.kill()
                own.start()

        restarting = threading.Thread(target=restart_redis)
        restarting.start()
        arguments = (own.url, server.url, SPENDERS, CALLS, limits.daily_tokens, KILLS)
        with program("spend", *arguments) as spenders, Redis.from_url(own.url) as redis:
            while spenders.poll() is None:
                with suppress(RedisConnectionError):  # while it restarts
                    samples.append(run_sync(redis, usage_call(limits)).tokens)
                    if samples[-1].used > limits.daily_tokens / 3:
                        half_way.set()
                is_over.wait(0.01)
            killed = int(spenders.stdout.read().splitlines()[-1])
            assert spenders.returncode == 0
            half_way.set()
            restarting.join()
            left = run_sync(redis, usage_call(limits)).tokens
            in_an_hour_ms = redis.time()[0] * 1000 + 3_600_000
            charged = run_sync(redis, expire_call(10_000, limits, in_an_hour_ms)).charged
            tokens = run_sync(redis, usage_call(limits)).tokens
        stats = server.admin.stats()
    billed = sum(stats["input_tokens"].values()) + sum(stats["output_tokens"].values())
    figures = f"{killed} killed, {stats['calls']} calls, billed {billed:,}, used {tokens.used:,}"
    sys.stdout.write(f"{figures}, limit {limits.daily_tokens:,}, {len(samples):,} samples\n")
    assert killed > 2
    assert max(sample.held for sample in samples) > 0
    assert all(sample.used + sample.held <= limits.daily_tokens for sample in samples)
    assert (left.held > 0) == (len(charged) > 0)
    assert tokens.held == 0
    assert 0 < billed <= tokens.used <= limits.daily_tokens
