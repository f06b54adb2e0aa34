"""The versions of a task's document: what came with which."""

from collections.abc import Mapping
from typing import Any

from langgraph_rq.shared.run_fields import StreamMode

SCHEMA = 2
"""The newest version. A worker that meets a newer one gives the task back."""

FIRST_SCHEMA = 1
"""What a task is written in that uses none of the fields which came later, so that older workers run it too."""

ADDED = (
    "command", "context", "config", "interrupt_before", "interrupt_after", "checkpoint_id", "durability",
    "stream_subgraphs", "continues", "run_at", "delay_s",
)  # fmt: skip
"""The fields that came with version 2. Null as input did, too."""

_ADDED_MODES = (StreamMode.CHECKPOINTS, StreamMode.DEBUG, StreamMode.TASKS)


def with_schema(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a document, with the newest version if workers of the first one would refuse or misread it."""
    stream = document.get("stream")
    modes = stream if isinstance(stream, list | tuple) else ()
    is_new = ("input" in document and document["input"] is None) or any(mode in modes for mode in _ADDED_MODES)
    if is_new or any(document.get(name) is not None for name in ADDED):
        return {"schema": SCHEMA, **document}
    return dict(document)
