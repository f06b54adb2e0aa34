"""Several processes spend one budget, are killed between reserve and settle, and repeat what they sent."""

import subprocess
import sys
import time

from redis import Redis

from langgraph_rq.shared.budget.token_budget import Payer, expire_call, usage_call
from langgraph_rq.shared.connections.scripts import run_sync
from tests.programs.token_budget_spender import TTL_MS, USERS, limits_at

READERS = [None, *(Payer(user_id=user) for user in USERS)]


def test_billed_is_never_more_than_used_nor_used_and_held_more_than_the_limit(redis_url, tmp_path):
    bills, samples, charged = tmp_path / "bills", [], 0
    limits = limits_at(43_200 - int(time.time()) % 86_400)  # noon, so that no midnight falls into the test
    program = "tests.programs.token_budget_spender"
    command = [sys.executable, "-m", program, redis_url, str(bills), str(limits.utc_offset_s)]
    with Redis.from_url(redis_url) as redis, subprocess.Popen(command, stdout=subprocess.PIPE) as spenders:
        while spenders.poll() is None:
            samples += [run_sync(redis, usage_call(limits, payer=payer)) for payer in READERS]
            charged += len(run_sync(redis, expire_call(10, limits)).charged)
        killed = int(spenders.stdout.read())

        in_a_minute_ms = redis.time()[0] * 1000 + TTL_MS + 60_000
        charged += len(run_sync(redis, expire_call(1000, limits, in_a_minute_ms)).charged)
        assert spenders.returncode == 0
        assert charged >= killed > 3
        assert max(usage.tokens.held for usage in samples) > 0
        meters = [meter for usage in samples for meter in (usage.tokens, usage.cost) if meter.limit]
        assert all(meter.used + meter.held <= meter.limit for meter in meters)

        rows = [line.split() for line in bills.read_text().splitlines()]
        for payer in READERS:
            usage = run_sync(redis, usage_call(limits, payer=payer))
            billed = [row for row in rows if payer is None or row[0] == payer.user_id]
            assert (usage.tokens.held, usage.cost.held) == (0, 0)
            assert sum(int(row[1]) for row in billed) <= usage.tokens.used
            assert sum(int(row[2]) for row in billed) <= usage.cost.used
