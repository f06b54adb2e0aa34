"""The agent's tools."""

from collections.abc import Callable
from typing import Any

from langgraph.runtime import get_runtime

from react_agent.context import Context


async def search(query: str) -> dict[str, Any] | None:
    """Search for general web results."""
    runtime = get_runtime(Context)
    return {"query": query, "results": [f"result {n}" for n in range(runtime.context.max_search_results)]}


TOOLS: list[Callable[..., Any]] = [search]
