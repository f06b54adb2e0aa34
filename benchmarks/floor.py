"""The floor: the bare graph in one process, 100 runs at a time, no queue. A program that `contenders.Floor` starts.

It reads orders from standard input, one JSON object a line, {"workload": "w", "tasks": 500}, and writes a line when an
order is done. The event loop is the worker's, so that a ratio compares what is built around the graph.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import uvloop

from benchmarks.graphs.workloads import w, w0
from shared.redis_clients import open_async
from worker.checkpoints import Checkpointer

CONCURRENCY = 100


async def serve(redis_url: str | None) -> None:
    """Obey orders until standard input ends; with a Redis, keep the same checkpoints there as a worker does."""
    async with AsyncExitStack() as stack:
        checkpointer = None
        if redis_url:
            checkpointer = Checkpointer(await stack.enter_async_context(open_async(redis_url)))
            await checkpointer.asetup()
        graphs = {"w": w.compile(checkpointer=checkpointer), "w0": w0.compile(checkpointer=checkpointer)}
        print("ready", flush=True)
        while order := await asyncio.to_thread(sys.stdin.readline):
            wanted = json.loads(order)
            tasks = iter(range(wanted["tasks"]))
            runs = (_run(graphs[wanted["workload"]], tasks, is_durable=bool(redis_url)) for _ in range(CONCURRENCY))
            await asyncio.gather(*runs)
            print("done", flush=True)


async def _run(graph: Any, tasks: Iterator[int], *, is_durable: bool) -> None:
    for number in tasks:
        config = {"configurable": {"thread_id": str(uuid4())}}
        work = {"question": f"What is lease number {number}?"}
        await graph.ainvoke(work, config, durability="sync" if is_durable else None)


if __name__ == "__main__":
    uvloop.run(serve(os.environ.get("FLOOR_CHECKPOINTS")))
