"""An arq worker that runs the workloads, tuned as well as we can: uvloop, one shared model client, 100 at a time."""

import asyncio
import os
from typing import Any

import uvloop
from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.systems.graphs.workloads import Work, w, w0

_GRAPHS = {"w": w.compile(), "w0": w0.compile()}


async def run(_context: dict[str, Any], workload: str, graph_input: Work) -> Any:
    """Run one task."""
    return await _GRAPHS[workload].ainvoke(graph_input)


async def _print_ready(_context: dict[str, Any]) -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    asyncio.set_event_loop(uvloop.new_event_loop())
    redis = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    Worker([run], redis_settings=redis, max_jobs=100, keep_result=3600, on_startup=_print_ready).run()
