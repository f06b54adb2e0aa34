"""What a client asked of a run, as the run's record keeps it (shared/queue/records.py)."""

from collections.abc import Mapping
from typing import Any

from langgraph_rq.shared.queue.records import write_about

_LONG = ("input", "command", "context", "config")
"""What may be long of `kwargs`."""


def about_run(record: Mapping[str, Any]) -> bytes:
    """Write {graph, metadata, kwargs, multitask_strategy}; of a long one what may be long is left out."""
    short = {name: value for name, value in record["kwargs"].items() if name not in _LONG}
    return write_about(record) or write_about({**record, "kwargs": short}) or write_about({"graph": record["graph"]})
