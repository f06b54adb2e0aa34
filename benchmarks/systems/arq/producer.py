"""A producer of arq: it reads orders as `benchmarks.systems.floor` does, and prints a line when all jobs have ended."""

import asyncio
import json
import os
import sys
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name
from arq.jobs import Job

_POLL_S = 0.01
_AT_ONCE = 100


async def serve() -> None:
    """Carry out orders until standard input ends."""
    redis = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]))
    print("ready", flush=True)
    while order := await asyncio.to_thread(sys.stdin.readline):
        print(await _obey(redis, json.loads(order)), flush=True)


async def _obey(redis: ArqRedis, order: dict[str, Any]) -> str:
    inputs = order["inputs"]
    jobs: list[Job | None] = []
    for start in range(0, len(inputs), _AT_ONCE):
        batch = (redis.enqueue_job("run", order["workload"], work) for work in inputs[start : start + _AT_ONCE])
        jobs += await asyncio.gather(*batch)
    while await redis.zcard(default_queue_name):  # noqa: ASYNC110 - arq has no event for the end of a job
        await asyncio.sleep(_POLL_S)
    results = [await job.result_info() for job in jobs if job]
    failed = [result for result in results if not (result and result.success)]
    return f"{len(failed)} of {len(jobs)} jobs failed, one with: {failed[0]}" if failed else "done"


if __name__ == "__main__":
    uvloop.run(serve())
