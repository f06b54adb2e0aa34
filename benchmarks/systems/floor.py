"""The floor: the bare graph in one process, no queue. A program that `benchmarks.systems.contenders.floor` starts.

It reads orders from standard input, one JSON object a line, {"workload": "w", "inputs": [...], "concurrency": 100}, and
writes a line when an order is done. Event loop and garbage collection are the worker's, so that a ratio
compares only what is built around the graph.
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

from benchmarks.systems.graphs.workloads import Work, noop, w, w0
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.garbage_collection import tune_garbage_collection
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver


async def serve(redis_url: str | None) -> None:
    """Carry out orders until standard input ends; with a Redis, keep the same checkpoints there as a worker does."""
    async with AsyncExitStack() as stack:
        checkpointer = None
        if redis_url:
            checkpointer = ThreadSaver(await stack.enter_async_context(open_async(redis_url)))
        workloads = {"w": w, "w0": w0, "noop": noop}
        graphs = {name: workload.compile(checkpointer=checkpointer) for name, workload in workloads.items()}
        tune_garbage_collection()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            inputs, graph = iter(order["inputs"]), graphs[order["workload"]]
            runs = (_run(graph, inputs, is_durable=bool(redis_url)) for _ in range(order["concurrency"]))
            await asyncio.gather(*runs)
            print("done", flush=True)


async def _run(graph: Any, inputs: Iterator[Work], *, is_durable: bool) -> None:
    for work in inputs:
        config = {"configurable": {"thread_id": str(uuid4())}}
        await graph.ainvoke(work, config, durability="sync" if is_durable else None)


if __name__ == "__main__":
    uvloop.run(serve(os.environ.get("FLOOR_CHECKPOINTS")))
