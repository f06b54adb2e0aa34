"""The job that stock RQ runs; importing this module imports the graphs, which RQ's fork does anew for each job."""

import asyncio
from functools import cache
from typing import Any

import uvloop

from benchmarks.systems.graphs.workloads import Work, w, w0

_GRAPHS = {"w": w.compile(), "w0": w0.compile()}


@cache
def _loop() -> asyncio.Runner:
    """Keep one event loop per process: the shared model client is bound to it."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run(workload: str, graph_input: Work) -> Any:
    """Run one task to its end, as synchronous workers must."""
    return _loop().run(_GRAPHS[workload].ainvoke(graph_input))
