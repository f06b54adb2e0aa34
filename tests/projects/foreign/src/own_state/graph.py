"""A graph that keeps its checkpoints itself, and one that does so in memory, as in a notebook."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from redis.asyncio import Redis

PREFIX = "projects_own_checkpoint"


class State(TypedDict, total=False):
    question: str
    answer: str
    asked: int


def count(state: State) -> dict[str, int]:
    return {"asked": state.get("asked", 0) + 1}


def ask(state: State) -> dict[str, Any]:
    return {"answer": interrupt(state["question"])}


builder = StateGraph(State).add_node("count", count).add_node("ask", ask)
builder.add_edge(START, "count").add_edge("count", "ask").add_edge("ask", END)

in_memory = builder.compile(checkpointer=MemorySaver())


@asynccontextmanager
async def durable() -> AsyncIterator[Any]:
    async with Redis.from_url(os.environ["REDIS_URL"]) as client:
        saver = AsyncRedisSaver(redis_client=client, checkpoint_prefix=PREFIX)
        try:
            await saver.asetup()
        except Exception:  # another process has just done so
            await saver.asetup()
        yield builder.compile(checkpointer=saver)
