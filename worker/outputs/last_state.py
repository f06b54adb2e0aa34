"""Read the state that a run which failed has left: what its finished steps made is not lost with it."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.outputs.json_values import as_json

_TIMEOUT_S = 5.0
"""A failure is reported without its state after this time."""

_log = get_logger(__name__)


async def read_last_state(
    opening: AbstractAsyncContextManager[Any], config: RunnableConfig, task: str
) -> tuple[Any, str]:
    """Return the state after the last step as JSON, and the nodes that were to run then.

    Never raises: whatever prevents the reading, the task ends.

    Args:
        opening: Opens the graph of the run, with its checkpointer.
        config: Of its thread.
        task: Its task, by its id in Redis. (None, "") is returned if the thread's newest checkpoint is another task's.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S), opening as opened:
            state = await opened.graph.aget_state(config)
    except Exception as error:
        _log.warning("last_state.not_read", error=type(error).__name__)
        return None, ""
    if not state.metadata or state.metadata.get("task_id") != task:
        return None, ""
    return as_json(state.values), ", ".join(state.next)
