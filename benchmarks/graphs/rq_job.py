"""The job that stock RQ runs: its fork imports this module, and with it the graphs, anew for each job."""

import asyncio
from typing import Any

from benchmarks.graphs.workloads import Work, w, w0

_GRAPHS = {"w": w.compile(), "w0": w0.compile()}


def run(workload: str, graph_input: Work) -> Any:
    """Run one task in an event loop of its own, as synchronous workers must."""
    return asyncio.run(_GRAPHS[workload].ainvoke(graph_input))
